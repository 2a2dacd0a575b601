"""`modnorm import`, up to what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modnorm.adopting.command import made, model_of
from modnorm.importing.options import ImportOptions
from modnorm.importing.problems import ImportFailed
from modnorm.measure.interface import torch_at_hand

HF = "hf:"
"""What stands before the path of a configuration of transformers."""


def imported(name: str, options: ImportOptions) -> str:
    """The text of the model that `module:function` returns, or of a configuration.

    Raises ImportFailed, AuditError and DataError.
    """
    with torch_at_hand():
        from modnorm.importing.interface import import_model

        hf = name.startswith(HF)
        model = configured(Path(name.removeprefix(HF))) if hf else model_of(name)
        try:
            return import_model(model, example_of(model, options))
        except ValueError as error:
            raise ImportFailed(str(error)) from error


def configured(path: Path) -> Any:
    """A model by the configuration of a family that transformers has; no other code is run."""
    try:
        given = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ImportFailed(f"{path} is no configuration: {error}") from error
    try:
        import transformers
    except ImportError as error:
        raise ImportFailed("hf: needs transformers: pip install transformers") from error
    kind = str(given.get("model_type")) if isinstance(given, dict) else ""
    if kind not in transformers.CONFIG_MAPPING:
        raise ImportFailed(
            f"{path} has the model_type {kind!r}, which this transformers does not know"
        )
    config = transformers.CONFIG_MAPPING[kind].from_dict(given)
    names = given.get("architectures") or []
    found = getattr(transformers, names[0], None) if names else None
    if found is None:
        raise ImportFailed(f"{path} names no class of transformers in `architectures`")
    config.use_cache = False
    return found(config)


def example_of(model: Any, options: ImportOptions) -> Any:
    """What the model is called with."""
    if options.example is not None:
        return made(options.example)
    example = getattr(model, "dummy_inputs", None)
    if example is None:
        raise ImportFailed(
            f"{type(model).__name__} has no dummy_inputs to call it with: give --example "
            "MODULE:FUNCTION, a function that returns its input"
        )
    return example
