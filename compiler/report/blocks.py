"""The blocks of a document: facts, tables, texts, notes and sections of them.

They are data, and the same for a terminal, Markdown and HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from modnorm.diagnostics import Diagnostic

NONE = "–"
"""What stands where there is no value."""
NO_BREAK = "\u00a0"
"""A space at which no line ends; it is shown as one."""

Tone = Literal["", "good", "warn", "bad", "dim", "strong"]
Kind = Literal["plain", "code", "marked"]


@dataclass(frozen=True)
class Cell:
    """A text and what it means.

    A plain text is shown as it is, `code` as code, and in a `marked` one what stands between
    backquotes is code. `brief` stands for it where there is no room. `guide` is drawn before it in
    a terminal, and elsewhere it is indented by `depth`. `bar` is a part of 1, drawn as a bar where
    there is room.
    """

    text: str
    tone: Tone = ""
    brief: str = ""
    kind: Kind = "plain"
    guide: str = ""
    depth: int = 0
    bar: float | None = None


def as_cell(text: str | Cell) -> Cell:
    return Cell(text) if isinstance(text, str) else text


@dataclass(frozen=True)
class Facts:
    """Labels and values. The first says what the document is on: in its title, where it has one."""

    rows: Sequence[tuple[str, str | Cell]]


@dataclass(frozen=True)
class Table:
    """Rows under titles; columns of `numbers` are aligned to the right.

    cut: the column whose texts are cut in a narrow terminal; without one texts take more lines.
    spare: columns that a narrow table can do without, the first to go first; `BRIEF` stands for
    what is long in cells.
    name: what it is of, for who does not see it.
    """

    titles: tuple[str, ...]
    rows: Sequence[Sequence[str | Cell]]
    numbers: frozenset[str] = frozenset()
    spare: tuple[str, ...] = ()
    cut: str = ""
    name: str = ""

    def cells(self) -> list[list[Cell]]:
        return [[as_cell(cell) for cell in row] for row in self.rows]

    def without(self, title: str) -> Table:
        """The table without a column, or with brief cells."""
        rows = self.cells()
        if title == BRIEF:
            brief = [
                [replace(c, text=c.brief or c.text, brief="", bar=None) for c in row]
                for row in rows
            ]
            return replace(self, rows=brief)
        at = self.titles.index(title)
        titles = self.titles[:at] + self.titles[at + 1 :]
        return replace(self, titles=titles, rows=[row[:at] + row[at + 1 :] for row in rows])


BRIEF = "(brief)"
Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table as data: its title, and what it says of something."""

    title: str
    cell: Callable[[Row], str | Cell]
    number: bool = False


def table_of(
    columns: Sequence[Column[Row]],
    rows: Iterable[Row],
    *,
    spare: tuple[str, ...] = (),
    cut: str = "",
    name: str = "",
) -> Table:
    """A table with a row for each of some things."""
    return Table(
        tuple(column.title for column in columns),
        [[column.cell(row) for column in columns] for row in rows],
        frozenset(column.title for column in columns if column.number),
        spare,
        cut,
        name,
    )


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str | Cell


@dataclass(frozen=True)
class Figure:
    """A picture as SVG, which only pages show."""

    svg: str


@dataclass(frozen=True)
class Notes:
    """What a reader has to know, a sentence each; `one` is what each of them is."""

    items: Sequence[str]
    one: str = "note"
    title: str = "Notes"
    tone: Tone = "warn"


@dataclass(frozen=True)
class Problems:
    """Diagnostics."""

    found: Sequence[Diagnostic]


@dataclass(frozen=True)
class Section:
    """Blocks under a title, or without one. What is a `detail` is left out in a terminal."""

    title: str | Cell
    blocks: Sequence[Block]
    detail: bool = False


Block = Facts | Table | Text | Figure | Notes | Problems | Section


@dataclass(frozen=True)
class Document:
    """A title, which a terminal does not show, and blocks."""

    title: str
    blocks: Sequence[Block]
