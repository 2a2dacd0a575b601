"""Shapes and dtypes: the type of every value, and the sizes that follow from the input."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import prod
from typing import ClassVar

from modnorm.diagnostics import Diagnostic, Diagnostics, Label, Span
from modnorm.graph.modules import (
    Around,
    Compose,
    Hole,
    Leaf,
    Module,
    Repeat,
    Run,
    Scan,
    Scope,
    Shared,
    Tuple,
    renumbered,
    walk,
)
from modnorm.graph.numbers import show
from modnorm.graph.paths import last_copy, template
from modnorm.ops.base import Atom, Misfit, Op
from modnorm.ops.edges import slots
from modnorm.ops.sequences import entries, place, sequence, start, states
from modnorm.ops.shapes import mixed
from modnorm.ops.types import Tensor, TupleType, Type
from modnorm.passes.program import Program
from modnorm.passes.scans import find_state, forgotten

MAX_ENTRIES = 2**40
"""Largest number of entries of one weight."""
MAX_NESTING = 32
"""Tuples inside each other."""
MAX_CELLS = 3
"""Scans inside each other."""


@dataclass(frozen=True)
class Known:
    """A type, and the place that last changed it; for a tuple, the same of every member."""

    type: Type
    made: Label | None
    members: tuple[Known, ...] = ()


class _Inference:
    def __init__(
        self, diagnostics: Diagnostics, numbers: Iterator[int], inputs: Sequence[Known]
    ) -> None:
        self.diagnostics = diagnostics
        self.inputs = inputs
        self.numbers = numbers
        """Ids that no position has yet."""
        self.types: dict[int, tuple[Type, Type]] = {}
        self.scopes: list[Scope] = []
        self.mentions: list[Shared] = []
        self.shared: dict[str, tuple[Leaf, Type, Shared]] = {}
        self.cells: list[Scan] = []
        self.warnings: list[tuple[Diagnostic, Span | None]] = []
        """For a model without mistakes."""

    def infer(self, module: Module, x: Known | None) -> tuple[Module, Known | None]:
        """The module with resolved operations, and its output; None where a mistake hides it."""
        result, out = self.inner(module, x)
        if x is not None and out is not None:
            self.types[module.id] = (x.type, out.type)
        return result, out

    def tell(self, diagnostic: Diagnostic) -> None:
        """Report, with the innermost mention of the user's own on the way to here."""
        spans = (scope.span for scope in reversed(self.scopes))
        mention = next((span for span in spans if not span.source.library), None)
        if diagnostic.severity == "warning":
            self.warnings.append((diagnostic, mention))
        else:
            self.diagnostics.add(diagnostic, mention)

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
                type = TupleType(tuple(o.type for o in outs), module.names)
                if _nesting(type) > MAX_NESTING:
                    self.tell(
                        Diagnostic(
                            "E305",
                            f"this gives a tuple of tuples more than {MAX_NESTING} deep",
                            module.span,
                            hint="`(a, b)` is a tuple; brackets alone are none: `(a)`",
                        )
                    )
                    return replace(module, members=new_members), None
                return replace(module, members=new_members), Known(type, None, tuple(outs))
            case Scope(body=body):
                self.scopes.append(module)
                new, out = self.infer(body, x)
                self.scopes.pop()
                return replace(module, body=new), out
            case Shared(body=body):
                self.mentions.append(module)
                new, out = self.infer(body, x)
                self.mentions.pop()
                return replace(module, body=new), out
            case Scan():
                return self.scan(module, x)
            case Around(body=body):
                new, out = self.infer(body, x)
                return replace(module, body=new), out
            case Repeat():
                return self.repeat(module, x)

    def leaf(self, leaf: Leaf, x: Known | None) -> tuple[Module, Known | None]:
        if x is None:
            return leaf, None
        try:
            stored = leaf.stored
            if stored is not None:  # it says what is wrong
                stored = replace(stored, op=stored.op.resolve(x.type)[0])
            op, type = leaf.op.resolve(x.type)
        except Misfit as misfit:
            self.misfit(leaf, x, misfit)
            return leaf, self.without(leaf, x, misfit.argument)
        self.caution(leaf, x)
        resolved = replace(leaf, op=op, stored=stored)
        if isinstance(op, Atom):
            self.fits(leaf, op)
        if op.is_module:
            self.agree(resolved, x.type)
        if op.buffers and self.cells:
            self.kept(leaf)
        if op.gives is not None:
            return resolved, self.inputs[op.gives]
        # what keeps the shape of its input, or joins members of that shape, did not make it
        keeps = not isinstance(op, Atom) or len(op.weight_shape) == 1
        for known in (x, *x.members) if keeps else ():
            if _shape(known.type) == _shape(type) and known.made is not None:
                return resolved, replace(known, type=type)
        members: tuple[Known, ...] = ()
        label = Label(leaf.span, f"this gives {type}")
        if isinstance(type, TupleType):
            members = tuple(Known(member, label) for member in type.members)
        return resolved, Known(type, label, members)

    def caution(self, leaf: Leaf, x: Known) -> None:
        """Warn of what is legal, and probably not meant."""
        type, made = x.type, tuple(k.made for k in (x, *x.members) if k.made is not None)
        for code, message, hint in leaf.op.cautions(type):
            at = leaf.places.get("dim", leaf.span) if code == "W606" else leaf.span
            self.tell(Diagnostic(code, message, at, others=made, hint=hint))
        if isinstance(type, Tensor) and 0 in leaf.op.along(type):
            for code, message, hint in mixed(leaf.op.label, type, 0):
                at = leaf.places.get("dim", leaf.span)
                self.tell(Diagnostic(code, message, at, hint=hint))

    def without(self, leaf: Leaf, x: Known, argument: str) -> Known | None:
        """The output if a size that contradicts the input had been left out, to go on with."""
        field = next(
            (a.field for a in leaf.op.arguments() if a.name == argument and a.inferred), ""
        )
        try:
            type = replace(leaf.op, **{field: None}).resolve(x.type)[1] if field else None
        except Misfit:
            return None
        return None if type is None else Known(type, Label(leaf.span, f"this gives {type}"))

    def misfit(self, leaf: Leaf | Scan, x: Known, misfit: Misfit) -> None:
        """An input that an operation cannot take: where it comes from, and who asks for what."""
        place = leaf.places.get(misfit.argument) if isinstance(leaf, Leaf) else None
        others: tuple[Label, ...] = ()
        if misfit.code in ("E401", "E402"):
            others = tuple(k.made for k in (x, *x.members) if k.made is not None)
        use = next((s for s in reversed(self.scopes) if s.kind == "def"), None)
        if use is not None and use.span not in [o.span for o in others]:
            others = (*others, Label(use.span, f"in this use of `{use.name}`"))
        self.tell(
            Diagnostic(
                misfit.code,
                misfit.message,
                place or leaf.span,
                others=tuple(dict.fromkeys(others)),
                hint=misfit.hint,
            )
        )

    def fits(self, leaf: Leaf, op: Atom) -> None:
        """A weight has a number of entries that some machine could hold."""
        entries = prod(op.weight_shape)
        if entries > MAX_ENTRIES:
            message = f"a weight of `{op.name}` would have {show(entries)} entries"
            self.tell(
                Diagnostic("E305", f"{message}; at most {MAX_ENTRIES:,} are allowed", leaf.span)
            )

    def kept(self, leaf: Leaf) -> None:
        """Report what would keep one thing of all steps of a scan."""
        kept = " and ".join(f"`{name}`" for name in leaf.op.buffers)
        what = f"`{leaf.op.label}` stands in a cell: all steps would share its {kept}"
        hint = "put it before or behind the `Scan`, or take a norm without a memory: `LayerNorm`"
        self.tell(Diagnostic("E402", what, leaf.span, hint=hint))

    def agree(self, leaf: Leaf, x: Type) -> None:
        """A shared weight has one shape and one norm wherever it is used, a buffer one shape."""
        if not self.mentions:
            return
        first = self.shared.setdefault(leaf.path, (leaf, x, self.mentions[0]))
        one, other = first[0].op, leaf.op
        if _held(one) != _held(other):
            name = self.mentions[0].key.rpartition(":")[2]
            what, same = "sizes", "size"
            (shape, norm), (second, last) = _held(one), _held(other)
            found = [" × ".join(map(str, sizes)) for sizes in (shape, second)]
            if shape == second:
                what, same = "kinds", "kind"
                found = [f"measured by {formula}" for formula in (norm, last)]
            self.tell(
                Diagnostic(
                    "E401",
                    f"`{name}` cannot be shared by inputs of two {what}: the {_what(other)} of its"
                    f" `{other.name}` would be {' and '.join(found)}",
                    self.mentions[0].span,
                    f"here its input is {x}",
                    (
                        Label(first[2].span, f"here its input is {first[1]}"),
                        Label(leaf.span, f"the {_what(other)}"),
                    ),
                    f"share it only between inputs of the same {same}",
                )
            )

    def scan(self, module: Scan, x: Known | None) -> tuple[Module, Known | None]:
        """A cell along a sequence."""
        if x is None:
            return replace(module, body=self.infer(module.body, None)[0]), None
        try:
            whole = entries(x.type)
            self.shallow()
            self.cells.append(module)
            found = find_state(
                module.body, whole, lambda state: self.tried(module.body, _entering(x, state))
            )
            self.cells.pop()
            if found.free:
                raise Misfit(
                    "the size of the state of this `Scan` follows from nothing in its cell",
                    hint="write it there, where the state is read: `Linear(32) @ Select(0)`",
                )
            kept = states(found.state, whole) if found.settled else ()
            begin = start(found.state, kept, whole)
        except Misfit as misfit:
            self.misfit(module, x, misfit)
            return module, None
        self.cells.append(module)
        body, out = self.infer(module.body, _entering(x, found.state))
        self.cells.pop()
        resolved = replace(module, body=body, start=begin)
        if not found.settled:
            if found.gives is not None:
                self.moving(module, found.state, found.gives)
            return resolved, None
        if out is None:
            return resolved, None
        length = whole[0].shape[1]
        every = tuple(sequence(one, length) for one in kept)
        type = found.state.of(every) if isinstance(found.state, TupleType) else every[0]
        label = Label(module.span, f"this gives {type}")
        members = tuple(Known(one, label) for one in every) if len(every) > 1 else ()
        return resolved, Known(type, label, members)

    def shallow(self) -> None:
        """Raise a Misfit where scans are too deep in each other: each asks its cell repeatedly."""
        if len(self.cells) >= MAX_CELLS:
            raise Misfit(
                f"a `Scan` inside of {MAX_CELLS} others; more are not allowed",
                hint="a cell sees one place of a sequence at a time",
                code="E305",
            )

    def moving(self, module: Scan, state: Type, gives: Type) -> None:
        """Report a cell that goes on to change the shape of its state."""
        message = f"the cell of this `Scan` turns a state {state} into {gives}"
        hint = "a state keeps its shape: bring it to a size of its own with `Linear(32) @ …`"
        self.tell(Diagnostic("E403", message, module.span, hint=hint))

    def repeat(self, module: Repeat, x: Known | None) -> tuple[Module, Known | None]:
        runs: list[Run] = []
        entered = x
        for run in module.runs:
            seen: set[Hashable] = set()
            while True:
                body, out = self.infer(run.body, x)
                if x is None or out is None or run.count == 1 or _roles(x.type) == _roles(out.type):
                    break
                if _shape(x.type) != _shape(out.type) and not self.settles(run, out):
                    self.changing(run, x, out)
                    out = None
                    break
                seen.add(_roles(x.type))
                if _roles(out.type) not in seen:
                    # the first copy is another: `(f @ Linear(64)) ** 3` behind 10 inputs
                    runs.append(replace(run, body=body, count=1))
                    run, x = self.others(run), out
                    continue
                x = replace(x, type=forgotten(x.type))  # what goes round is not known
                if _roles(x.type) in seen:
                    break
            runs.append(replace(run, body=body))
            x = out
        if x is not None and entered is not None and _shape(x.type) == _shape(entered.type):
            x = replace(entered, type=x.type)
        return replace(module, runs=tuple(runs)), x

    def changing(self, run: Run, x: Known, out: Known) -> None:
        """Report a repetition that goes on to change the shape."""
        places = dict.fromkeys(k.made for k in (x, out) if k.made is not None)
        self.tell(
            Diagnostic(
                "E403",
                f"what is repeated {run.count} times turns {x.type} into {out.type}",
                run.body.span,
                others=tuple(p for p in places if p.span != run.body.span),
                hint="only the first copy may change the shape",
            )
        )

    def settles(self, run: Run, x: Known) -> bool:
        """Whether the copies behind the first keep the shape that it gives."""
        type, good = self.tried(run.body, x)
        return type is not None and good and _shape(x.type) == _shape(type)

    def tried(self, module: Module, x: Known) -> tuple[Type | None, bool]:
        """What a part gives for an input, and whether nothing is wrong: nothing is reported."""
        found = Diagnostics()
        trial = _Inference(found, self.numbers, self.inputs)
        trial.scopes, trial.mentions = [*self.scopes], [*self.mentions]
        trial.shared, trial.cells = dict(self.shared), [*self.cells]
        _, out = trial.infer(module, x)
        return None if out is None else out.type, not found.errors

    def others(self, run: Run) -> Run:
        """All copies but the first, as a run whose positions have ids and paths of their own."""
        last = last_copy(run.path)
        assert last is not None, run.path
        path = template(run.path.rpartition(".")[0], last.start + 1, last.suffix)
        body = renumbered(
            run.body,
            self.numbers,
            lambda old: (
                path + old.removeprefix(run.path)
                if old == run.path or old.startswith(f"{run.path}.")
                else old
            ),
        )
        return Run(body, run.count - 1, path)


def _held(op: Op) -> tuple[tuple[int, ...], str]:
    """The shape of the weight or of the buffers of an operation that is a module, and the norm."""
    return (op.weight_shape, op.norm.formula) if isinstance(op, Atom) else (op.buffer_shape, "")


def _what(op: Op) -> str:
    return "weight" if isinstance(op, Atom) else "buffer"


def _nesting(type: Type) -> int:
    """How many tuples are inside each other."""
    return 1 + max(map(_nesting, type.members)) if isinstance(type, TupleType) else 0


def _shape(type: Type) -> Hashable:
    """What must stay the same through a repetition: dtype and shape, not bounds."""
    if isinstance(type, Tensor):
        return (type.dtype, type.shape)
    return tuple(map(_shape, type.members))


def _roles(type: Type) -> Hashable:
    """What must stay the same for copies to be one and the same: what axes mean, and names."""
    if isinstance(type, Tensor):
        return (type.dtype, type.shape, type.roles)
    return (type.names, *map(_roles, type.members))


def _entering(x: Known, state: Type) -> Known:
    """What a cell takes: the tuple of a state and of one place of a sequence."""
    old = Known(state, None)
    parts = tuple(Known(place(one), x.made) for one in slots(x.type))
    entry = parts[0]
    if isinstance(x.type, TupleType):
        entry = Known(x.type.of(part.type for part in parts), None, parts)
    return Known(TupleType((old.type, entry.type)), None, (old, entry))


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
        numbers = count(1 + max(module.id for module in walk(program.tree)))
        inference = _Inference(diagnostics, numbers, known)
        start = known[0] if len(known) == 1 else Known(type, None, tuple(known))
        tree, _ = inference.infer(program.tree, start)
        for diagnostic, mention in inference.warnings if not diagnostics.errors else ():
            diagnostics.add(diagnostic, mention)
        return replace(program, tree=tree, types=inference.types)

    def verify(self, program: Program) -> None:
        for module in walk(program.tree):
            assert module.id in program.types, module
