"""`modnorm audit`, up to what is printed."""

from __future__ import annotations

from typing import Any

from modnorm.adopting.options import AuditOptions
from modnorm.adopting.problems import AuditError
from modnorm.data.functions import named, told
from modnorm.measure.interface import torch_at_hand


def made(name: str, *arguments: object) -> Any:
    """What a function `module:function` returns. Raises AuditError where it raises anything."""
    function, file = named(name)
    try:
        return function(*arguments)
    except Exception as error:  # whatever a stranger's function raises
        raise AuditError(f"{name} raised {told(error, file)}") from error


def model_of(name: str) -> Any:
    from torch import nn

    model = made(name)
    if not isinstance(model, nn.Module):
        raise AuditError(f"{name} returned {type(model).__name__}, which is no torch.nn.Module")
    return model


def example_of(model: Any, function: str | None) -> Any:
    """What the model is called with: what a function returns, or else its dummy_inputs."""
    if function is not None:
        return made(function)
    example = getattr(model, "dummy_inputs", None)
    if example is None:
        raise AuditError(
            f"{type(model).__name__} has no dummy_inputs to call it with: give --example "
            "MODULE:FUNCTION, a function that returns its input"
        )
    return example


def mended_file(name: str, options: AuditOptions) -> str:
    """What --fix prints. Raises AuditError and DataError."""
    with torch_at_hand():
        from modnorm.adopting.mend import mended

        assert options.fix is not None
        model = model_of(name)
        other = None if options.other is None else model_of(options.other)
        example = None if options.fix == "mup" else example_of(model, options.example)
        return mended(options.fix, model, example, other)


def audited(name: str, options: AuditOptions) -> Any:
    """The audit of what functions return. Raises AuditError and DataError."""
    assert options.optimizer is not None
    with torch_at_hand():
        from modnorm.adopting.audit import audit

        model = model_of(name)
        optimizer = made(options.optimizer, model)
        other = None
        if options.other is not None:
            second = model_of(options.other)
            other = second, made(options.optimizer, second), example_of(second, options.example)
        return audit(model, optimizer, example_of(model, options.example), other=other)
