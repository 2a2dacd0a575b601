"""The data flow as a Graphviz graph: a node a value, an edge a use, repetitions as clusters."""

from __future__ import annotations

from collections.abc import Iterator

from modnorm.graph.dataflow import Apply, Input, Loop, Pack, Recurrence, Region, Value
from modnorm.graph.paths import pattern
from modnorm.ops.base import Atom
from modnorm.ops.edges import slots
from modnorm.passes.program import Program
from modnorm.report.diagnostics import clean
from modnorm.report.model import norm, targets
from modnorm.report.words import between, call


def render(program: Program) -> str:
    """The graph of a program, for `dot`: copies of a repetition are drawn once."""
    writer = _Writer(program)
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
    def __init__(self, program: Program) -> None:
        self.program = program
        self.weights = {weight.path: weight for weight in program.weights}

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
                case Recurrence(region=cell, type=type):
                    inner = f"{own}_"
                    steps = f"for each of {slots(type)[0].shape[1]}"
                    yield f"{indent}subgraph cluster_{inner} {{"
                    yield f"{indent}  label={label(steps)};"
                    yield f'{indent}  style="rounded"; color=gray50;'
                    yield from self.region(cell, inner, indent + "  ", "(state, entry)")
                    yield f"{indent}}}"
                    start, end = f"{inner}{cell.input}", f"{inner}{cell.output}"
                    yield f"{indent}{end} -> {start} [constraint=false];"
                    ends[at] = (start, end)
        for source, target in sorted(region.graph.edges()):
            names = f"{ends[source][1]} -> {ends[target][0]}"
            attributes = f"label={label(*self.edge(region[source]))}"
            yield f"{indent}{names} [{attributes}];"

    def apply(self, value: Apply) -> str:
        lines = [call(value.op)]
        fill = ""
        if isinstance(value.op, Atom):
            fill = ', fillcolor="#dbe9fb"'
            target = between(*targets(self.weights[value.path]))
            lines += [pattern(value.path), f"target {target}"]
        return f"label={label(*lines)}{fill}"

    def edge(self, value: Value) -> tuple[str, ...]:
        """The type of a value and, where they are certified, its norm's bounds."""
        bound = None
        if isinstance(value, Apply | Loop | Recurrence):
            at = value.leaf if isinstance(value, Apply) else value.node
            bound = norm(self.program, at)
        return str(value.type), str(bound or "")
