"""A compiled model whose plan is forgotten, and that is adopted as one written in PyTorch."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import modnorm
from modnorm.kernels.weight import Weight

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = {path.stem: path for folder in ("", "architectures")
         for path in (EXAMPLES / folder).glob("*.mod")}  # fmt: skip
SMALL: dict[str, dict[str, int]] = {
    "gpt": {"vocab": 17, "context": 12, "d_embed": 16, "heads": 4, "blocks": 2},
    "rescnn": {"width": 6, "blocks": 2, "size": 6},
}
LARGE = {"gpt_certified", "convnext", "audio"}
"""Slow for what they would add."""
EXACT = {
    "dit", "encoder_decoder", "gemma2", "llama", "looped", "lora", "mixer", "nanogpt", "qwen3",
    "rescnn", "resmlp", "resnet18", "unet",
}  # fmt: skip
"""Files of which every target is the compiled one. In others scans, mixtures and picks from tuples
are functions of their own to the compiler, and to PyTorch many operations; a learned tensor that is
added counts as a sum of the stream or not, by how it is written; of gpt factors were moved past the
weights that come after them."""
ROLES = {
    "Linear": {"matrix", "readout", "router"}, "HeadedLinear": {"matrix"}, "Bias": {"bias"},
    "Scale": {"gain"}, "Embed": {"table", "tied"}, "ExpertLinear": {"experts"},
    "Conv1D": {"conv", "taps"}, "Conv2D": {"conv", "taps", "readout"}, "Readout": {"readout"},
    "ConvTranspose2D": {"conv"}, "Parameter": {"vector"},
}  # fmt: skip


def built(name: str) -> tuple[Any, nn.Module, tuple[Any, ...]]:
    """A file's generated module, its model, and an example."""
    module, draw = modnorm.load(FILES[name], **SMALL.get(name, {})), torch.Generator()
    example = []
    for entry in module.INPUTS:
        shape = [size if isinstance(size, int) else {"batch": 2}.get(size, 8)
                 for size in entry.shape]  # fmt: skip
        if entry.dtype == "int":
            bound = entry.bound if isinstance(entry.bound, int) else 8
            example.append(torch.randint(bound, shape, generator=draw))
        else:
            example.append(torch.randn(shape, generator=draw))
    return module, getattr(module, module.MODEL)(generator=draw), tuple(example)


def entries(w: Weight, model: nn.Module) -> tuple[str, int, int, int]:
    """Which entries a weight has: its parameter, their number, first and sum."""
    name = w.layout.parameter if w.layout else w.name
    p = dict(model.named_parameters())[name]
    numbers = w.cut(torch.arange(p.numel()).view(p.shape))
    return name, numbers.numel(), int(numbers.min()), int(numbers.sum())


@pytest.mark.parametrize("name", sorted(FILES.keys() - LARGE))
def test_what_was_compiled_is_found_again(name: str) -> None:
    module, model, example = built(name)
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    compiled = {
        key: w for w in module.PLAN if (key := entries(w, model))[0] in trained and w.target
    }
    options: Any = {"plan_only": True, "sensitivity": "declared"}
    adopted = {entries(w, model): w for w in modnorm.adopt(model, example, **options)}
    assert adopted.keys() == compiled.keys()
    for key, w in compiled.items():
        assert adopted[key].norm == w.norm, w.name
        assert adopted[key].role in ROLES[w.atom], w.name
    masses = {adopted[key].name: w.mass for key, w in compiled.items()}
    again = modnorm.adopt(model, example, masses=masses, **options)
    found = {entries(w, model): w.target for w in again}
    ratios = {w.name: found[key] / w.target for key, w in compiled.items()}
    if name in EXACT:
        wanted = statistics.median(ratios.values())
        assert ratios == pytest.approx(dict.fromkeys(ratios, wanted), rel=1e-6)
