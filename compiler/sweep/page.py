"""What a sweep says as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from modnorm.report.diagnostics import clean
from modnorm.sweep import page_curves, tables
from modnorm.sweep.curves import lr_of
from modnorm.sweep.findings import Findings
from modnorm.sweep.tables import NONE, Cell, Table

STYLE = """
:root {
  color-scheme: light dark;
  --page: light-dark(#f3f4f6, #0d1116);
  --panel: light-dark(#ffffff, #151a21);
  --line: light-dark(#dcdfe5, #2a323d);
  --text: light-dark(#1a1f27, #e3e8ef);
  --dim: light-dark(#545e6c, #9da8b7);
  --warm: light-dark(#a8450a, #ffab66);
  --good: light-dark(#17693a, #63d394);
  --bad: light-dark(#b3231b, #ff8f86);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); }
main { display: grid; gap: 12px; padding: 16px; max-width: 1280px; margin: 0 auto; }
h1, h2, h3, p, dl, dd, ul { margin: 0; }
h1 { font-size: 22px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 14px; overflow-wrap: anywhere; }
section, header.top {
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; display: grid; gap: 8px; min-width: 0;
}
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; }
dt, .dim, summary, caption { color: var(--dim); }
dd { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { color: var(--dim); font-weight: 600; font-size: 12px; text-align: left; }
th, td { padding: 3px 14px 3px 0; white-space: nowrap; border-bottom: 1px solid var(--line); }
.num { text-align: right; }
.good { color: var(--good); }
.warn { color: var(--warm); }
.bad { color: var(--bad); font-weight: 600; }
ul { padding-left: 20px; }
summary { cursor: pointer; }
svg { display: block; max-width: 100%; height: auto; }
"""
STYLE += page_curves.STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def text(value: str) -> str:
    """A text that HTML shows as it is."""
    return escape(clean(value))


def render(findings: Findings) -> str:
    """The page."""
    title = f"Learning-rate transfer of {text(findings.sweep.model)}"
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title} · modnorm</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            f'<header class="top"><h1>{title}</h1>{_facts(findings)}</header>',
            *_sections(findings),
            "</main>\n</body>\n</html>\n",
        )
    )


def _facts(findings: Findings) -> str:
    _, *rest = tables.facts(findings)
    rows = (f"<dt>{text(label)}</dt><dd>{text(value)}</dd>" for label, value in rest)
    return f"<dl>{''.join(rows)}</dl>"


def _sections(findings: Findings) -> Iterator[str]:
    if findings.warnings:
        notes = "".join(f"<li>{text(warning)}</li>" for warning in findings.warnings)
        yield _section("notes", "Notes", f'<ul class="warn">{notes}</ul>')
    if findings.drifts:
        about = f'<p class="dim">{text(tables.meaning(findings))}</p>'
        yield _section("drift", "Drift", _table(tables.drifts(findings)) + about)
    if findings.masses:
        names = text(tables.mass_names(findings))
        yield _section("masses", f"What {names} to use", _table(tables.masses(findings)))
    about = f'<p class="dim">{text(tables.SAME)}</p>'
    for i, name in enumerate(tables.optimizers(findings)):
        picture = page_curves.svg(findings, name)
        table = _table(tables.curves(findings, name))
        yield _section(f"optimizer-{i}", text(name), picture + table + about)
    if findings.sweep.runs:
        count = len(findings.sweep.runs)
        runs = f"<details><summary>all {count:,}</summary>{_table(runs_table(findings))}</details>"
        yield _section("runs", "Runs", runs)


def _section(name: str, title: str, inner: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{title}</h2>{inner}</section>'
    )


def _table(table: Table) -> str:
    kinds = ["num" if title in table.numbers else "" for title in table.titles]
    head = "".join(
        f"<th{_class(kind)} scope=col>{text(title)}</th>"
        for title, kind in zip(table.titles, kinds, strict=True)
    )
    rows = (
        "<tr>"
        + "".join(
            f"<td{_class(kind, cell.tone)}>{text(cell.text)}</td>"
            for cell, kind in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _class(*names: str) -> str:
    shown = " ".join(filter(None, names))
    return f' class="{shown}"' if shown else ""


def runs_table(findings: Findings) -> Table:
    """Every run."""
    runs = findings.sweep.runs
    axes = tuple(dict.fromkeys(name for trial, _ in runs for name, _ in trial.sizes))
    rows = []
    for trial, outcome in runs:
        sizes = dict(trial.sizes)
        bad = "bad" if outcome.status == "diverged" else ""
        shown = [trial.optimizer, *(_number(sizes.get(axis)) for axis in axes)]
        shown += [f"{trial.log2_lr:.6g}", f"{lr_of(trial.log2_lr):.3g}", f"{trial.seed}"]
        losses = (outcome.first_loss, outcome.train_loss, outcome.held_out_loss, outcome.accuracy)
        rest = [*map(_number, losses), f"{outcome.steps}", f"{outcome.seconds:.1f}"]
        rows.append((*map(Cell, shown), Cell(outcome.status, bad), *map(Cell, rest)))
    titles = ("optimizer", *axes, "log2 lr", "lr", "seed", "status", "first loss", "train",
              "held out", "accuracy", "steps", "seconds")  # fmt: skip
    return Table(titles, tuple(rows), frozenset(titles) - {"optimizer", "status"})


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.6g}"
