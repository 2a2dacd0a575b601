"""Importing what people have: texts that compile to the same outputs, and what has no words."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import modnorm
from modnorm.kernels.weight import Weight
from tests.zoo import ZOO, Entry

UNSAID = {
    "falcon_rw": "a tensor of constants that is added to attention's logits",
    "mixtral": "topk has no counterpart in the language",
    "qwen3_moe": "topk has no counterpart in the language",
    "mamba": "a product with a tensor that no input changes",
    "t5": "rows of a table that are picked by constants",
    "beit": "rows of a table that are picked by constants",
    "swin": "roll has no counterpart in the language",
    "efficientnet": "pad has no counterpart in the language",
    "clip": "argmax has no counterpart in the language",
    "weight_norm": "a weight is computed from parameters, as a weight norm is",
    "weight_norm_old": "a weight is computed from parameters, as a weight norm is",
    "dlrm": "entries are taken in irregular steps",
    "dit": "mul with a tensor of constants",
}
"""Models with parts that the language has no words for: what is said of one of them."""
SAID = [name for name in ZOO if name not in UNSAID]
SUMMED = {"lstm": 8, "gru": 2}
"""How many biases of a recurrent layer are added to another, so that the text has one for both."""
UNREACHED = {"opt": ("row_rms", (42, 48), (40, 48))}
"""Tables of which the text leaves out rows that no input reaches."""
UNCUT = {"lora"}
"""Features are cut behind a sum of two matrices': the text has these whole, adopting cuts them."""


def call(entry: Entry) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example of inference: without labels, from which models make a loss."""
    args, kwargs = entry.example()
    labels = kwargs.pop("labels", None)
    if entry in (ZOO["t5"], ZOO["whisper"]):
        kwargs["decoder_input_ids"] = labels
    return args, kwargs


def moved(entry: Entry) -> nn.Module:
    """The model, none of whose weights is as it began: each has entries of its own."""
    model = entry.build()
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        for x in model.parameters():
            x.add_(0.05 * torch.rand_like(x))
    return model


class Imported:
    def __init__(self, name: str) -> None:
        self.entry = ZOO[name]
        if self.entry.needs is not None:
            pytest.importorskip(self.entry.needs)
        self.name, self.model, self.call = name, moved(self.entry), call(self.entry)
        self.module = modnorm.load(modnorm.import_model(self.model, self.call, name="Net"))
        self.other = self.module.Net()
        self.other.load_checkpoint(self.model.state_dict())


@pytest.fixture(params=SAID, scope="module")
def imported(request: pytest.FixtureRequest) -> Imported:
    return Imported(request.param)


def test_outputs(imported: Imported) -> None:
    args, kwargs = imported.call
    x = {**dict(enumerate(args)), **kwargs}
    named = {entry.name for entry in imported.module.INPUTS}
    given = [v for k, v in x.items() if k in named or isinstance(k, int)]
    with torch.no_grad():
        found = imported.other.eval()(*given)
        wanted = imported.model.eval()(*args, **kwargs)
    out = wanted if isinstance(wanted, Tensor) else tree_flatten(wanted)[0][0]
    assert (found - out).abs().max() <= 1e-5 * out.abs().max()


def test_weights_are_those_of_adopting(imported: Imported) -> None:
    """Each logical weight has the norm and the shape that adopting finds for it; matrices and
    tables hold the same entries of the checkpoint."""
    plan = modnorm.adopt(imported.model, imported.call, plan_only=True)
    if imported.name in UNCUT:
        matrices = [Counter(w.norm for w in of for _ in range(math.prod(w.shape)) if w.target)
                    for of in (plan, imported.module.PLAN)]  # fmt: skip
        assert matrices[0] == matrices[1]
        return
    adopted = Counter(map(kind, plan))
    if imported.name in UNREACHED:
        norm, before, after = UNREACHED[imported.name]
        adopted[norm, before] -= 1
        adopted[norm, after] += 1
    trained = [w for w in imported.module.PLAN if w.target]
    compiled = Counter(map(kind, trained))
    assert not compiled - adopted
    assert sum((adopted - compiled).values()) == SUMMED.get(imported.name, 0)
    own, others = imported.model.state_dict(), imported.other.state_dict()
    wanted = Counter(entries(w, own) for w in plan if is_wide(w))
    found = Counter(entries(w, others) for w in trained if is_wide(w))
    if imported.name not in UNREACHED:
        assert found == wanted


def kind(weight: Weight) -> tuple[str, tuple[int, ...]]:
    return weight.norm, weight.shape


def is_wide(weight: Weight) -> bool:
    return len(weight.shape) > 1


def entries(weight: Weight, state: dict[str, Tensor]) -> tuple[float, ...]:
    """The entries of a weight in a checkpoint, whatever their order."""
    stored = state[weight.layout.parameter if weight.layout else weight.name]
    return tuple(weight.cut(stored).flatten().sort().values.tolist())


@pytest.mark.parametrize("name", UNSAID)
def test_what_has_no_words_is_listed(name: str) -> None:
    if ZOO[name].needs is not None:
        pytest.importorskip(str(ZOO[name].needs))
    with pytest.raises(modnorm.ImportFailed, match=re.escape(UNSAID[name])) as caught:
        modnorm.import_model(moved(ZOO[name]), call(ZOO[name]))
    assert caught.value.parts
