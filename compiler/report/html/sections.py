"""The parts of the page that need no script: facts, certificate, measurements, changes."""

from __future__ import annotations

from typing import Any

from modnorm.report import against
from modnorm.report.blocks import NONE, Section, as_cell
from modnorm.report.checked import Extent, Findings
from modnorm.report.facts import (
    constant,
    number,
    params,
    reason_parts,
    sharpness,
    sharpnesses,
    smoothness,
    why,
)
from modnorm.report.html.pieces import body, grid, inline, message, panel, text
from modnorm.report.nodes import pattern
from modnorm.report.words import plural

ROUNDING = 1e-9
WORST = 8
"""Reasons that are shown before the others can be unfolded."""


def head(found: dict[str, Any]) -> str:
    """The title with the source, and the params."""
    values = params(found)
    name = f'<h1>{text(found["model"])}</h1><p class="file-name">{text(found["source"])}</p>'
    if not values:
        return name
    return f'{name}<p class="params"><span class="dim">params</span> {text(values)}</p>'


def tiles(found: dict[str, Any], checked: Findings | None) -> str:
    """The facts of the header as tiles: label, number, what it means."""
    cards: list[tuple[str, str, str, str]] = []
    kappa = "an update of norm 1 moves the output by at most this"
    stretch = "proved: change of the output over change of the input"
    for label, key, about in (
        ("κ", "kappa", kappa),
        ("certified sensitivity", "certified_sensitivity", stretch),
    ):
        if found[key] is not None:
            within = found[key] <= 1 + ROUNDING
            cards.append((label, number(found[key], 5), about, "good" if within else ""))
        else:
            known = cards and cards[0][1] == "no bound"
            cards.append(
                (label, "no bound", "for the same reason" if known else why(found), "open")
            )
    about = "as declared: sets the targets"
    cards.append(("declared sensitivity", number(found["sensitivity"], 5), about, ""))
    if checked is not None and checked.measured_kappa is not None:
        cards.append(("measured κ", number(checked.measured_kappa, 5), "by gradient ascent", ""))
    if checked is not None:
        about = "certified for weights of the norms measured"
        for label, bound in (
            ("κ at norms", checked.kappa_at_norms),
            ("sensitivity at norms", checked.sensitivity_at_norms),
        ):
            if bound is not None:
                cards.append((label, number(bound, 5), about, ""))
    cards.append(("mass", number(found["mass"], 5), "shares of it set the targets", ""))
    size = plural(found["weights"], "parameter")
    cards.append(("weights", f"{len(found['atoms']):,}", size, ""))
    for label, triple in sharpnesses(found).items():
        cards.append((label, sharpness(triple, 3), "second-order bounds", "long"))
    if found.get("loss"):
        loss = found["loss"]
        value = number(loss.get("smoothness"), 5)
        cards.append((f"smoothness, {loss['loss']}", value, smoothness(loss), ""))
    return "".join(
        f'<div class="tile {kind}"><dt>{text(label)}</dt><dd><b>{text(value)}</b>'
        f'<span class="why">{message(about)}</span></dd></div>'
        for label, value, about, kind in cards
    )


def certificate(found: dict[str, Any], files: dict[str, int]) -> str:
    """κ with the part of each weight in it, or the reasons why there is no bound."""
    known = found.get("certificate")
    if not known:
        return ""
    parts: list[str] = []
    if known.get("kappa") is not None:
        value = number(known["kappa"], 6)
        parts.append(
            f"<p><b>κ = {value}</b>: an update of modular norm 1 moves the output, measured in "
            f"{text(str(known.get('output_norm') or 'its norm'))}, by at most {value}.</p>"
        )
    reasons = known.get("reasons") or []
    if reasons:
        parts.append("<p>There is no bound, for these reasons:</p>")
        items = [_reason(reason, found, files) for reason in reasons]
        parts.append(f"<ul>{''.join(items[:WORST])}</ul>")
        if items[WORST:]:
            rest = plural(len(items) - WORST, "more reason")
            more = "".join(items[WORST:])
            parts.append(f"<details><summary>{rest}</summary><ul>{more}</ul></details>")
    if known.get("weights"):
        top = max((w.get("kappa") or 0.0 for w in known["weights"]), default=0.0)
        rows = (
            (
                f"<code>{text(pattern(weight['path']))}</code>",
                f"{weight.get('copies', 1):,}",
                number(weight.get("input_bound")),
                number(weight.get("downstream")),
                number(weight.get("kappa")) + _bar(weight.get("kappa"), top),
            )
            for weight in known["weights"]
        )
        names = ("weight", "copies", "input at most", "certified downstream", "part of κ")
        parts.append(grid(names, rows, [name != "weight" for name in names], "the parts of κ"))
    return panel("certificate", "Certificate", "".join(parts))


def _bar(value: float | None, top: float) -> str:
    """A bar as SVG: its length needs no style of its own."""
    width = 60 * (value or 0.0) / top if top else 0.0
    bar = f'<rect width="{width:.1f}" height="8"/>'
    return f'<svg class="bar" width="60" height="8" aria-hidden="true">{bar}</svg>'


def _reason(reason: dict[str, Any], found: dict[str, Any], files: dict[str, int]) -> str:
    where, why = reason_parts(reason, found)
    file = files.get(reason.get("file") or "", 0)
    link = f'<a href="#L{file}-{reason["line"]}">{text(where)}</a>' if reason.get("line") else ""
    path = f" <code>{text(reason['path'])}</code>" if reason.get("path") else ""
    return f"<li>{link or text(where)} {message(why)}{path}</li>"


def measurements(checked: Findings | None, found: dict[str, Any]) -> str:
    """What `check` measured, violations first; and with which params, if they were others."""
    if checked is None:
        return ""
    parts = []
    own = found["params"]
    others = {
        k: v for k, v in checked.params.items() if k not in own or constant(v) != constant(own[k])
    }
    if others:
        values = params({"params": others})
        parts.append(f'<p class="note">Measured with other params: {text(values)}.</p>')
    if checked.violations:
        items = "".join(f"<li>{message(v)}</li>" for v in checked.violations)
        count = plural(len(checked.violations), "certificate")
        said = f"<p><b>{count} violated</b></p><ul>{items}</ul>"
        parts.append(f'<div class="note error" role="note">{said}</div>')
    else:
        parts.append("<p>No certificate is violated.</p>")
    rows = (
        (
            f"<code>{text(m.path)}</code>" + (f" {text(m.name)}" if m.name != m.path else ""),
            text(m.norm),
            _extent(m.input),
            number(m.declared),
            number(m.certified),
            number(m.measured),
            f'<span class="verdict {_tone(m.verdict)}">{text(m.verdict) or NONE}</span>',
        )
        for m in sorted(checked.modules, key=lambda m: _tone(m.verdict) != "bad")
    )
    names = ("module", "norm", "input", "declared", "certified", "measured", "verdict")
    right = [name not in ("module", "norm", "verdict") for name in names]
    parts.append(grid(names, rows, right, "what was measured"))
    if checked.weights:
        lines = (
            (f"<code>{text(w.weight)}</code>", *map(number, (w.norm, w.target, w.change)))
            for w in checked.weights
        )
        head = ("weight", "norm over its ball", "target", "change of the output")
        right = [name != "weight" for name in head]
        parts.append(f"<h3>weights</h3>{grid(head, lines, right, 'measured weights')}")
    fits = [
        (
            f"<code>{text(varied.param)}</code>",
            f"<code>{text(one.path)}</code>",
            text(one.quantity),
            number(one.slope, 3),
            f'<span class="verdict">{text(one.verdict)}</span>',
        )
        for varied in (checked.coordinates.params if checked.coordinates else ())
        for one in varied.modules
    ]
    if fits:
        columns = ("against", "part", "quantity", "exponent", "verdict")
        right = [name == "exponent" for name in columns]
        drawn = grid(columns, fits, right, "coordinate check")
        parts.append(f"<h3>coordinate check</h3>{drawn}")
    return panel("check", "Measured", "".join(parts))


def _extent(sizes: Extent) -> str:
    if sizes.low in (None, sizes.high):
        return number(sizes.high)
    return f"{number(sizes.low)} … {number(sizes.high)}"


TONES = {"violated": "bad", "above declared": "warn", "outside the ball": "warn", "ok": "good"}


def _tone(verdict: str) -> str:
    return TONES.get(verdict, "")


def changes(compared: dict[str, Any] | None) -> str:
    """What changed against another model."""
    if compared is None:
        return ""
    one, other = compared["before"], compared["after"]
    title = f"{one['model']} ({one['source']}) → {other['model']} ({other['source']})"
    facts, *rest = against.document(compared).blocks
    parts = [f"<p>{text(title)}</p>", *body([facts])]
    for part in rest:
        assert isinstance(part, Section)
        parts += [f"<h3>{inline(as_cell(part.title))}</h3>", *body(part.blocks)]
    return panel("changes", "Changes", "".join(parts))
