"""The parts of docs/ that the sources say already, as Markdown.

Each function of `SECTIONS` makes one part from the place where its facts are declared: the grammar,
the operations' classes, the library's files, the bounds and the table of codes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import lark

import modnorm.ops  # noqa: F401  (registers the operations)
from modnorm.adopting.problems import FAULTS
from modnorm.diagnostics import CODES
from modnorm.grammar import grammar, library
from modnorm.graph.equivalents import BIASES, EQUIVALENTS, LEFT_OUT, RENAMED
from modnorm.graph.numbers import FUNCTIONS, show
from modnorm.ops import registry
from modnorm.ops.base import Atom, Misfit, Norm, Op, Reader
from modnorm.ops.formula_tree import KNOWN
from modnorm.ops.types import Symbol, Tensor, TupleType, Type, vectors
from modnorm.syntax.tables import OPTIONS
from modnorm.syntax.words import FORMS, KEYWORDS

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    *("syntax", "ops", "graph", "passes", "codegen", "report", "report/html", "measure"),
    *("data", "sweep", "adopting", "importing"),
)
BATCH, SEQ = Symbol(("batch",)), Symbol(("seq",))
VALUE = Tensor("float", (BATCH, SEQ, 12), None, ("batch", "other", "channel"))
HEADS = Tensor("float", (BATCH, 4, SEQ, 3))
NODES = vectors((Symbol(("nodes",)), 12), ("other",))
INPUTS: tuple[Type, ...] = (
    VALUE,
    Tensor("float", (BATCH, 3, 28, 28)),
    Tensor("float", (BATCH, 4, SEQ), None, ("batch", "channel", "space")),
    Tensor("int", (BATCH, SEQ)),
    TupleType((VALUE, VALUE)),
    TupleType((HEADS, HEADS, HEADS)),
)
"""Inputs to show an operation with: the first one that fits, without a warning, is taken."""
BETTER: dict[str, Type] = {
    "MergeHeads": HEADS,
    "RoPE": Tensor("float", (BATCH, 4, SEQ, 16)),
    "Reshape": Tensor("float", (BATCH, 12)),
    "Squeeze": Tensor("float", (BATCH, 1, 12)),
    "Unsqueeze": Tensor("float", (BATCH, 12)),
    "Transpose": vectors((BATCH, SEQ, 12), ("batch", "other")),
    "MatMul": TupleType((VALUE, Tensor("float", (BATCH, 12, SEQ)))),
    "Aggregate": TupleType((NODES, Tensor("int", (2, Symbol(("n",))), NODES.shape[0]))),
    "Experts": TupleType((Tensor("float", (BATCH, SEQ, 4, 12)), Tensor("float", (BATCH, SEQ, 4)))),
}
GIVEN: dict[str, Type] = {"Experts": TupleType((VALUE, Tensor("float", (BATCH, SEQ, 4))))}
"""What a user gives, where what the operation itself sees is another value."""
ARGUMENTS: dict[str, tuple[Any, str]] = {
    "size": (4, "4"),
    "sizes": ((4, 3), "4, 3"),
    "index": (0, "0"),
    "integer": (1, "1"),
    "axis": (1, "1"),
    "number": (Fraction(1, 2), "1/2"),
    "axes": (1, "1"),
    "window": (2, "2"),
    "embed": ("embed", "embed"),
    "pick": (0, "0"),
    "module": (None, "f"),
}
"""A value, and how it is written, for an argument of each kind that has to be given."""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in lines)


def code(text: object) -> str:
    return f"`{text}`"


# --- the grammar ----------------------------------------------------------------------------


def statements() -> str:
    """How each statement is written, with the rules behind it."""
    forms = "\n".join(form.replace("` or `", "\n") for form in FORMS.values())
    rules = grammar().split("// --- statements ---")[1].split("\n", 1)[1].split("// ---")[0]
    return f"```mod\n{forms}\n```\n\nThe grammar's rules:\n\n```lark\n{rules.strip()}\n```"


def keywords() -> str:
    return ", ".join(map(code, sorted(KEYWORDS.values(), key=str.lower)))


def precedence() -> str:
    """The operators by how tightly they bind, read off the grammar's chain of rules."""
    parser = lark.Lark(grammar(), **OPTIONS)
    signs = {t.name: str(t.pattern.value) for t in parser.terminals}
    rules: dict[str, list[Sequence[Any]]] = {}
    for rule in parser.rules:
        rules.setdefault(rule.origin.name, []).append(rule.expansion)
    rows: list[list[str]] = []
    level: str | None = "expression"
    while level is not None:
        tighter: str | None = None
        found: dict[str, None] = {}
        groups: dict[str, None] = {}
        for expansion in rules[level]:
            if len(expansion) == 1 and not expansion[0].is_term:
                tighter = expansion[0].name
                continue
            groups.setdefault(grouping([s.name for s in expansion], level))
            for symbol in expansion:
                found |= dict.fromkeys(operators(symbol, rules, signs))
        if level == "operand":
            break
        if found:
            rows.append([" ".join(map(code, found)), ", ".join(groups)])
        level = tighter
    rows.append(["`( )`, calls, names, numbers, strings", ""])
    return table(["operators, from the loosest to the tightest", "grouping"], rows)


def operators(
    symbol: Any, rules: dict[str, list[Sequence[Any]]], signs: dict[str, str]
) -> list[str]:
    """The operators that a symbol stands for; rules that leave no node are looked into."""
    if symbol.is_term:
        return [signs[symbol.name]]
    if not symbol.name.startswith("_"):
        return []
    inner = [x for expansion in rules[symbol.name] for x in expansion if x.name != symbol.name]
    return [sign for x in inner for sign in operators(x, rules, signs)]


def grouping(names: list[str], level: str) -> str:
    """How equal operators in a row group, from the shape of their rule."""
    first, last = names[0], names[-1]
    if first == level:
        return "left to right"
    if first.isupper():
        return "before its operand"
    if last.startswith("__"):
        return "chained, as in Python: `a < b < c` is `a < b and b < c`"
    return "right to left"


def number_functions() -> str:
    return ", ".join(
        code(f"{name}(…)" if most != 1 else f"{name}(x)")
        for name, (_, _, most) in FUNCTIONS.items()
    )


def formula_functions() -> str:
    return ", ".join(map(code, KNOWN))


# --- operations -----------------------------------------------------------------------------


def atoms() -> str:
    return "\n\n".join(operation(op) for op in listed() if issubclass(op, Atom | Reader))


def bonds() -> str:
    return "\n\n".join(operation(op) for op in listed() if not issubclass(op, Atom | Reader))


def listed() -> list[type[Op]]:
    """The operations of this project, plugins of whoever runs this left out."""
    found = registry.builtin().values()
    return [op for op in found if not op.internal and op.__module__.startswith("modnorm.ops.")]


def operation(op: type[Op]) -> str:
    """One operation: its documentation, and what it declares for an example."""
    call, sample = example(op)
    inside, out = fitted(sample)
    given = GIVEN.get(op.name, inside)
    rows = [["example", f"{code(call)}: {code(given)} → {code(out)}"]]
    resolved, _ = sample.resolve(inside)
    if isinstance(resolved, Atom):
        shape = ", ".join(map(str, resolved.weight_shape))
        rows += [
            ["weight", f"{code(f'({shape})')}, mass {show(resolved.mass)}"],
            ["norm of the weight", resolved.norm.formula],
            *choices(resolved),
        ]
    rows += [["sensitivity", sensitivity(resolved)], ["sharpness (α, β, γ)", sharpness(resolved)]]
    if op.origin:
        rows.append(["where the declared value comes from", op.origin])
    lines = [f"{left}: {right}" for left, right in rows]
    return f"### `{op.signature()}`\n\n{paragraphs(op)}\n\n" + "\n".join(f"* {x}" for x in lines)


def choices(op: Atom) -> Iterator[list[str]]:
    """The norm of the weight for each value of an argument that decides it."""
    for argument in op.arguments():
        norms: dict[str, Norm] = {}
        for choice in argument.choices:
            with suppress(Misfit):
                norms[choice] = dataclasses.replace(op, **{argument.field: choice}).norm
        for choice, norm in norms.items() if len(set(norms.values())) > 1 else ():
            call = code(f'{argument.name} = "{choice}"')
            yield [f"with {call}", f"{norm.formula}, from {norm.values}"]


def paragraphs(op: type[Op]) -> str:
    """The class's docstring."""
    return inspect.cleandoc(op.__doc__ or "")


def example(op: type[Op]) -> tuple[str, Op]:
    """A call with sizes and what has to be given, and the operation that it makes."""
    given, fields = [], {}
    for argument in op.arguments():
        if argument.required or argument.takes_all:
            value, text = ARGUMENTS[argument.kind]
            given.append(text)
            fields[argument.field] = value
    if issubclass(op, Reader):
        fields |= {"count": 100, "dim": 12}
    return f"{op.name}({', '.join(given)})" if given else op.name, op(**fields)


def fitted(op: Op) -> tuple[Type, Type]:
    """An input that fits, and the output's type."""
    for inside in (BETTER.get(op.name), *INPUTS):
        try:
            if inside is not None:
                out = op.resolve(inside)[1]
                if not op.cautions(inside):
                    return inside, out
        except Misfit:
            continue
    raise LookupError(f"{op.name} fits none of the example inputs: add one to INPUTS")


def sensitivity(op: Op) -> str:
    declared, certified = op.sensitivity, op.certified
    if isinstance(certified, str):
        return f"{show(declared)} declared; not certified: {certified}"
    if certified == declared:
        return f"{show(declared)}, declared and certified"
    return f"{show(declared)} declared, {show(certified)} certified"


def sharpness(op: Op) -> str:
    found = op.sharpness
    if found is None:
        return "none, it is not smooth"
    return f"({found.alpha:g}, {found.beta:g}, {found.gamma:.6g})"


# --- library, bounds, codes -----------------------------------------------------------------


def foreign_names() -> str:
    """What to write for names of other libraries."""
    rows = []
    for row in EQUIVALENTS:
        here = "" if row.instead else "not there yet"
        if row.write:
            here = (f"{code(row.add)}, then " if row.add else "") + code(row.write)
        rows.append(
            [", ".join(map(code, row.names.split())), "; ".join(filter(None, (here, row.note)))]
        )
    return table(["elsewhere", "here"], rows)


def foreign_arguments() -> str:
    """What to write for arguments of other libraries."""
    rows: dict[str, list[str]] = {}
    for name, names in RENAMED.items():
        rows.setdefault(" or ".join(map(code, names)), []).append(code(name))
    rows["a bias is an operation of its own: `Bias @ f`"] = [code(name) for name in BIASES]
    for name, why in LEFT_OUT.items():
        rows.setdefault(f"left out: {why}", []).append(code(name))
    return table(["elsewhere", "here"], [[", ".join(names), here] for here, names in rows.items()])


def library_files() -> str:
    """The files of `std`, as they are."""
    return "\n\n".join(
        f"### `std.{name}`\n\n```mod\n{place.read_text(encoding='utf-8').strip()}\n```"
        for name, place in library().items()
    )


def bounds() -> str:
    """Every constant `MAX_…` of the front end with the words below it."""
    rows = []
    for folder in ("syntax", "graph"):
        for file in sorted((ROOT / "compiler" / folder).glob("*.py")):
            for name, value, words in maxima(file):
                shown = f"{value:,}" if value < 10**9 else _power(value)
                rows.append([words.rstrip("."), shown, code(f"{folder}/{file.name}: {name}")])
    return table(["what", "at most", "where"], rows)


def _power(value: int) -> str:
    for power in range(20, 64):
        if value in (2**power, 2**power - 1):
            return f"2^{power}" + (" - 1" if value % 2 else "")
    return f"{value:,}"


def maxima(file: Path) -> Iterator[tuple[str, int, str]]:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for node, after in zip(body, [*body[1:], None], strict=False):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        if name.startswith("MAX_"):
            value = eval(compile(ast.Expression(node.value), str(file), "eval"), {})
            words = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                words = " ".join(str(after.value.value).split())
            yield name, value, words or name.removeprefix("MAX_").replace("_", " ").lower()


def codes() -> str:
    return table(["code", "title"], [[code(key), title] for key, title in CODES.items()])


def faults() -> str:
    return table(["fault", "what"], [[code(key), title] for key, title in FAULTS.items()])


# --- files ----------------------------------------------------------------------------------


def files() -> str:
    """Every source file of the package with the first line of its docstring."""
    folders = ["grammar", *(f"compiler/{name}" for name in STAGES), "compiler", "kernels"]
    parts = []
    for folder in folders:
        rows = [[code(file.name), summary(file)] for file in sorted((ROOT / folder).glob("*.py"))]
        rows = [row for row in rows if row[1]]
        parts.append(f"### `{folder}/`\n\n{table(['file', 'what it does'], rows)}")
    return "\n\n".join(parts)


def summary(file: Path) -> str:
    words = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(words.split("\n\n")[0].split())


SECTIONS: dict[str, Callable[[], str]] = {
    "statements": statements,
    "keywords": keywords,
    "precedence": precedence,
    "number functions": number_functions,
    "formula functions": formula_functions,
    "atoms": atoms,
    "bonds": bonds,
    "foreign names": foreign_names,
    "foreign arguments": foreign_arguments,
    "library": library_files,
    "bounds": bounds,
    "codes": codes,
    "faults": faults,
    "files": files,
}
"""What can stand between `<!-- begin: NAME -->` and `<!-- end: NAME -->`."""
