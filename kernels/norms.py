"""The norms' classes by the names that plans give them, for optimizers outside a generated file."""

from __future__ import annotations

from importlib import import_module

from . import SECTIONS
from .plan import Norm

NORMS: dict[str, type[Norm]] = {
    section.norm: getattr(import_module(f"{__package__}.{section.name}"), section.norm_class)
    for section in SECTIONS
    if section.norm is not None and section.norm_class is not None
}
