"""What was found of a model and its optimizers, and how it is shown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from modnorm.adopting.faults import Finding
from modnorm.adopting.problems import FAULTS
from modnorm.adopting.treatment import Treatment
from modnorm.kernels.plan import Plan
from modnorm.report.blocks import Block, Cell, Column, Document, Facts, Notes, Section, table_of
from modnorm.report.words import encode, kind_of, plural


@dataclass(frozen=True)
class Audited:
    """A parameter: its role in the model (of its first weight, where it holds several), and what
    optimizers do with it. The role is "" where the run did not use it."""

    name: str
    role: str
    treatment: Treatment


@dataclass(frozen=True)
class Audit:
    """What was found of a model and its optimizers; it shows itself when printed.

    model: its class. findings: the faults, none where all is as it should be. parameters: all that
    are trained. notes: what could not be looked at. plan: what each of the parameters is.
    """

    model: str
    findings: tuple[Finding, ...]
    parameters: tuple[Audited, ...]
    notes: tuple[str, ...]
    plan: Plan

    @property
    def json(self) -> dict[str, Any]:
        """The audit as a dict with the keys of the JSON that `modnorm audit` writes."""
        return {
            "model": self.model,
            "findings": [one.to_json() for one in self.findings],
            "parameters": [
                {"name": one.name, "role": one.role, "treatment": str(one.treatment)}
                for one in self.parameters
            ],
            "notes": [*self.notes],
        }

    def __str__(self) -> str:
        return rendered(self, "text").rstrip("\n")

    def _repr_html_(self) -> str:
        """For a notebook: the page in a frame."""
        from modnorm.report.html import frame

        return frame(rendered(self, "html"))


KINDS = (
    Column[list[Audited]]("parameter", lambda many: Cell(shared(many), kind="code")),
    Column[list[Audited]]("", lambda many: f"{len(many)}", number=True),
    Column[list[Audited]]("role", lambda many: many[0].role or "not in this run"),
    Column[list[Audited]]("treatment", lambda many: str(many[0].treatment)),
)
"""Of parameters that differ in the numbers of layers only."""


def shared(many: list[Audited]) -> str:
    """What parameters of one kind are called."""
    return many[0].name if len(many) == 1 else kind_of(many[0].name)


def kinds(parameters: tuple[Audited, ...]) -> list[list[Audited]]:
    """Parameters that are called, used and treated alike, together."""

    def kind(one: Audited) -> tuple[str, str, str]:
        return kind_of(one.name), one.role, str(one.treatment)

    order: dict[tuple[str, str, str], int] = {}
    for one in parameters:
        order.setdefault(kind(one), len(order))
    ordered = sorted(parameters, key=lambda one: order[kind(one)])
    return [list(many) for _, many in groupby(ordered, kind)]


def alike(found: list[Finding]) -> Iterator[str]:
    """Messages, of those that differ in the numbers of layers only one."""
    counts = Counter(numberless(one.message) for one in found)
    first = {numberless(one.message): one.message for one in reversed(found)}
    for message, count in counts.items():
        same = f" So are {count - 1} more like it." if count > 1 else ""
        yield first[message] + same


def numberless(message: str) -> str:
    return re.sub(r"\.\d+(?=[.`\s,])", ".*", message)


def document(audit: Audit) -> Document:
    """How many faults there are, each of them, and every parameter with its role and treatment."""
    count = len(audit.findings)
    facts: list[tuple[str, str | Cell]] = [
        ("model", audit.model),
        ("parameters", f"{len(audit.parameters):,}"),
        ("findings", Cell(plural(count, "finding") if count else "none",
                          "bad" if count else "good")),
    ]  # fmt: skip
    blocks: list[Block] = [Facts(facts)]
    for fault, title in FAULTS.items():
        found = [one for one in audit.findings if one.fault == fault]
        if found:
            blocks.append(Notes([*alike(found)], fault, f"{fault}: {title}", "bad"))
    table = table_of(KINDS, kinds(audit.parameters), name="parameters")
    blocks.append(Section("Parameters", [table]))
    blocks.append(Notes(audit.notes))
    return Document(f"Audit of {audit.model}", blocks)


def rendered(audit: Audit, form: str, width: int = 80, color: bool = False) -> str:
    """The audit as "text", "json" or "html"; ends in a newline."""
    if form == "json":
        return encode(audit.json, indent=2) + "\n"
    if form == "html":
        from modnorm.report.html import pieces

        whole = document(audit)
        facts, *blocks = whole.blocks
        return pieces.page(whole.title, "".join(pieces.body([facts])), pieces.body(blocks))
    from modnorm.report.terminal import render

    return render(document(audit), width=width, color=color)
