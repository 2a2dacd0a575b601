"""The data flow as a Graphviz graph: a node a value, an edge a use, repetitions as clusters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modnorm.graph.dataflow import Apply, Input, Loop, Pack, Region
from modnorm.ops.base import Atom
from modnorm.pipeline import Analysis
from modnorm.report import as_json
from modnorm.report.diagnostics import clean
from modnorm.report.facts import number
from modnorm.report.nodes import Node, collect, pattern
from modnorm.report.words import call


def render(analysis: Analysis) -> str:
    """The graph of a program, for `dot`: copies of a repetition are drawn once."""
    program = analysis.program
    found = as_json.report(analysis)
    nodes = collect(found, program)
    writer = _Writer(
        {node.leaf: node for node in nodes if node.leaf >= 0},
        {node.path: node for node in nodes if node.kind == "repeat" and node.path},
    )
    lines = [
        f"digraph {quoted(program.name)} {{",
        '  node [shape=box, style="rounded,filled", fillcolor=white, fontname="sans-serif"];',
        '  edge [fontname="sans-serif", fontsize=9];',
        "  compound=true;",
        '  graph [fontname="sans-serif"];',
        *writer.region(program.flow, "v", "  ", " × ".join(i.name for i in program.inputs)),
        "}",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A string of the DOT language. Graphviz reads backslashes in labels, so each is doubled."""
    escaped = clean(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def label(*lines: str) -> str:
    """A label of several lines."""
    return '"' + "\\n".join(quoted(line)[1:-1] for line in lines if line) + '"'


class _Writer:
    def __init__(self, nodes: Mapping[int, Node], repeats: Mapping[str, Node]) -> None:
        self.nodes = nodes  # by the id of their leaf
        self.repeats = repeats  # by their path

    def region(self, region: Region, prefix: str, indent: str, name: str) -> Iterator[str]:
        """The values of a region and their uses; `name` is what enters it."""
        ends: dict[int, tuple[str, str]] = {}  # where edges reach and leave a value
        for at in region.numbers():
            value = region[at]
            own = f"{prefix}{at}"
            ends[at] = (own, own)
            match value:
                case Input():
                    yield f"{indent}{own} [label={label(name)}, shape=plaintext];"
                case Apply():
                    yield f"{indent}{own} [{self.apply(value)}];"
                case Pack():
                    yield f'{indent}{own} [label="( , )", shape=plaintext];'
                case Loop():
                    first, last = "", ""
                    for number_, run in enumerate(value.runs):
                        inner = f"{own}_{number_}_"
                        title = pattern(run.path.rpartition(".")[0]) or "copies"
                        yield f"{indent}subgraph cluster_{inner} {{"
                        yield f"{indent}  label={label(f'{title} × {run.count:,}')};"
                        yield f'{indent}  style="rounded"; color=gray50;'
                        yield from self.region(run.region, inner, indent + "  ", "in")
                        yield f"{indent}}}"
                        start, end = f"{inner}{run.region.input}", f"{inner}{run.region.output}"
                        if last:
                            yield f"{indent}{last} -> {start};"
                        first, last = first or start, end
                    ends[at] = (first, last)
        for source, target in sorted(region.graph.edges()):
            names = f"{ends[source][1]} -> {ends[target][0]}"
            attributes = f"label={label(*self.edge(region, source))}"
            yield f"{indent}{names} [{attributes}];"

    def apply(self, value: Apply) -> str:
        node = self.nodes.get(value.leaf)
        lines = [call(value.op)]
        fill = ""
        if isinstance(value.op, Atom):
            fill = ', fillcolor="#dbe9fb"'
            lines.append(pattern(value.path))
        if node is not None and node.targets is not None:
            first, last = map(number, node.targets)
            lines.append(f"target {first}" if first == last else f"target {first} … {last}")
        return f"label={label(*lines)}{fill}"

    def edge(self, region: Region, source: int) -> tuple[str, ...]:
        """The type of a value and, where they are certified, its norm's bounds."""
        value = region[source]
        node = self.nodes.get(value.leaf) if isinstance(value, Apply) else None
        if isinstance(value, Loop):
            node = self.repeats.get(value.path)
        return str(value.type), bounds(node.norm if node else None)


def bounds(norm: Mapping[str, Any] | None) -> str:
    """`0.5 ≤ P ≤ 1` from what the certificate says of a value's norm."""
    if not norm:
        return ""
    low, high, kind = norm.get("low"), norm.get("high"), norm.get("kind") or "norm"
    text = f"{number(low)} ≤ {kind}" if low else str(kind)
    return f"{text} ≤ {number(high)}" if high is not None else text
