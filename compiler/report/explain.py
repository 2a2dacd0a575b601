"""`modnorm explain`: which weight is meant, and how its target comes about, as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from modnorm.codegen.plan import Record, records
from modnorm.diagnostics import Diagnostic, ModnormError, Span, did_you_mean
from modnorm.graph.paths import instance
from modnorm.kernels import schemes
from modnorm.ops.types import Real
from modnorm.passes.program import Program
from modnorm.report.diagnostics import cells, clean
from modnorm.report.factors import Explanation, Factor, explain
from modnorm.report.words import exact, plural, short

WIDTH = 80
VALUE = 12
"""Columns of a value."""
INDEX = re.compile(r"\{(\d+)\}")
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
    pattern = INDEX.sub("*", wanted)
    if any(sign in pattern for sign in "*?["):
        return [record for record in known if fnmatchcase(record.path, pattern)]
    inside = f".{wanted.strip('.')}."
    return [record for record in known if inside in f".{record.path}."]


def _unknown(program: Program, wanted: str) -> Diagnostic:
    wanted = wanted.strip().removesuffix(".weight")
    paths = [instance(w.path, (0,) * len(w.levels)) for w in program.weights]
    parts = {part: None for path in paths for part in path.split(".")}
    hint = did_you_mean(wanted, [*paths, *parts]) or "`modnorm report` shows the names of all"
    return Diagnostic(
        "E201",
        f"the model `{program.name}` has no weight `{wanted}`",
        hint=hint if paths else "it has no weights at all",
    )


def _list(found: Sequence[Record], wanted: str) -> str:
    """The weights found, the copies of one in a line."""
    groups: dict[str, list[Record]] = {}
    for record in found:
        groups.setdefault(record.weight.path, []).append(record)
    lines = [f"{plural(len(found), 'weight')} match `{clean(wanted)}`; name one to explain it", ""]
    lines.append(f"  {'target':<18}weight")
    for group in groups.values():
        first, last = (short(group[i].target) for i in (0, -1))
        target = first if first == last else f"{first} … {last}"
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
    return INDEX.sub(indices, weight.path) + some


# --- as text ---------------------------------------------------------------------------------


def render(found: Explanation, alike: int = 1) -> str:
    """An explanation as text of 80 columns; `alike` copies share it."""
    return "\n".join(_lines(found, alike)) + "\n"


def _lines(found: Explanation, alike: int) -> Iterator[str]:
    op, span = found.weight.op, found.weight.span
    shape = " × ".join(map(str, op.weight_shape))
    yield found.record.name
    yield _right(f"{op.label}, {shape}, norm {op.norm.formula}", span)
    if found.weight.stored is not None:
        yield f"a part of {found.record.parameter}"
    if alike > 1:
        yield f"one of {alike:,} copies with the same target"
    yield ""
    yield "mass"
    yield from _product([Factor(found.declared, "declared", span), *found.tares], found.mass)
    yield ""
    yield "share"
    yield _row("", found.mass, "mass")
    yield _row("/", found.whole, f"mass of {found.model}")
    yield _result(found.share)
    yield ""
    for number, use in enumerate(found.uses, 1):
        several = f", use {number} of {len(found.uses)}" if len(found.uses) > 1 else ""
        yield f"sensitivity downstream{several}"
        what = Factor(1, f"{use.what}: nothing stands behind it", use.span)
        yield from _product(use.factors or [what], use.product)
        yield ""
    if len(found.uses) > 1:
        yield "sensitivity downstream of all uses"
        for number, use in enumerate(found.uses):
            yield _row("+" if number else "", use.product, use.what)
        yield _result(found.downstream)
        yield ""
    yield "target"
    yield _row("", found.share, "share")
    yield _row("/", found.downstream, "sensitivity downstream")
    yield _result(found.target)
    yield ""
    yield from _proved(found)
    yield from _meaning(found)


def _product(factors: Sequence[Factor], result: Real) -> Iterator[str]:
    for number, factor in enumerate(factors):
        what = f"{factor.what}: {factor.terms}" if factor.terms else factor.what
        yield _row("×" if number else "", factor.value, what, factor.span)
    if len(factors) > 1:
        yield _result(result)


def _row(sign: str, value: Real, what: str = "", span: Span | None = None) -> str:
    text = f"{sign:>4} {exact(value):<{VALUE}} {clean(what)}".rstrip()
    return text if span is None else _right(text, span)


def _result(value: Real) -> str:
    """A last line: the value, and beside a fraction its decimals."""
    shown = exact(value)
    return _row("=", value, f"= {short(value, 6)}" if "/" in shown else "")


def _right(text: str, span: Span) -> str:
    """The text with a place at the right edge; the text is cut if there is no room for both."""
    place = clean(str(span))
    room = max(WIDTH - cells(place) - 2, WIDTH // 2)
    if cells(text) > room:
        text = text[: room - 1].rstrip() + "…"
    return f"{text}{' ' * max(WIDTH - cells(text) - cells(place), 2)}{place}"


def _proved(found: Explanation) -> Iterator[str]:
    """What is proved of the weight: all its copies together."""
    if found.certificate is None or found.target == 0:
        return
    bound = found.certificate.weights[found.weight.path]
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
    total = found.certificate.kappa
    share = short(float(found.share) * copies, 4)
    whole = "" if total is None else f" = {short(total, 6)}"
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
