"""`modnorm import`, up to what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modnorm.adopting.command import example_of, model_of
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
            return import_model(model, example_of(model, options.example))
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
    names = given.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    found: Any = getattr(transformers, name, None) if name else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ImportFailed(f"{path} names no model of transformers in `architectures`")
    config.use_cache = False
    return found(config)
