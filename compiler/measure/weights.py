"""The generated model and its weights: fresh ones on the unit ball's surface, or a checkpoint's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import ModuleType
from typing import Any

import torch

from modnorm.codegen.assemble import generate
from modnorm.codegen.imports import import_source
from modnorm.codegen.plan import Record, records
from modnorm.kernels.weight import Weight, plan_names
from modnorm.measure.problems import CheckError, some
from modnorm.measure.seal import Broken, is_sealed
from modnorm.passes.program import Program
from modnorm.report.output import is_special

HOLDERS = ("model", "state_dict")
"""Keys under which training scripts keep a state dict."""


def compiled(program: Program) -> ModuleType:
    """The module that a program compiles to, for running on a CPU; named after its file.

    Raises:
        ImportError: if torch is not installed.
    """
    stem = PurePath(program.source.name).stem.strip("<>")
    return import_source(generate(program, "cpu"), stem)


def build(module: ModuleType, seed: int) -> torch.nn.Module:
    """The generated model in float64, with weights drawn by a seed."""
    made: torch.nn.Module = getattr(module, module.MODEL)(
        dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return made


def values(program: Program, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's state, with weights that share a parameter under the names of their records."""
    found: dict[str, torch.Tensor] = model.state_dict()
    for record in records(program):
        if record.weight.stored and (layout := record.layout):
            whole, shape = found[record.parameter], record.weight.op.weight_shape
            found[record.name] = layout.view(whole).reshape(shape)
    return found


@torch.no_grad()
def norms(plan: Sequence[Record], weights: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The exact norm of every weight by its name, in execution order; its ball's radius is 1."""
    return {r.name: float(r.weight.op.weight_norm(weights[r.name].double())) for r in plan}


def load(path: str, model: torch.nn.Module) -> None:
    """Give a model the weights of a checkpoint: a state dict, or a dict that holds one.

    Raises:
        CheckError: if the file cannot be read, or does not fit the model, with every name that does
            not.
    """
    found = _state_dict(path)
    own = model.state_dict()
    known = [Weight(name, "", (), "", 0.0, 0.0) for name in own]  # only names are looked at
    names = plan_names(list(found), known)  # by the rule of the optimizers
    named = dict(zip(names, found.values(), strict=True))
    missing = [name for name in own if name not in named]
    unknown = [name for name in named if name not in own]
    twice = [name for name, count in Counter(names).items() if count > 1]
    odd = [
        f"{name} {tuple(named[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in named and named[name].shape != own[name].shape
    ]
    complaints = {
        "it has {} more than once, under names of wrappers": twice,
        "it lacks {}": missing,
        "it has {}, which the model has not": unknown,
        "these have other shapes: {}": odd,
    }
    wrong = [said.format(some(names)) for said, names in complaints.items() if names]
    if wrong:
        raise CheckError(f"the checkpoint `{path}` does not fit the model: {'; '.join(wrong)}")
    broken = [name for name, tensor in named.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise CheckError(f"the checkpoint `{path}` holds NaN or infinity in {some(broken)}")
    model.load_state_dict(named)


def _state_dict(path: str) -> dict[str, torch.Tensor]:
    if is_special(path):
        raise CheckError(f"cannot read the checkpoint `{path}`: it is no ordinary file")
    try:
        with open(path, "rb") as file:
            is_sealed(file)
            file.seek(0)
            found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Broken as error:
        raise CheckError(f"the checkpoint `{path}` is damaged: {error}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckError(f"cannot read the checkpoint `{path}`: {reason}") from None
    except Exception as error:  # what is no checkpoint fails in whatever way its bytes lead to
        raise CheckError(
            f"cannot read the checkpoint `{path}`: it is no file of tensors that torch.save wrote"
        ) from error
    for key in HOLDERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        for name, tensor in found.items()
    ):
        raise CheckError(
            f"the checkpoint `{path}` holds no state dict: save `model.state_dict()`, alone or in a"
            " dict under `model` or `state_dict`"
        )
    odd = [n for n, t in found.items() if t.is_meta or t.layout is not torch.strided]
    if odd:
        raise CheckError(
            f"the checkpoint `{path}` has {some(odd)} as sparse tensors or without values: save"
            " dense ones, of a model that is in memory"
        )
    return found
