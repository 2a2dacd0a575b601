"""Compiles what was written, and compares what it gives with what the model gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from modnorm.adopting.trace import called, named_tensors
from modnorm.codegen.assemble import generate
from modnorm.codegen.imports import import_source
from modnorm.diagnostics import ModnormError
from modnorm.importing.problems import ImportFailed
from modnorm.pipeline import ANALYSIS, analyse_text

CLOSE = 1e-5
"""Difference of outputs, in proportion to the largest, that is put down to rounding."""


def compiled(text: str) -> ModuleType:
    """The generated module of a text. Raises ImportFailed where it does not compile."""
    try:
        analysis = analyse_text(text, "imported.mod", passes=ANALYSIS)
    except ModnormError as error:
        raise ImportFailed(
            f"the text that was written does not compile:\n{error}\n{text}"
        ) from error
    return import_source(generate(analysis.program), "imported")


def compare(
    made: nn.Module, model: nn.Module, example: Any, read: Mapping[str, int], names: list[str]
) -> str:
    """Where two models' outputs differ; "" where they do not.

    read: of each input of the first, which tensor of the example it is. names: of outputs.
    """
    leaves = [x for x in tree_flatten(example)[0] if isinstance(x, Tensor)]
    with torch.no_grad():
        outputs = dict(named_tensors(called(model, example)))
        found = made.eval()(*(leaves[number] for number in read.values()))
    ours = found if isinstance(found, tuple) else (found,)
    for name, mine in zip(names, ours, strict=True):
        wanted = outputs[name]
        if mine.shape != wanted.shape:
            return f"{name} has the shape {tuple(mine.shape)}, not {tuple(wanted.shape)}"
        size = float(wanted.abs().max())
        far = (mine - wanted).abs() > CLOSE * max(size, 1e-30)
        far |= ~torch.isfinite(mine) & torch.isfinite(wanted)
        if bool(far.any()):
            at = tuple(int(i) for i in far.nonzero()[0])
            return (
                f"{name}{list(at)} is {float(mine[at]):.6g}, not {float(wanted[at]):.6g}, and"
                f" {int(far.sum())} of {far.numel()} entries differ"
            )
    return ""
