"""The report as one HTML page that needs nothing else: no network, no other file.

Its policy allows the page's own style and scripts, by their hashes, and no connection at all.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template

from modnorm.pipeline import Analysis
from modnorm.report.extras import NOTHING, Extras
from modnorm.report.html import data, graph, pieces, sections, source
from modnorm.report.model import described
from modnorm.report.monitor import Monitored
from modnorm.report.words import plural

SCRIPTS = ("core", "tree", "treemap", "plot", "depth", "graph", "training", "start")
"""In the order in which they run, inside one function."""
FRAME = 760
"""Height of the page in a notebook, in pixels."""


def page(analysis: Analysis, extras: Extras = NOTHING) -> str:
    """The page for a program."""
    found = described(analysis.program)
    other = described(extras.against.program) if extras.against is not None else None
    shown = source.sources(analysis)
    numbers = {entry.name: i for i, entry in enumerate(shown)}
    style, script = pieces.style(), _script()
    return Template(_file("page.html")).substitute(
        title=pieces.text(f"{analysis.program.name} · modnorm"),
        policy=_policy(style, script),
        style=style,
        script=script,
        data=data.payload(found, extras, numbers),
        head=sections.head(found),
        tiles=sections.tiles(found, extras.checked),
        terms=sections.terms(),
        problems=sections.problems(analysis.diagnostics, numbers),
        changes=sections.changes(found, other),
        certificate=sections.certificate(found, numbers),
        check=sections.measurements(extras.checked, found.facts),
        graph=graph.svg(found),
        source="".join(source.listing(entry, i, analysis) for i, entry in enumerate(shown)),
        training=_training(extras.run),
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
    texts = [_file(f"{name}.js") for name in SCRIPTS]
    return '"use strict";\n(() => {\n' + "\n".join(texts) + "})();"


def _policy(style: str, script: str) -> str:
    def hashed(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {hashed(script)}; style-src {hashed(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


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
