"""`modnorm explain`: which weight is meant, and how its target comes about, factor by factor.

    target = (mass / whole mass) / (sensitivity downstream, added up over the weight's uses)

A mass is what the atom declares times the factor of every `tare` around it. The sensitivity
downstream of a use is read off the module tree: the product over all that stands behind it in the
compositions around it. Source: Large et al. 2024 (arXiv 2405.14813), Definitions 4 and 6.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce

from modnorm.codegen.plan import Record, records
from modnorm.diagnostics import Diagnostic, ModnormError, Span, did_you_mean
from modnorm.graph import paths
from modnorm.graph.modules import (
    Compose,
    Leaf,
    Module,
    Repeat,
    Scope,
    Shared,
    Tare,
    Tuple,
    children,
)
from modnorm.kernels import schemes
from modnorm.ops.types import Real
from modnorm.passes.program import Program, Weight
from modnorm.passes.sensitivity import divide, geometric, power, times
from modnorm.report.diagnostics import cells, clean
from modnorm.report.words import between, call, exact, plural, shared_name, short, sizes

WIDTH = 80
VALUE = 12
"""Columns of a value."""
ALIKE = 1e-9
"""Relative difference of targets that counts as none."""
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
        raise ModnormError([_unknown(program, wanted)])
    targets = [record.target for record in found]
    differ = max(targets) - min(targets) > ALIKE * max(targets)
    if differ or any(record.weight is not found[0].weight for record in found):
        return _list(found, wanted)
    return render(explain(program, found[0]), len(found))


# --- which weight ----------------------------------------------------------------------------


def find(program: Program, wanted: str) -> list[Record]:
    """Every weight that a path, a name, a pattern or a part of a path means."""
    wanted = wanted.strip().removesuffix(".weight")
    known = records(program)
    exactly = [record for record in known if record.path == wanted]
    if exactly:
        return exactly
    pattern = paths.starred(wanted)
    if any(sign in pattern for sign in "*?["):
        return [record for record in known if fnmatchcase(record.path, pattern)]
    inside = f".{wanted.strip('.')}."
    return [record for record in known if inside in f".{record.path}."]


def _unknown(program: Program, wanted: str) -> Diagnostic:
    wanted = wanted.strip().removesuffix(".weight")
    known = [paths.first(weight.path) for weight in program.weights]
    parts = {part: None for path in known for part in path.split(".")}
    hint = did_you_mean(wanted, [*known, *parts]) or "`modnorm report` shows the names of all"
    return Diagnostic(
        "E201",
        f"the model `{program.name}` has no weight `{wanted}`",
        hint=hint if known else "it has no weights at all",
    )


def _list(found: Sequence[Record], wanted: str) -> str:
    """The weights found, the copies of one in a line."""
    groups: dict[str, list[Record]] = {}
    for record in found:
        groups.setdefault(record.weight.path, []).append(record)
    lines = [f"{plural(len(found), 'weight')} match `{clean(wanted)}`; name one to explain it", ""]
    lines.append(f"  {'target':<18}weight")
    for group in groups.values():
        target = between(group[0].target, group[-1].target)
        lines.append(f"  {target:<18}{_range(group)}")
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
    uses = tuple(_use(trail, program, indices) for trail in _trails(program.tree, weight.path))
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


def _use(trail: Trail, program: Program, indices: tuple[int, ...]) -> Use:
    leaf = trail[-1][0]
    assert isinstance(leaf, Leaf)
    repeats = [node for node, _ in trail if isinstance(node, Repeat)]
    # repetitions outside a shared module repeat its use, not its weight
    outer = len(repeats) - len(indices)
    own = {repeat.id: index for repeat, index in zip(repeats[outer:], indices, strict=True)}
    factors: list[Factor] = []
    for node, at in reversed(trail):
        if isinstance(node, Compose):
            for step in node.steps[at + 1 :]:
                factors.extend(_through(step, program))
        elif isinstance(node, Repeat):
            run = node.runs[at]
            one = program.passing[run.body.id]
            if node.id not in own:
                terms = f"1 + … + {exact(one)}^{run.count - 1}" if run.count > 2 else ""
                what = f"used in {_copies(run.count)} of {_name(run.body)}"
                factors.append(Factor(geometric(one, run.count), what, node.span, terms))
            elif (later := run.count - 1 - own[node.id]) > 0:
                factors.append(_power(one, later, run.body, node.span, "later "))
            for after in node.runs[at + 1 :]:
                one = program.passing[after.body.id]
                factors.append(_power(one, after.count, after.body, node.span))
    return Use(leaf, tuple(factors))


def _through(module: Module, program: Program) -> Iterator[Factor]:
    """The factors of all of a module, one operation after the other."""
    stack = [module]
    while stack:
        node = stack.pop()
        match node:
            case Leaf(op=op, span=span):
                yield Factor(program.passing[node.id], call(op), span)
            case Tuple(members=members, span=span):
                values = [program.passing[member.id] for member in members]
                terms = " + ".join(map(exact, values))
                yield Factor(program.passing[node.id], _name(node), span, terms)
            case Repeat(runs=runs, span=span):
                for run in runs:
                    one = program.passing[run.body.id]
                    yield _power(one, run.count, run.body, span)
            case _:
                stack.extend(reversed(children(node)))


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
        case Tare(body=body):
            return _name(body)
        case Repeat(runs=(run,)):
            return f"{_name(run.body)} ** {run.count}"
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
    yield _right(f"{op.label}, {sizes(op.weight_shape)}, norm {op.norm.formula}", span)
    if weight.stored is not None:
        yield f"a part of {found.record.parameter}"
    if alike > 1:
        yield f"one of {alike:,} copies with the same target"
    yield ""
    mass = Factor(weight.mass, "mass")
    yield from _worked("mass", "×", [Factor(op.mass, "declared", span), *found.tares], mass.value)
    whole = Factor(program.mass, f"mass of {program.name}")
    yield from _worked("share", "/", [mass, whole], found.share)
    name = "sensitivity downstream"
    for number, use in enumerate(found.uses, 1):
        several = f", use {number} of {len(found.uses)}" if len(found.uses) > 1 else ""
        last = Factor(1, f"{call(use.leaf.op)}: nothing stands behind it", use.leaf.span)
        yield from _worked(f"{name}{several}", "×", use.factors or [last], use.product)
    if len(found.uses) > 1:
        uses = [Factor(use.product, call(use.leaf.op)) for use in found.uses]
        yield from _worked(f"{name} of all uses", "+", uses, found.downstream)
    share, downstream = Factor(found.share, "share"), Factor(found.downstream, name)
    yield from _worked("target", "/", [share, downstream], found.target)
    yield from _proved(found)
    yield from _meaning(found)


def _worked(title: str, sign: str, terms: Sequence[Factor], result: Real) -> Iterator[str]:
    """A calculation under its title: a term a line, and what comes out, if it is not the one."""
    yield title
    for number, term in enumerate(terms):
        what = f"{term.what}: {term.terms}" if term.terms else term.what
        text = _row(sign if number else "", term.value, what)
        yield _right(text, term.span) if term.span else text
    if len(terms) > 1:  # beside a fraction its decimals
        yield _row("=", result, f"= {short(result, 6)}" if "/" in exact(result) else "")
    yield ""


def _row(sign: str, value: Real, what: str) -> str:
    return f"{sign:>4} {exact(value):<{VALUE}} {clean(what)}".rstrip()


def _right(text: str, span: Span) -> str:
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
        yield "Its mass is 0: this weight is frozen, no step changes it."
        return
    target, step = (short(float(found.target) * lr, 6) for lr in (1, EXAMPLE))
    yield f"A step with learning rate lr changes this weight by lr × {target} in its"
    yield f"norm {norm}: by {step} where lr = {EXAMPLE}."
    if found.weight.op.norm.name in schemes.MATRICES:
        yield from _scheme(found.weight.op.weight_shape)


def _scheme(shape: Sequence[int]) -> Iterator[str]:
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
