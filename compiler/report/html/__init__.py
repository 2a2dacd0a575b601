"""The report as one HTML page that needs nothing else: no network, no other file.

Its policy allows the page's own style and scripts, by their hashes, and no connection at all.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from modnorm.pipeline import Analysis
from modnorm.report import against, as_json
from modnorm.report.extras import NOTHING, Extras
from modnorm.report.html import data, graph, pieces, sections, source
from modnorm.report.monitor import Monitored
from modnorm.report.nodes import collect
from modnorm.report.words import plural

SCRIPTS = (
    "core.js",
    "tree.js",
    "treemap.js",
    "plot.js",
    "depth.js",
    "graph.js",
    "training.js",
    "start.js",
)
"""In the order in which they run, inside one function."""
FRAME = 760
"""Height of the page in a notebook, in pixels."""


def page(analysis: Analysis, extras: Extras = NOTHING) -> str:
    """The page for a program."""
    program = analysis.program
    found = as_json.report(analysis)
    nodes = collect(found, program)
    shown = source.sources(analysis)
    numbers = {entry.name: i for i, entry in enumerate(shown)}
    run, checked = extras.run, extras.checked
    compared = against.compare(analysis, extras.against) if extras.against is not None else None
    payload = {
        "nodes": data.node_records(nodes, numbers, checked),
        "depth": data.depth_series(program, nodes),
        "run": data.run_record(run, nodes) if run is not None else None,
        "checked": checked is not None,
    }
    style, script = pieces.style(), _script()
    listings = (
        source.listing(entry, i, _notes(found, entry.name)) for i, entry in enumerate(shown)
    )
    return Template(_file("page.html")).substitute(
        title=pieces.text(f"{program.name} · modnorm"),
        policy=_policy(style, script),
        style=style,
        script=script,
        data=data.embedded(payload),
        head=sections.head(found),
        tiles=sections.tiles(found, checked),
        changes=sections.changes(compared),
        certificate=sections.certificate(found, numbers),
        check=sections.measurements(checked, found),
        graph=graph.svg(program, nodes),
        source="".join(listings),
        training=_training(run),
    )


def frame(text: str) -> str:
    """A page as an element for a notebook: its styles and scripts stay in it."""
    return (
        f'<iframe srcdoc="{escape(text)}" sandbox="allow-scripts" title="modnorm report" '
        f'width="100%" height="{FRAME}" style="border: 0"></iframe>'
    )


def _file(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _script() -> str:
    return '"use strict";\n(() => {\n' + "\n".join(map(_file, SCRIPTS)) + "})();"


def _policy(style: str, script: str) -> str:
    def hashed(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {hashed(script)}; style-src {hashed(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _notes(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What was found in a file: diagnostics, and where the certificate ends."""
    notes = [entry for entry in found["diagnostics"] if entry.get("file", found["source"]) == name]
    for reason in (found.get("certificate") or {}).get("reasons") or []:
        here = (reason.get("file") or found["source"]) == name
        if here and not any(_says(note, reason) for note in notes):
            notes.append({**reason, "severity": "no bound"})
    return notes


def _says(note: dict[str, Any], reason: dict[str, Any]) -> bool:
    """Whether a finding of a line has the same to say."""
    same: bool = note["line"] == reason["line"] and reason["message"] in note["message"]
    return same


def _training(run: Monitored | None) -> str:
    if run is None:
        return ""
    steps = plural(len(run.rows), "recorded step")
    note = pieces.text(f"{run.model}, {run.optimizer}, {steps}")
    if not run.rows:
        return pieces.panel("training", "Training", "<p>No step is recorded yet.</p>", note)
    inner = (
        '<div class="tools"><label>weight <select id="run-weight"></select></label>'
        '<p class="dim" id="run-about"></p></div><div id="run-plots" class="plots"></div>'
    )
    return pieces.panel("training", "Training", inner, note)
