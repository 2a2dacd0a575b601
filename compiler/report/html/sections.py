"""The parts of the page that need no script: facts, certificate, measurements, changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modnorm.diagnostics import Diagnostic
from modnorm.graph import paths
from modnorm.ops.types import is_named
from modnorm.passes.certificate import Certificate, Reason
from modnorm.report import against
from modnorm.report.blocks import Block, Cell, Column, Notes, Section, Text, Tone, table_of
from modnorm.report.checked import Extent, Findings, ModuleFinding, ScalingFinding, WeightFinding
from modnorm.report.diagnostics import in_order
from modnorm.report.document import proved_weights, sharpness, smoothness
from modnorm.report.html.pieces import inside, message, panel, table, text
from modnorm.report.model import Facts, Report, assumptions, certified
from modnorm.report.words import constant, number, plural

ROUNDING = 1e-9
WORST = 8
"""Reasons that are shown before the others can be unfolded."""


def head(found: Report) -> str:
    """The title with the source, the params, names in the output, and what is assumed."""
    facts, program = found.facts, found.program
    name = f'<h1>{text(facts.model)}</h1><p class="file-name">{text(facts.source)}</p>'
    output = program.types[program.tree.id][1]
    rows = [("params", _params(facts.params)), ("output", str(output) if is_named(output) else "")]
    rows += [("assumed", str(one)) for one in assumptions(program)]
    lines = (
        f'<p class="params"><span class="dim">{label}</span> {text(value)}</p>'
        for label, value in rows
        if value
    )
    return f"{name}{''.join(lines)}"


def _params(values: dict[str, object]) -> str:
    return ", ".join(f"{name} = {constant(value)}" for name, value in values.items())


def tiles(found: Report, checked: Findings | None) -> str:
    """The facts of the header as tiles: label, number, what it means."""
    return "".join(
        f'<div class="tile {kind}"><dt>{text(label)}</dt><dd><b>{text(value)}</b>'
        f'<span class="why">{message(about)}</span></dd></div>'
        for label, value, about, kind in _tiles(found, checked)
    )


def _tiles(found: Report, checked: Findings | None) -> Iterator[tuple[str, str, str, str]]:
    facts, program, proof = found.facts, found.program, certified(found.program)
    copies = sum(weight.copies for weight in program.weights)
    yield "weights", f"{copies:,}", plural(facts.weights, "parameter"), ""
    yield "mass", number(facts.mass, 5), "shares of it set the targets", ""
    yield "declared sensitivity", number(facts.sensitivity, 5), "as declared: sets the targets", ""
    kappa = "an update of norm 1 moves the output by at most this"
    stretch = "proved: change of the output over change of the input"
    for label, value, about in (
        ("κ", facts.kappa, kappa),
        ("certified sensitivity", facts.certified_sensitivity, stretch),
    ):
        if value is not None:
            yield label, number(value, 5), about, "good" if value <= 1 + ROUNDING else ""
        elif label == "κ" or facts.kappa is not None:
            yield label, "not certified", _why(proof), "open"
    if checked is not None:
        about = "certified for weights of the norms measured"
        for label, value, meant in (
            ("measured κ", checked.measured_kappa, "by gradient ascent"),
            ("κ at norms", checked.kappa_at_norms, about),
            ("sensitivity at norms", checked.sensitivity_at_norms, about),
        ):
            if value is not None:
                yield label, number(value, 5), meant, ""
    for kind, bounds, known in (
        ("declared", program.sharpness[program.tree.id], facts.sharpness),
        ("certified", proof.sharpness, facts.certified_sharpness),
    ):
        if bounds is not None and known is not None:
            yield f"{kind} sharpness", sharpness(bounds, 3), "second-order bounds", "long"
    if (loss := program.smoothness) is not None:
        yield f"smoothness, {loss.loss}", number(loss.smoothness, 5), smoothness(loss), ""


def _why(proof: Certificate) -> str:
    """Why nothing is proved: the first reason, and how many more there are."""
    if not proof.reasons:
        return "no finite bound was found"
    first, *rest = map(str, proof.reasons)
    return f"{first}; and {plural(len(rest), 'more reason')}" if rest else first


TERMS = (
    ("weight, parameter", "A weight is a tensor that is trained; its parameters are its numbers."),
    ("norm", "How large a weight or a value is. An operation says how its weight is measured, and"
     " weights begin at norm 1 as a rule."),
    ("mass", "A part's share of the mass is its share of a step: how much of the change of the"
     " output may come from it."),
    ("sensitivity", "How far a part's output moves when its input moves by 1. The declared one is"
     " typical and sets the targets; the certified one is proved, for inputs and weights of norm at"
     " most 1."),
    ("target", "The norm of a weight's update for a learning rate of 1: its share of the mass over"
     " the sensitivity of all that stands behind it."),
    ("κ", "A proof that an update of modular norm 1 moves the output by at most κ. Without one the"
     " model trains all the same: many usual operations have no bound for every input."),
    ("sharpness", "How fast sensitivities change themselves: α with the weights, β with weights and"
     " input, γ with the input."),
)  # fmt: skip


def terms() -> str:
    """What the words of the page mean."""
    rows = "".join(f"<dt>{text(term)}</dt><dd>{text(about)}</dd>" for term, about in TERMS)
    return f'<dl class="facts">{rows}</dl>'


def problems(found: Sequence[Diagnostic], files: dict[str, int]) -> str:
    """Warnings and advice, each with a link to its line, if it has one: what there is to do."""
    items = "".join(f"<li>{_problem(one, files)}</li>" for one in in_order(found))
    return panel("findings", "Findings", f"<ul>{items}</ul>") if items else ""


def _problem(one: Diagnostic, files: dict[str, int]) -> str:
    said = f"{one.severity} {one.code}: {message(one.message)}"
    if (span := one.span) is not None:
        line = f"L{files.get(span.source.name, 0)}-{span.line}"
        said = f'<a href="#{line}">{text(str(span))}</a>: {said}'
    return f'{said} <span class="dim">{message(one.hint)}</span>' if one.hint else said


def certificate(found: Report, files: dict[str, int]) -> str:
    """κ with the part of each weight in it, or the reasons why there is no bound."""
    proof = certified(found.program)
    parts: list[str] = []
    if proof.kappa is not None:
        value = number(proof.kappa, 6)
        parts.append(
            f"<p><b>κ = {value}</b>: an update of modular norm 1 moves the output, measured in "
            f"{text(proof.norm or 'its norm')}, by at most {value}.</p>"
        )
    if proof.reasons:
        parts.append("<p>There is no bound, for these reasons:</p>")
        items = [_reason(reason, files) for reason in proof.reasons]
        parts.append(f"<ul>{''.join(items[:WORST])}</ul>")
        if items[WORST:]:
            rest = plural(len(items) - WORST, "more reason")
            more = "".join(items[WORST:])
            parts.append(f"<details><summary>{rest}</summary><ul>{more}</ul></details>")
    if proof.weights:
        parts.append(table(proved_weights(found.program, proof)))
    return panel("certificate", "Certificate", "".join(parts))


def _reason(reason: Reason, files: dict[str, int]) -> str:
    """A reason, with a link to the line in the source."""
    where, why = str(reason).split(": ", 1)
    line = f"L{files.get(reason.span.source.name, 0)}-{reason.span.line}"
    path = f"<code>{text(paths.first(reason.path))}</code>" if reason.path else ""
    return f'<li><a href="#{line}">{text(where)}:</a> {message(why)} {path}</li>'


TONES: dict[str, Tone] = {
    "violated": "bad",
    "above declared": "warn",
    "outside the ball": "warn",
    "ok": "good",
}
MODULES: tuple[Column[ModuleFinding], ...] = (
    Column("module", lambda m: Cell(_module(m), kind="marked")),
    Column("norm", lambda m: m.norm),
    Column("input", lambda m: _extent(m.input), number=True),
    Column("declared", lambda m: number(m.declared), number=True),
    Column("certified", lambda m: number(m.certified), number=True),
    Column("measured", lambda m: number(m.measured), number=True),
    Column("verdict", lambda m: Cell(m.verdict, TONES.get(m.verdict, ""))),
)
WEIGHTS: tuple[Column[WeightFinding], ...] = (
    Column("weight", lambda w: Cell(w.weight, kind="code")),
    Column("norm over its ball", lambda w: number(w.norm), number=True),
    Column("target", lambda w: number(w.target), number=True),
    Column("change of the output", lambda w: number(w.change), number=True),
)
FITS: tuple[Column[tuple[str, ScalingFinding]], ...] = (
    Column("against", lambda fit: Cell(fit[0], kind="code")),
    Column("part", lambda fit: Cell(fit[1].path, kind="code")),
    Column("quantity", lambda fit: fit[1].quantity),
    Column("exponent", lambda fit: number(fit[1].slope, 3), number=True),
    Column("verdict", lambda fit: fit[1].verdict),
)


def measurements(checked: Findings | None, facts: Facts) -> str:
    """What `check` measured, violations first; and with which params, if they were others."""
    if checked is None:
        return ""
    return panel("check", "Measured", "".join(inside(_measurements(checked, facts))))


def _measurements(checked: Findings, facts: Facts) -> Iterator[Block]:
    own = {name: constant(value) for name, value in facts.params.items()}
    if others := {k: v for k, v in checked.params.items() if own.get(k) != constant(v)}:
        yield Text(Cell(f"Measured with other params: {_params(others)}.", "warn"))
    count = plural(len(checked.violations), "certificate")
    yield Notes(checked.violations, title=f"{count} violated", tone="bad")
    if not checked.violations:
        yield Text("No certificate is violated.")
    modules = sorted(checked.modules, key=lambda m: TONES.get(m.verdict) != "bad")
    yield table_of(MODULES, modules, name="what was measured")
    if checked.weights:
        yield Section("weights", [table_of(WEIGHTS, checked.weights, name="measured weights")])
    params = checked.coordinates.params if checked.coordinates else ()
    if fits := [(varied.param, one) for varied in params for one in varied.modules]:
        shown = table_of(FITS, fits, name="coordinate check")
        yield Section("coordinate check", [shown])


def _module(module: ModuleFinding) -> str:
    return f"`{module.path}`" + (f" {module.name}" if module.name != module.path else "")


def _extent(sizes: Extent) -> str:
    if sizes.low in (None, sizes.high):
        return number(sizes.high)
    return f"{number(sizes.low)} … {number(sizes.high)}"


def changes(found: Report, other: Report | None) -> str:
    """What changed against another model."""
    if other is None:
        return ""
    title = " → ".join(f"{x.facts.model} ({x.facts.source})" for x in (found, other))
    blocks = against.document(against.compare(found, other)).blocks
    return panel("changes", "Changes", "".join(inside([Text(title), *blocks])))
