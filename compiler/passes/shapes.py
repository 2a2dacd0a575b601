"""Shapes and dtypes: the type of every value, and the sizes that follow from the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from modnorm.diagnostics import Diagnostic, Diagnostics, Label
from modnorm.graph.modules import (
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Run,
    Scope,
    Shared,
    Tare,
    Tuple,
    walk,
)
from modnorm.ops.base import Atom, Misfit
from modnorm.ops.types import Tensor, TupleType, Type
from modnorm.passes.program import Program


@dataclass(frozen=True)
class Known:
    """A type, and the place that last changed it; for a tuple, the same of every member."""

    type: Type
    made: Label | None
    members: tuple[Known, ...] = ()


class _Inference:
    def __init__(self, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics
        self.types: dict[int, tuple[Type, Type]] = {}
        self.scopes: list[Scope] = []
        self.shared: dict[str, tuple[Leaf, Type]] = {}

    def infer(self, module: Module, x: Known | None) -> tuple[Module, Known | None]:
        """The module with resolved operations, and its output; None where a mistake hides it."""
        result, out = self.inner(module, x)
        if x is not None and out is not None:
            self.types[module.id] = (x.type, out.type)
        return result, out

    def inner(self, module: Module, x: Known | None) -> tuple[Module, Known | None]:
        match module:
            case Leaf():
                return self.leaf(module, x)
            case Hole():
                return module, None
            case Compose(steps=steps):
                done: list[Module] = []
                for step in steps:
                    new, x = self.infer(step, x)
                    done.append(new)
                return replace(module, steps=tuple(done)), x
            case Tuple(members=members):
                pairs = [self.infer(member, x) for member in members]
                new_members = tuple(m for m, _ in pairs)
                outs = [out for _, out in pairs if out is not None]
                if len(outs) < len(pairs):
                    return replace(module, members=new_members), None
                type = TupleType(tuple(o.type for o in outs))
                return replace(module, members=new_members), Known(type, None, tuple(outs))
            case Scope(body=body):
                self.scopes.append(module)
                new, out = self.infer(body, x)
                self.scopes.pop()
                return replace(module, body=new), out
            case Shared(body=body) | Tare(body=body):
                new, out = self.infer(body, x)
                return replace(module, body=new), out
            case Repeat():
                return self.repeat(module, x)

    def leaf(self, leaf: Leaf, x: Known | None) -> tuple[Module, Known | None]:
        if x is None:
            return leaf, None
        try:
            op, type = leaf.op.resolve(x.type)
        except Misfit as misfit:
            others = tuple(k.made for k in (x, *x.members) if k.made is not None)
            use = next((s for s in reversed(self.scopes) if s.kind == "def"), None)
            if use is not None and use.span not in [o.span for o in others]:
                others = (*others, Label(use.span, f"in this use of `{use.name}`"))
            self.diagnostics.add(
                Diagnostic(
                    misfit.code,
                    misfit.message,
                    leaf.span,
                    others=others,
                    hint=misfit.hint,
                )
            )
            return leaf, None
        resolved = replace(leaf, op=op)
        if isinstance(op, Atom):
            self.agree(resolved, x.type)
        # what keeps the shape of its input, or joins members of that shape, did not make it
        for known in (x, *x.members):
            if _shape(known.type) == _shape(type) and known.made is not None:
                return resolved, replace(known, type=type)
        members: tuple[Known, ...] = ()
        label = Label(leaf.span, f"this gives {type}")
        if isinstance(type, TupleType):
            members = tuple(Known(member, label) for member in type.members)
        return resolved, Known(type, label, members)

    def agree(self, leaf: Leaf, x: Type) -> None:
        """A shared weight has one shape wherever it is used."""
        assert isinstance(leaf.op, Atom)
        first, type = self.shared.setdefault(leaf.path, (leaf, x))
        if isinstance(first.op, Atom) and first.op.weight_shape != leaf.op.weight_shape:
            self.diagnostics.add(
                Diagnostic(
                    "E401",
                    f"the shared weight `{leaf.path}` would have to be {first.op.weight_shape}"
                    f" for one input, {type}, and {leaf.op.weight_shape} for another, {x}",
                    leaf.span,
                    hint="share it only between inputs of the same size",
                )
            )

    def repeat(self, module: Repeat, x: Known | None) -> tuple[Module, Known | None]:
        runs: list[Run] = []
        entered = x
        for run in module.runs:
            body, out = self.infer(run.body, x)
            runs.append(replace(run, body=body))
            if (
                x is not None
                and out is not None
                and (run.count > 1 or len(module.runs) > 1)
                and _shape(x.type) != _shape(out.type)
                and run.count > 1
            ):
                self.diagnostics.add(
                    Diagnostic(
                        "E403",
                        f"what is repeated {run.count} times turns {x.type} into {out.type}",
                        run.body.span,
                        others=() if out.made is None else (out.made,),
                        hint="a repeated module must give back the shape that it takes",
                    )
                )
                out = None
            x = out
        if x is not None and entered is not None and _shape(x.type) == _shape(entered.type):
            x = replace(entered, type=x.type)
        return replace(module, runs=tuple(runs)), x


def _shape(type: Type) -> object:
    """What must stay the same through a repetition: dtype and shape, not bounds."""
    if isinstance(type, Tensor):
        return (type.dtype, type.shape)
    return tuple(_shape(member) for member in type.members)


@dataclass(frozen=True)
class Shapes:
    """Infer the type of every value and resolve every operation's sizes."""

    name: ClassVar[str] = "shapes"

    def run(self, program: Program, diagnostics: Diagnostics) -> Program:
        inputs = program.inputs
        type: Type = (
            inputs[0].type if len(inputs) == 1 else TupleType(tuple(i.type for i in inputs))
        )
        known = [Known(i.type, Label(i.span, f"`{i.name}` is {i.type}")) for i in inputs]
        inference = _Inference(diagnostics)
        start = known[0] if len(known) == 1 else Known(type, None, tuple(known))
        tree, _ = inference.infer(program.tree, start)
        return replace(program, tree=tree, types=inference.types)

    def verify(self, program: Program) -> None:
        for module in walk(program.tree):
            assert module.id in program.types, module
