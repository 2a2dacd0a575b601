"""The module tree: what a model's expression evaluates to.

Every node is immutable and may be reached from several places until `place` gives each position
its own `id` and path. A repetition is one node, whatever its count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from modnorm.diagnostics import Span
from modnorm.ops.base import Op
from modnorm.ops.fused import Fused
from modnorm.ops.sequences import Start
from modnorm.ops.types import Real

UNPLACED = -1


@dataclass(frozen=True)
class Stored:
    """What stores an atom's weight beside others: an operation, of which the atom is a part."""

    op: Fused
    part: str

    def holder(self, path: str) -> str:
        """The path of the module that has the parameter, from the part's own."""
        return path.rsplit(".", 2)[0]  # without the names of the part and of its operation


@dataclass(frozen=True, eq=False)
class Leaf:
    """An operation. `path` has one `{}` for the index of each enclosing repetition.

    `weight` is the path of the weight that is used here: the leaf's own, or the one that it reads.
    `places` are where the arguments given to the operation stand, by name.
    """

    op: Op
    span: Span
    id: int = UNPLACED
    path: str = ""
    weight: str | None = None
    stored: Stored | None = None
    places: Mapping[str, Span] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Compose:
    """Modules one after the other, in execution order."""

    steps: tuple[Module, ...]
    span: Span
    id: int = UNPLACED


@dataclass(frozen=True, eq=False)
class Tuple:
    """Modules side by side on the same input; `names` are the members', if they have any."""

    members: tuple[Module, ...]
    span: Span
    id: int = UNPLACED
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Run:
    """`count` fresh copies of a body, composed. `path` is the path of a copy."""

    body: Module
    count: int
    path: str = ""


@dataclass(frozen=True, eq=False)
class Repeat:
    """`a ** n`, or a `compose` over a range: runs of equal copies, one after the other.

    `path` is the path of the list of copies, `""` for copies that stand in the model itself.
    """

    runs: tuple[Run, ...]
    span: Span
    id: int = UNPLACED
    path: str = ""

    @property
    def count(self) -> int:
        return sum(run.count for run in self.runs)


class Around:
    """What computes its body, and says something of it."""

    body: Module


@dataclass(frozen=True, eq=False)
class Scope(Around):
    """A named part. `span` is where it was mentioned, `definition` where the name is defined."""

    name: str
    body: Module
    kind: Literal["def", "where"]
    span: Span
    definition: Span
    id: int = UNPLACED
    path: str = ""


@dataclass(frozen=True, eq=False)
class Shared(Around):
    """A mention of a `shared` module: the same weights wherever `key` is the same."""

    key: str
    body: Module
    span: Span
    definition: Span
    id: int = UNPLACED


@dataclass(frozen=True, eq=False)
class Tare(Around):
    """The body with its masses rescaled so that they sum to `mass`."""

    body: Module
    mass: Real
    span: Span
    id: int = UNPLACED


@dataclass(frozen=True, eq=False)
class Scan:
    """A cell along axis 1 of a value, one place after the other: a recurrence.

    The body maps the tuple (state, entry) to a new state, which begins at 0; all states come out.
    `carry` is the declared sensitivity of a new state in the one before, where that is given;
    `start` is known once types are.
    """

    body: Module
    carry: Real | None
    span: Span
    id: int = UNPLACED
    path: str = ""
    start: Start = Start()


@dataclass(frozen=True, eq=False)
class Assume(Around):
    """The body, which is said to have a sensitivity that does not follow from what is in it."""

    body: Module
    sensitivity: Real
    span: Span
    id: int = UNPLACED


@dataclass(frozen=True, eq=False)
class Hole:
    """A part with a mistake in it, which has been reported: nothing is known about its output.

    It lets the parts around it be checked, and never gets past the inference of shapes.
    """

    span: Span
    id: int = UNPLACED


Module: TypeAlias = Leaf | Compose | Tuple | Repeat | Scope | Shared | Tare | Assume | Scan | Hole


def children(module: Module) -> tuple[Module, ...]:
    """The modules directly inside, in execution order; a run's body once."""
    match module:
        case Leaf() | Hole():
            return ()
        case Compose(steps=steps):
            return steps
        case Tuple(members=members):
            return members
        case Repeat(runs=runs):
            return tuple(run.body for run in runs)
        case Around(body=body) | Scan(body=body):
            return (body,)


def takes_apart(module: Tuple) -> bool:
    """Whether each member begins with another member of the tuple that comes in."""
    firsts = [*map(_first, module.members)]
    return bool(firsts) and all(leaf is not None and leaf.op.picks_apart for leaf in firsts)


def _first(module: Module) -> Leaf | None:
    """The operation that a part begins with, if it is one."""
    while isinstance(module, Compose | Around):
        module = module.steps[0] if isinstance(module, Compose) else module.body
    return module if isinstance(module, Leaf) else None


def counted(module: Module) -> list[tuple[Module, int]]:
    """The modules directly inside, each with the number of copies that it stands for."""
    if isinstance(module, Repeat):
        return [(run.body, run.count) for run in module.runs]
    return [(child, 1) for child in children(module)]


def rebuilt(module: Module, inner: Callable[[Module], Module], **changes: Any) -> Module:
    """The module with what `inner` makes of those directly inside, and other fields changed."""
    match module:
        case Leaf() | Hole():
            return replace(module, **changes)
        case Compose(steps=steps):
            return replace(module, steps=tuple(map(inner, steps)), **changes)
        case Tuple(members=members):
            return replace(module, members=tuple(map(inner, members)), **changes)
        case Repeat(runs=runs):
            new = tuple(replace(run, body=inner(run.body)) for run in runs)
            return replace(module, runs=new, **changes)
        case Around(body=body) | Scan(body=body):
            return replace(module, body=inner(body), **changes)


def is_value(module: Module, known: dict[Module, bool] | None = None) -> bool:
    """Whether a module ignores what comes in: the name of an input, and what is made of such.

    `known` is what is known of others: a part may be reached on very many ways.
    """
    known = {} if known is None else known
    if module not in known:
        inner = (is_value(child, known) for child in children(module))
        match module:
            case Leaf(op=op):
                known[module] = op.is_value
            case Tuple():
                known[module] = all(inner)
            case _:
                known[module] = any(inner)
    return known[module]


def walk(module: Module) -> Iterator[Module]:
    """Every position of the tree, parents first, in execution order."""
    stack = [module]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def renumbered(module: Module, numbers: Iterator[int], path: Callable[[str], str]) -> Module:
    """The tree with new ids, and what `path` makes of every path in it."""
    number = next(numbers)

    def inner(child: Module) -> Module:
        return renumbered(child, numbers, path)

    match module:
        case Leaf():
            weight = None if module.weight is None else path(module.weight)
            return replace(module, id=number, path=path(module.path), weight=weight)
        case Repeat(runs=runs):
            new = tuple(Run(inner(run.body), run.count, path(run.path)) for run in runs)
            return replace(module, id=number, path=path(module.path), runs=new)
        case Scope() | Scan():
            return rebuilt(module, inner, id=number, path=path(module.path))
        case _:
            return rebuilt(module, inner, id=number)


class Mentions:
    """Where the user's own files mention what stands in the library, read off a module tree."""

    def __init__(self, tree: Module) -> None:
        self.tree = tree

    def __call__(self, span: Span) -> Span | None:
        """The innermost mention of the user's own through which a place was reached first."""
        return self.found.get(span)

    @cached_property
    def found(self) -> dict[Span, Span]:
        found: dict[Span, Span] = {}
        stack: list[tuple[Module, Span | None]] = [(self.tree, None)]
        while stack:
            node, mention = stack.pop()
            if not node.span.source.library:
                mention = node.span
            if mention is not None:
                places = (node.span, *(node.places.values() if isinstance(node, Leaf) else ()))
                for place in places:
                    found.setdefault(place, mention)
            stack.extend((child, mention) for child in reversed(children(node)))
        return found


def compose(steps: tuple[Module, ...], span: Span) -> Module:
    """The composition of modules in execution order; nested compositions are flattened."""
    flat: list[Module] = []
    for step in steps:
        flat.extend(step.steps if isinstance(step, Compose) else (step,))
    return flat[0] if len(flat) == 1 else Compose(tuple(flat), span)
