"""A warning about pixels that are left in a model's output, where a vector was probably meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from modnorm.diagnostics import Diagnostic, Diagnostics
from modnorm.graph.modules import Leaf, Module, children
from modnorm.ops.edges import slots
from modnorm.ops.types import Tensor, Type
from modnorm.passes.program import Program


@dataclass(frozen=True)
class PixelsLeft:
    """Warn where an operation works along an image's width, and its height is in the output; or
    along the length of a signal, and its channels are.
    """

    name: ClassVar[str] = "pixels left"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        left = [type for type in slots(program.types[program.tree.id][1]) if _is_left(type)]
        leaf = _origin(program, program.tree) if left else None
        if leaf is not None:
            along, still, what = "width of an image", "pixels", "image first"
            if "map" in left[0].roles:
                along, still, what = "length of a signal", "its channels", "signal first"
            means = "pixels" if still == "pixels" else "its length"
            diagnostics.add(
                Diagnostic(
                    "W608",
                    f"`{leaf.op.label}` works along the {along}, and the model's output"
                    f" {left[0]} still has {still}",
                    leaf.span,
                    hint=f"make a vector of the {what}: `{leaf.op.label}(…) @ Flatten`, or"
                    f" `{leaf.op.label}(…) @ Flatten @ AdaptiveAvgPool` for its mean over {means}",
                )
            )
        return program

    def verify(self, program: Program) -> None:
        pass


def _is_left(type: Tensor) -> bool:
    """Whether there are pixels along some axis, or a signal's channels, but vectors last."""
    return "map" in type.roles or ("space" in type.roles and type.roles[-1] != "space")


def _origin(program: Program, module: Module) -> Leaf | None:
    """The operation that left pixels of an image in the output of a part."""

    def left(type: Type) -> bool:
        return any(map(_is_left, slots(type)))

    for part in reversed(children(module)):
        into, out = program.types[part.id]
        if left(out) and not left(into):
            return _origin(program, part)
    into, out = program.types[module.id]
    return module if isinstance(module, Leaf) and _pixels(out) < _pixels(into) else None


def _pixels(type: Type) -> int:
    """Along how many axes there are pixels; what only turns an image has as many as before."""
    return sum(tensor.roles.count("space") for tensor in slots(type))
