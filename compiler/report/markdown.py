"""The report, and a comparison, as GitHub Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from modnorm.pipeline import Analysis
from modnorm.report import against, as_json
from modnorm.report.diagnostics import clean
from modnorm.report.facts import UNKNOWN, facts, number, percent, place, reason_parts
from modnorm.report.nodes import Node, collect, pattern, that_matter

INDENT = "&emsp;"
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")
"""What has a meaning in Markdown wherever it stands."""


def escape(text: str) -> str:
    """A text that Markdown shows as it is."""
    return SPECIAL.sub(r"\\\1", clean(text))


def code(text: str) -> str:
    """A text as code, also in a cell of a table."""
    text = clean(text).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table; a column whose name ends in `:` is aligned to the right."""
    names = list(head)
    lines = ["| " + " | ".join(name.rstrip(":") for name in names) + " |"]
    lines.append("| " + " | ".join("---:" if n.endswith(":") else "---" for n in names) + " |")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return lines


def render(analysis: Analysis) -> str:
    """The report as Markdown: facts, parts, weights, certificate, findings."""
    found = as_json.report(analysis)
    nodes = collect(found, analysis.program)
    head, *rest = facts(found)
    sections = [
        [f"# {escape(head[1])}"],
        table(("", ""), ((f"**{escape(name)}**", _cell(name, value)) for name, value in rest)),
        ["## Parts"],
        table(("part", "share of mass:", "sensitivity:", "certified:"), _parts(nodes)),
        ["## Weights"],
        table(("weight", "copies:", "shape", "mass:", "target:", "line"), _weights(nodes, found)),
        *_certificate(found),
        *_findings(found),
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _cell(name: str, value: str) -> str:
    """A fact: of what the file says, nothing is code; of a message, what is between backquotes."""
    return escape(value) if name in ("source", "params") else _marked(value)


_QUOTED = re.compile(r"`([^`]+)`")


def _marked(text: str) -> str:
    """A message: what stands between backquotes is code, the rest as it is."""
    parts = _QUOTED.split(text)
    return "".join(code(part) if i % 2 else escape(part) for i, part in enumerate(parts))


def _parts(nodes: list[Node]) -> Iterator[tuple[str, ...]]:
    for node in that_matter(nodes) or nodes[:1]:
        title = escape(node.title)
        if node.kind == "atom":
            title = f"**{title}**"
        if node.call and node.kind == "bond":
            title += f" {code(node.call)}"
        yield (
            INDENT * node.depth + title,
            percent(node.share) if node.share else "",
            number(node.sensitivity),
            number(node.certified),
        )


def _weights(nodes: list[Node], found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for node in nodes:
        if node.targets is not None:
            yield (
                f"{code(pattern(node.path))} {escape(node.op)}",
                f"{node.copies:,}",
                " × ".join(map(str, node.shape)),
                number(node.mass),
                target(node.targets),
                escape(place({"line": node.line, "file": node.file}, found["source"])),
            )


def target(targets: tuple[float, float]) -> str:
    """The targets of the first and the last copy, once where they are the same."""
    first, last = map(number, targets)
    if targets[1] == 0:
        return "0 (frozen)"
    return first if first == last else f"{first} … {last}"


def _certificate(found: dict[str, Any]) -> Iterator[list[str]]:
    certificate = found.get("certificate")
    if not certificate:
        return
    yield ["## Certificate"]
    if certificate.get("kappa") is not None:
        kappa = number(certificate["kappa"], 6)
        yield [f"κ = {kappa}: an update of modular norm 1 moves the output by at most {kappa}."]
    reasons = certificate.get("reasons") or []
    if reasons:
        yield ["There is no bound:"]
        yield ["- " + _marked(" ".join(reason_parts(reason, found))) for reason in reasons]
    weights = certificate.get("weights") or []
    if weights:
        rows = (
            (
                code(pattern(weight["path"])),
                f"{weight.get('copies', 1):,}",
                number(weight.get("input_bound")),
                number(weight.get("downstream")),
                number(weight.get("kappa")),
            )
            for weight in weights
        )
        head = ("weight", "copies:", "input at most:", "certified downstream:", "part of κ:")
        yield table(head, rows)


def _findings(found: dict[str, Any]) -> Iterator[list[str]]:
    if not found["diagnostics"]:
        return
    yield ["## Findings"]
    lines = []
    for entry in found["diagnostics"]:
        where = place(entry, found["source"])
        text = f"- **{entry['severity']} {entry['code']}**"
        text += f" {escape(where)}" if where else ""
        lines.append(f"{text}: {_marked(entry['message'])}")
        if entry.get("hint"):
            lines.append(f"  {_marked(entry['hint'])}")
    yield lines


def comparison(found: dict[str, Any]) -> str:
    """What `against.compare` found, as Markdown."""
    one, other = found["before"], found["after"]
    sections = [
        [f"# {escape(one['model'])} against {escape(other['model'])}"],
        table(("", "before", "after"), (tuple(map(escape, r)) for r in against.facts(found))),
    ]
    for title, rows in (
        ("Weights", against.weight_rows(found)),
        ("Parts", against.part_rows(found)),
    ):
        sections.append([f"## {title}"])
        if rows:
            cells = ((_sign(r.sign), code(r.name), escape(r.what)) for r in rows)
            sections.append(table(("", title.lower()[:-1], "what"), cells))
        else:
            sections.append(["No difference."])
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _sign(sign: str) -> str:
    return {"+": "added", "-": "removed", "~": "changed"}.get(sign, UNKNOWN)
