"""`modnorm explain`: which weight is meant, and how its target comes about, factor by factor.

    target = (mass / whole mass) / (sensitivity downstream, added up over the weight's uses)

A mass is what the atom declares times the factor of every `tare` around it. The sensitivity
downstream of a use is read off the module tree: the product over all that stands behind it in the
compositions around it. Source: Large et al. 2024 (arXiv 2405.14813), Definitions 4 and 6.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from itertools import product
from typing import TypeVar

from modnorm.codegen.plan import Record, records
from modnorm.diagnostics import Diagnostic, ModnormError, Span, did_you_mean
from modnorm.graph import paths
from modnorm.graph.modules import (
    Assume,
    Compose,
    Leaf,
    Module,
    Repeat,
    Scan,
    Scope,
    Shared,
    Tare,
    Tuple,
    children,
    takes_apart,
)
from modnorm.kernels import schemes
from modnorm.ops.types import Real, Symbol
from modnorm.passes.program import Program, Weight
from modnorm.passes.sensitivity import divide, geometric, power, times
from modnorm.passes.streams import At
from modnorm.report.diagnostics import cells, clean
from modnorm.report.words import (
    begins,
    between,
    call,
    exact,
    plural,
    shared_name,
    short,
    sizes,
)

T = TypeVar("T")
WIDTH = 80
VALUE = 12
"""Columns of a value."""
ALIKE = 1e-9
"""Relative difference of targets that counts as none."""
STREAM = (
    "Only norms read the residual stream. With n terms in x, x + f(norm(x)) is then,",
    "up to a factor that norms take out, the mean (1 - 1/(n+1))·y + f(norm(y))/(n+1):",
    "a norm of n terms has sensitivity 1/n. The model itself computes x as written.",
    "",
)
"""What the factors of residual streams rest on."""
FROZEN = "Its mass is 0: this weight is frozen, no step changes it."
EXAMPLE = 0.1
"""The learning rate of the example."""


def explanation(program: Program, wanted: str) -> str:
    """The explanation of the weight that `wanted` names; a list where it names several.

    `wanted` is a path or a weight's name, a pattern with `*`, or a part of a path from dot to dot.
    Copies with the same target count as one weight.

    Raises:
        ModnormError: if it names no weight.
    """
    found = find(program, wanted)
    if not found:
        known = [paths.first(weight.path) for weight in program.weights]
        raise ModnormError([unknown(program.name, known, wanted)])
    targets = [record.target for record in found]
    differ = max(targets) - min(targets) > ALIKE * max(targets)
    if differ or any(record.weight is not found[0].weight for record in found):
        return _list(found, wanted)
    return render(explain(program, found[0]), len(found))


# --- which weight ----------------------------------------------------------------------------


def find(program: Program, wanted: str) -> list[Record]:
    """Every weight that a path, a name, a pattern or a part of a path means."""
    return named(records(program), lambda record: record.path, wanted)


def named(known: Sequence[T], path: Callable[[T], str], wanted: str) -> list[T]:
    """Those whose path, without `.weight`, is what is wanted, fits the pattern, or has the part."""
    wanted = wanted.strip().removesuffix(".weight")
    exactly = [one for one in known if path(one) == wanted]
    if exactly:
        return exactly
    pattern = paths.starred(wanted)
    if any(sign in pattern for sign in "*?["):
        return [one for one in known if fnmatchcase(path(one), pattern)]
    inside = f".{wanted.strip('.')}."
    return [one for one in known if inside in f".{path(one)}."]


def unknown(model: str, known: Sequence[str], wanted: str) -> Diagnostic:
    """Says that a model has no such weight; `known` are the paths of those it has."""
    wanted = wanted.strip().removesuffix(".weight")
    parts = {part: None for path in known for part in path.split(".")}
    hint = did_you_mean(wanted, [*known, *parts]) or "`modnorm report` shows the names of all"
    return Diagnostic(
        "E201",
        f"the model `{model}` has no weight `{wanted}`",
        hint=hint if known else "it has no weights at all",
    )


def _list(found: Sequence[Record], wanted: str) -> str:
    """The weights found, the copies of one in a line."""
    groups: dict[str, list[Record]] = {}
    for record in found:
        groups.setdefault(record.weight.path, []).append(record)
    rows = [(between(one[0].target, one[-1].target), _range(one)) for one in groups.values()]
    return several(rows, len(found), wanted)


def several(rows: Sequence[tuple[str, str]], count: int, wanted: str) -> str:
    """Targets and names of those that were meant, as a list."""
    lines = [f"{plural(count, 'weight')} match `{clean(wanted)}`; name one to explain it", ""]
    width = max(18, 2 + max((len(target) for target, _ in rows), default=0))
    lines.append(f"  {'target':<{width}}weight")
    lines += [f"  {target:<{width}}{name}" for target, name in rows]
    return "\n".join(lines) + "\n"


def _range(group: Sequence[Record]) -> str:
    """The path of a weight's copies, with the range of each index that has several."""
    weight = group[0].weight
    if len(group) == 1:
        return group[0].path
    levels = iter(weight.levels)

    def indices(match: re.Match[str]) -> str:
        first, count = int(match[1]), next(levels).count
        return f"{{{first}…{first + count - 1}}}" if count > 1 else str(first)

    some = f"  ({len(group)} of {weight.copies})" if len(group) < weight.copies else ""
    return paths.INDEX.sub(indices, weight.path) + some


# --- the factors -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Factor:
    """One factor: its value, what it belongs to, and, where it is no single number, its terms."""

    value: Real
    what: str
    span: Span | None = None
    terms: str = ""
    streams: bool = False
    """Whether it follows from what a residual stream is taken for."""


@dataclass(frozen=True)
class Use:
    """A place where the weight is used, with the sensitivities from there to the output."""

    leaf: Leaf
    factors: tuple[Factor, ...]

    @property
    def product(self) -> Real:
        one: Real = 1
        return reduce(times, (factor.value for factor in self.factors), one)


@dataclass(frozen=True)
class Explanation:
    """One copy of a weight, and every number that its target is made of."""

    program: Program
    record: Record
    tares: tuple[Factor, ...]
    uses: tuple[Use, ...]

    @property
    def weight(self) -> Weight:
        return self.record.weight

    @property
    def share(self) -> Real:
        return divide(self.weight.mass, self.program.mass) if self.program.mass else 0

    @property
    def downstream(self) -> Real:
        return sum(use.product for use in self.uses)

    @property
    def target(self) -> Real:
        return divide(self.share, self.downstream)


def explain(program: Program, record: Record) -> Explanation:
    """The explanation of one copy of a weight; `record` is one of `records(program)`."""
    weight = record.weight
    indices = paths.indices(weight.path, record.path)
    trails = _trails(program.tree, weight.path)
    uses = tuple(_Downstream(program, trail, indices).use() for trail in trails)
    return Explanation(program, record, tuple(_tares(program, weight)), uses)


def _tares(program: Program, weight: Weight) -> Iterator[Factor]:
    """Every `tare` around a weight, innermost first, with the factor that it puts on its mass."""
    tares = program.tares[weight.path][::-1]
    if zero := next((tared for tared in tares if tared.factor == 0), None):
        yield Factor(0, "tare to mass 0", zero.tare.span)
        return
    for tared in tares if weight.op.mass else ():
        what = f"tare from {exact(tared.before)} to {exact(tared.tare.mass)}"
        yield Factor(tared.factor, what, tared.tare.span)


Trail = tuple[tuple[Module, int], ...]
"""From the root to a place in the tree: every node passed, and which of its parts was taken."""


def _trails(tree: Module, path: str) -> Iterator[Trail]:
    """The way to every use of a weight, in execution order."""
    stack: list[tuple[Module, Trail]] = [(tree, ())]
    while stack:
        node, trail = stack.pop()
        if isinstance(node, Leaf) and node.weight == path:
            yield (*trail, (node, 0))
        parts = children(node)
        stack.extend((part, (*trail, (node, i))) for i, part in reversed([*enumerate(parts)]))


class _Downstream:
    """The factors from a place in the tree on, nearest first.

    All of a residual stream that stands behind it is one factor.
    """

    def __init__(self, program: Program, trail: Trail, indices: tuple[int, ...]) -> None:
        self.program, self.streams, self.trail = program, program.streams, trail
        repeats = [node for node, _ in trail if isinstance(node, Repeat)]
        # repetitions outside a shared module repeat its use, not its weight
        outer = len(repeats) - len(indices)
        self.own = {node.id: i for node, i in zip(repeats[outer:], indices, strict=True)}
        self.counted: set[int] = set()  # streams that have their factor

    def use(self) -> Use:
        leaf = self.trail[-1][0]
        assert isinstance(leaf, Leaf)
        return Use(leaf, tuple(self.factors()))

    def factors(self) -> Iterator[Factor]:
        for depth in reversed(range(len(self.trail))):
            node, taken = self.trail[depth]
            match node:
                case Leaf() if node.id in self.streams.passes:
                    yield self.reach(self.streams.passes[node.id], depth, node.span, of_sum=True)
                case Tuple(members=members) if members[taken].id in self.streams.members:
                    add = self.streams.members[members[taken].id]
                    yield self.reach(self.streams.sums[add.id][0], depth, add.span)
                case Compose(steps=steps):
                    for step in steps[taken + 1 :]:
                        yield from self.through(step, depth)
                case Repeat(runs=runs) if node.id not in self.streams.loops:
                    yield from self.copies(node, taken)
                    for after in runs[taken + 1 :]:
                        one = self.program.passing[after.body.id]
                        yield _power(one, after.count, after.body, node.span)
                case Scan():
                    yield self.every(node)

    def copies(self, node: Repeat, taken: int) -> Iterator[Factor]:
        """The copies of the same run that stand behind, or that share the weight."""
        run = node.runs[taken]
        one = self.program.passing[run.body.id]
        if node.id not in self.own:
            terms = f"1 + … + {exact(one)}^{run.count - 1}" if run.count > 2 else ""
            what = f"used in {_copies(run.count)} of {_name(run.body)}"
            yield Factor(geometric(one, run.count), what, node.span, terms)
        elif (later := run.count - 1 - self.own[node.id]) > 0:
            yield _power(one, later, run.body, node.span, "later ")

    def through(self, module: Module, depth: int) -> Iterator[Factor]:
        """The factors of all of a module, one operation after the other."""
        program, stack = self.program, [module]
        while stack:
            node = stack.pop()
            at = self.streams.place(node)
            if at is not None:
                if at.stream not in self.counted:
                    yield self.reach(At(at.stream, 0), depth, node.span)
                continue
            match node:
                case Leaf(op=op, span=span) if node.id in self.streams.readers:
                    yield self.read(node)
                case Leaf(op=op, span=span):
                    yield Factor(program.passing[node.id], call(op), span)
                case Tuple(members=members, span=span):
                    values = [program.passing[member.id] for member in members]
                    terms = " + ".join(map(exact, values))
                    if takes_apart(node):
                        terms = f"max({', '.join(map(exact, values))})"
                    yield Factor(program.passing[node.id], _name(node), span, terms)
                case Repeat(runs=runs, span=span):
                    for run in runs:
                        one = program.passing[run.body.id]
                        yield _power(one, run.count, run.body, span)
                case Scan():
                    yield Factor(program.passing[node.id], f"Scan({_name(node.body)})", node.span)
                case Assume(sensitivity=assumed, span=span):
                    what = f"{_name(node)}, assumed to be {exact(assumed)}"
                    yield Factor(program.passing[node.id], what, span)
                case _:
                    stack.extend(reversed(children(node)))

    def every(self, scan: Scan) -> Factor:
        """The steps of a scan, at all of which the weight is used."""
        steps, what = self.program.steps[scan.id], _name(scan.body)
        state = exact(steps.state)
        if isinstance(steps.count, Symbol):
            terms = f"1 + {state} + {state}^2 + …"
            return Factor(steps.total, f"used at every step of {what}", scan.span, terms)
        terms = f"1 + … + {state}^{steps.count - 1}" if steps.count > 2 else ""
        return Factor(
            steps.total, f"used at {plural(steps.count, 'step')} of {what}", scan.span, terms
        )

    def indices(self, at: At, depth: int) -> Iterator[tuple[int, ...]]:
        """The copies that a place of a stream is in: of those that share the weight, all."""
        around = [node for node, _ in self.trail[:depth] if isinstance(node, Repeat)]
        loops = around[len(around) - len(at.strides) :]
        pairs = zip(loops, at.counts, strict=True)
        return product(*([self.own[n.id]] if n.id in self.own else range(c) for n, c in pairs))

    def reach(self, at: At, depth: int, span: Span, of_sum: bool = False) -> Factor:
        """How far the end of a stream moves with what is added at a place of it.

        Or `of_sum` with what takes the sum there, which is so many times its terms' mean.
        """
        self.counted.add(at.stream)
        stream = self.streams.streams[at.stream]
        places = [at.place(indices) for indices in self.indices(at, depth)]
        sizes = [stream.sizes[place] if of_sum else 1 for place in places]
        value = sum(stream.reach[place] * size for place, size in zip(places, sizes, strict=True))
        if len(places) > 1:
            what = f"used at {len(places):,} places of a residual stream"
            return Factor(value, what, span, streams=True)
        left = stream.count - places[0]
        what = f"residual stream, {plural(left, 'sum')} on"
        terms = "Π (1 + μ/n)" if left else ""
        if of_sum:
            what, terms = f"{what}, of a sum of {exact(sizes[0])}", ""
        return Factor(value, what, span, terms, streams=True)

    def read(self, leaf: Leaf) -> Factor:
        """A normalization that reads a residual stream: all of it, or what is behind none of it."""
        at = self.streams.readers[leaf.id]
        if at.stream not in self.counted:
            return Factor(leaf.op.sensitivity, call(leaf.op), leaf.span)
        terms = self.streams.streams[at.stream].sizes[at.start]
        what = f"{call(leaf.op)} of {exact(terms)} terms"
        return Factor(self.program.passing[leaf.id], what, leaf.span, streams=True)


def _power(one: Real, count: int, body: Module, span: Span, which: str = "") -> Factor:
    what = f"{_copies(count, which)} of {_name(body)}"
    return Factor(power(one, count), what, span, f"{exact(one)}^{count}" if count > 1 else "")


def _copies(count: int, which: str = "") -> str:
    return f"{count:,} {which}{'copy' if count == 1 else 'copies'}"


def _name(module: Module) -> str:
    """A module in one word: its name or operation, or what it begins with."""
    match module:
        case Scope(name=name):
            return name
        case Shared():
            return shared_name(module)
        case Leaf(op=op):
            return call(op)
        case Tare(body=body) | Assume(body=body):
            return _name(body)
        case Repeat(runs=(run,)):
            return f"{_name(run.body)} ** {run.count}"
        case Scan(body=body):
            return f"Scan({_name(body)})"
        case Compose(steps=(first, Leaf(op=op))) if op.scalar is not None:
            return _name(first)
        case Compose(steps=steps):
            return f"({_name(steps[0])} >> …)"
        case Tuple(members=members):
            return f"({', '.join(map(_name, members))})"
    return "…"


# --- as text ---------------------------------------------------------------------------------


def render(found: Explanation, alike: int = 1) -> str:
    """An explanation as text of 80 columns; `alike` copies share it."""
    return "\n".join(_lines(found, alike)) + "\n"


def _lines(found: Explanation, alike: int) -> Iterator[str]:
    program, weight = found.program, found.weight
    op, span = weight.op, weight.span
    yield found.record.name
    yield right(f"{op.label}, {sizes(op.weight_shape)}, norm {op.norm.formula}", span)
    if weight.stored is not None:
        yield f"a part of {found.record.parameter}"
    if told := begins(weight):
        yield "begins by " + ", ".join(f"{key} = {value}" for key, value in told.items())
    if alike > 1:
        yield f"one of {alike:,} copies with the same target"
    yield ""
    mass = Factor(weight.mass, "mass")
    yield from worked("mass", "×", [Factor(op.mass, "declared", span), *found.tares], mass.value)
    whole = Factor(program.mass, f"mass of {program.name}")
    yield from worked("share", "/", [mass, whole], found.share)
    name = "sensitivity downstream"
    for number, use in enumerate(found.uses, 1):
        several = f", use {number} of {len(found.uses)}" if len(found.uses) > 1 else ""
        last = Factor(1, f"{call(use.leaf.op)}: nothing stands behind it", use.leaf.span)
        yield from worked(f"{name}{several}", "×", use.factors or [last], use.product)
    if len(found.uses) > 1:
        uses = [Factor(use.product, call(use.leaf.op)) for use in found.uses]
        yield from worked(f"{name} of all uses", "+", uses, found.downstream)
    share, downstream = Factor(found.share, "share"), Factor(found.downstream, name)
    yield from worked("target", "/", [share, downstream], found.target)
    if any(factor.streams for use in found.uses for factor in use.factors):
        yield from STREAM
    yield from _proved(found)
    yield from _meaning(found)


def worked(title: str, sign: str, terms: Sequence[Factor], result: Real) -> Iterator[str]:
    """A calculation under its title: a term a line, and what comes out, if it is not the one."""
    yield title
    for number, term in enumerate(terms):
        what = f"{term.what}: {term.terms}" if term.terms else term.what
        text = _row(sign if number else "", term.value, what)
        yield right(text, term.span) if term.span else text
    if len(terms) > 1:  # beside a fraction its decimals
        yield _row("=", result, f"= {short(result, 6)}" if "/" in exact(result) else "")
    yield ""


def _row(sign: str, value: Real, what: str) -> str:
    return f"{sign:>4} {exact(value):<{VALUE}} {clean(what)}".rstrip()


def right(text: str, span: Span) -> str:
    """The text with a place at the right edge; the text is cut if there is no room for both."""
    place = clean(str(span))
    room = max(WIDTH - cells(place) - 2, WIDTH // 2)
    if cells(text) > room:
        text = text[: room - 1].rstrip() + "…"
    return f"{text}{' ' * max(WIDTH - cells(text) - cells(place), 2)}{place}"


def _proved(found: Explanation) -> Iterator[str]:
    """What is proved of the weight: all its copies together."""
    proof = found.program.certificate
    if proof is None or found.target == 0:
        return
    bound = proof.weights[found.weight.path]
    copies = found.weight.copies
    mean = f", the mean of {copies:,} copies" if copies > 1 else ""
    yield "certified"
    yield _row("", bound.high, "how far its output moves when it moves by norm 1, at most")
    if not math.isfinite(bound.kappa):
        yield "     no bound on what that moves downstream: see `modnorm report`"
        yield ""
        return
    yield _row("×", bound.downstream, f"sensitivity downstream{mean}")
    yield _row("=", bound.high * bound.downstream, f"{short(found.downstream, 6)} is declared")
    share = short(float(found.share) * copies, 4)
    whole = "" if proof.kappa is None else f" = {short(proof.kappa, 6)}"
    yield f"Its part of κ{whole} is {short(bound.kappa, 4)}; its share of the mass is {share}."
    yield ""


def _meaning(found: Explanation) -> Iterator[str]:
    """What the target means in training."""
    norm = found.weight.op.norm.formula
    if found.target == 0:
        yield FROZEN
        return
    yield from move(float(found.target), norm)
    if found.weight.op.norm.name in schemes.MATRICES:
        yield from scheme(found.weight.op.measured_shape)


def move(target: float, norm: str) -> Iterator[str]:
    """How far a step moves a weight, by its target."""
    whole, step = (short(target * lr, 6) for lr in (1, EXAMPLE))
    yield f"A step with learning rate lr changes this weight by lr × {whole} in its"
    yield f"norm {norm}: by {step} where lr = {EXAMPLE}."


def scheme(shape: Sequence[int]) -> Iterator[str]:
    """How DualizedSGD orthogonalises the weight, and why so."""
    chosen, (n, m) = schemes.choose(shape), schemes.sides(shape)
    other = chosen._replace(form="gram" if chosen.form == "plain" else "plain")
    cost, instead = (short(schemes.flops(n, m, scheme) / 1e9, 3) for scheme in (chosen, other))
    yield f"DualizedSGD orthogonalises {n} × {m} in {chosen.steps} steps, {chosen.form} form:"
    yield f"{cost} Gflop, against {instead} in the {other.form} form. Singular values end in"
    low, high = schemes.BANDS[chosen.steps]
    yield f"[{low}, {high}]; with fewer steps in"
    for steps in sorted(set(schemes.BANDS) - {chosen.steps}, reverse=True):
        low, high = schemes.BANDS[steps]
        cost = short(schemes.flops(n, m, schemes.choose(shape, steps)) / 1e9, 3)
        yield f"[{low}, {high}] (steps={steps}: {cost} Gflop)"
