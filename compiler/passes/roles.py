"""Warnings about axes: what an operation takes an axis for, against what made the value.

A value of four axes is an image (batch, channels, h, w) or has its channels along the last axis; a
walk over the tree follows which. Nothing is said where it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from modnorm.diagnostics import Diagnostic, Diagnostics, Label
from modnorm.graph.modules import (
    Compose,
    Leaf,
    Module,
    Repeat,
    Scope,
    Shared,
    Tare,
    Tuple,
    walk,
)
from modnorm.ops.types import Symbol, Tensor, TupleType, Type
from modnorm.passes.program import ModelInput, Program

IMAGE, LAST = 1, -1
"""Where channels are."""


@dataclass(frozen=True)
class Role:
    """Where a value has its channels: IMAGE, LAST, or None where it is not known.

    `made` is the operation that put them there. `over` is one that worked along the last axis of
    what was an image, its width, and left the pixels.
    """

    channels: int | None = None
    made: Leaf | None = None
    over: Leaf | None = None


Roles: TypeAlias = "Role | tuple[Roles, ...]"
"""The role of a value; for a tuple, that of every member."""


@dataclass(frozen=True)
class AxisRoles:
    """Examples that are mixed, values taken for images, and pixels left in the output."""

    name: ClassVar[str] = "axis roles"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        _Walk(program, diagnostics).model()
        return program

    def verify(self, program: Program) -> None:
        pass


class _Walk:
    def __init__(self, program: Program, diagnostics: Diagnostics) -> None:
        self.program, self.diagnostics = program, diagnostics
        self.batch = {
            i.type.shape[0]
            for i in program.inputs
            if len(i.type.shape) > 1 and isinstance(i.type.shape[0], Symbol)
        }

    def model(self) -> None:
        for leaf in walk(self.program.tree):
            if isinstance(leaf, Leaf):
                self.leaf(leaf, self.program.types[leaf.id][0])
        inputs = tuple(map(_role, self.program.inputs))
        out = self.follow(self.program.tree, inputs[0] if len(inputs) == 1 else inputs)
        for role, type in _paired(out, self.program.types[self.program.tree.id][1]):
            if role.over is not None and len(type.shape) >= 4:
                self.pixels(role.over, type)

    # -- what one operation says -------------------------------------------------------------

    def leaf(self, leaf: Leaf, x: Type) -> None:
        for code, message, hint in leaf.op.cautions(x):
            self.diagnostics.add(Diagnostic(code, message, leaf.span, hint=hint))
        if isinstance(x, Tensor) and 0 in leaf.op.along(x) and x.shape[0] in self.batch:
            self.diagnostics.add(
                Diagnostic(
                    "W606",
                    f"`{leaf.op.label}` works along axis 0 of {x}, `{x.shape[0]}`: it mixes the"
                    " examples of a batch",
                    leaf.places.get("dim", leaf.span),
                    hint="what an example gives then depends on the others; axes of one example"
                    " begin at 1",
                )
            )

    # -- where channels are ------------------------------------------------------------------

    def follow(self, module: Module, x: Roles) -> Roles:
        """The role of a module's output, for an input of a role."""
        match module:
            case Leaf():
                return self.through(module, x)
            case Compose(steps=steps):
                for step in steps:
                    x = self.follow(step, x)
                return x
            case Tuple(members=members):
                return tuple(self.follow(member, x) for member in members)
            case Repeat(runs=runs):
                for run in runs:
                    x = self.follow(run.body, x)
                return x
            case Scope(body=body) | Shared(body=body) | Tare(body=body):
                return self.follow(body, x)
        return Role()

    def through(self, leaf: Leaf, x: Roles) -> Roles:
        type, out = self.program.types[leaf.id]
        given = [role for role, _ in _paired(x, type)]
        if leaf.op.takes_images and isinstance(type, Tensor) and len(type.shape) == 4:
            for role in given:
                self.taken(leaf, role, type)
        if isinstance(out, TupleType):
            if leaf.op.channels is None:
                return x
            return tuple(Role(leaf.op.channels, leaf) for _ in out.members)
        if leaf.op.picks is not None:
            return x[leaf.op.picks] if isinstance(x, tuple) else Role()
        if len(out.shape) < 4 or not given:
            return Role()
        over = next((role.over for role in given if role.over is not None), None)
        if leaf.op.channels is None:
            alike = len({role.channels for role in given}) == 1
            return replace(given[0] if alike else Role(), over=over)
        if leaf.op.channels == IMAGE:
            return Role(IMAGE, leaf)
        if any(role.channels == IMAGE for role in given):
            over = over or leaf
        return Role(LAST, leaf, over)

    def taken(self, leaf: Leaf, role: Role, x: Tensor) -> None:
        if role.channels != LAST:
            return
        by = role.made
        hint = "it needs images: (batch, channels, height, width)"
        if leaf.op.channels is None:
            hint = (
                f"`{leaf.op.label}` takes the last axis of values of two or three axes: put it"
                " where there are so many, such as before `SplitHeads`"
            )
        self.diagnostics.add(
            Diagnostic(
                "W607",
                f"`{leaf.op.label}` takes {x} for images, with {x.shape[1]} channels along axis 1",
                leaf.span,
                others=() if by is None else (Label(by.span, "this gives channels along axis 3"),),
                hint=hint,
            )
        )

    def pixels(self, leaf: Leaf, type: Tensor) -> None:
        self.diagnostics.add(
            Diagnostic(
                "W608",
                f"`{leaf.op.label}` works along the width of an image, and the model's output"
                f" {type} still has pixels",
                leaf.span,
                hint=f"make a vector of the image first: `{leaf.op.label}(…) @ Flatten`, or"
                f" `{leaf.op.label}(…) @ Flatten @ AdaptiveAvgPool` for its mean over pixels",
            )
        )


def _role(given: ModelInput) -> Role:
    """The role of an input: an image where its sides are alike, or both are free."""
    type = given.type
    if len(type.shape) != 4 or type.dtype != "float":
        return Role()
    height, width = type.shape[2:]
    if isinstance(height, Symbol) != isinstance(width, Symbol):
        return Role(LAST)
    return Role(IMAGE) if isinstance(height, Symbol) or height == width else Role()


def _paired(roles: Roles, type: Type) -> list[tuple[Role, Tensor]]:
    """The tensors of a value with their roles, a tuple's members flattened."""
    if isinstance(type, Tensor):
        return [(Role() if isinstance(roles, tuple) else roles, type)]
    members = roles if isinstance(roles, tuple) else (roles,) * len(type.members)
    return [p for r, t in zip(members, type.members, strict=True) for p in _paired(r, t)]
