"""The Python interface as Markdown, from signatures and docstrings; nothing is imported for it."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100

Shown = tuple[tuple[str, str], ...]
"""Files, and the names that are shown of each."""

FUNCTIONS: Shown = (
    ("compiler/api.py", "compile load"),
    ("compiler/report/interface.py", "report explain"),
    ("compiler/measure/interface.py", "check"),
    ("compiler/api.py", "transfer"),
    ("compiler/report/monitor.py", "read_monitor"),
    ("compiler/report/interface.py", "analyse_text"),
)
RESULTS: Shown = (
    ("compiler/report/interface.py", "Report Explained"),
    ("compiler/measure/interface.py", "Check"),
    ("compiler/sweep/interface.py", "Transfer"),
    ("compiler/report/monitor.py", "Monitored"),
)
ERRORS: Shown = (
    ("compiler/report/interface.py", "ModnormError"),
    ("compiler/measure/problems.py", "CheckError"),
    ("compiler/data/fetch.py", "DataError"),
    ("compiler/report/monitor.py", "MonitorError"),
)
DATA: Shown = (
    ("compiler/data/texts.py", "load describe Text"),
    ("compiler/data/images.py", "Images"),
    ("compiler/data/functions.py", "Function"),
)
GENERATED: Shown = (
    ("kernels/optimizer.py", "NormedOptimizer"),
    ("kernels/adam.py", "NormedAdam"),
    ("kernels/sgd.py", "NormedSGD DualizedSGD"),
    ("kernels/monitor.py", "Monitor"),
)
INTERNAL = {"add_param_group", "match", "fresh"}
"""Methods of optimizers that only they call."""

Node = ast.FunctionDef | ast.ClassDef


def section(shown: Shown, prefix: str = "", made: bool = False) -> Callable[[], str]:
    """A section; with `made` it says how objects of its classes are made."""

    def text() -> str:
        return "\n\n".join(
            entry(found(file, name), prefix, made)
            for file, names in shown
            for name in names.split()
        )

    return text


def found(file: str, name: str) -> Node:
    """The definition of a function or class: the last one, which overloads stand before.

    Raises:
        LookupError: if the file has none of that name.
    """
    for node in reversed(ast.parse((ROOT / file).read_text(encoding="utf-8")).body):
        if isinstance(node, Node) and node.name == name:
            return node
    raise LookupError(f"{file} defines no {name}")


def entry(node: Node, prefix: str, made: bool) -> str:
    """A function or a class, with its signature, its docstring and what of it is public."""
    words = ast.get_docstring(node)
    if not words:
        raise LookupError(f"{node.name} has no docstring")
    parts = [f"### `{prefix}{node.name}`"]
    if isinstance(node, ast.FunctionDef):
        parts.append(fenced(f"{prefix}{node.name}", node))
        return "\n\n".join([*parts, markdown(words)])
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__" and made:
            parts.append(fenced(f"{prefix}{node.name}", inner))
    parts.append(markdown(words))
    members = list(public(node))
    return "\n\n".join([*parts, "\n".join(members)] if members else parts)


def public(node: ast.ClassDef) -> Iterator[str]:
    """A line for each public field, property and method, with the first words on it."""
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign) and node.decorator_list:  # a dataclass
            yield f"* `{ast.unparse(inner.target)}: {ast.unparse(inner.annotation)}`"
        if not isinstance(inner, ast.FunctionDef) or inner.name[0] == "_" or inner.name in INTERNAL:
            continue
        if not (words := ast.get_docstring(inner)):
            continue
        names = {d.id for d in inner.decorator_list if isinstance(d, ast.Name)}
        call = inner.name if "property" in names else one_line(inner.name, inner)
        yield f"* `{call}`: {' '.join(words.split(chr(10) * 2)[0].split())}"


def arguments(node: ast.FunctionDef) -> list[str]:
    """The arguments as they are written, `self` left out."""
    given, rest = [], node.args
    positional = [*rest.posonlyargs, *rest.args]
    defaults = [None] * (len(positional) - len(rest.defaults)) + list(rest.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        if argument.arg != "self":
            given.append(written(argument, default))
        if rest.posonlyargs and argument is rest.posonlyargs[-1]:
            given.append("/")
    if rest.vararg:
        given.append(f"*{written(rest.vararg, None)}")
    elif rest.kwonlyargs:
        given.append("*")
    given += [written(a, d) for a, d in zip(rest.kwonlyargs, rest.kw_defaults, strict=True)]
    return [*given, f"**{written(rest.kwarg, None)}"] if rest.kwarg else given


def written(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{kind}{f' = {ast.unparse(default)}' if default else ''}"


def one_line(name: str, node: ast.FunctionDef) -> str:
    kind = ast.unparse(node.returns) if node.returns else "None"
    return f"{name}({', '.join(arguments(node))}){'' if kind == 'None' else f' -> {kind}'}"


def fenced(name: str, node: ast.FunctionDef) -> str:
    """The signature, an argument a line where it is long."""
    text = one_line(name, node)
    if len(text) > WIDTH:
        end = text.rpartition(")")[2]
        inner = "".join(f"    {argument},\n" for argument in arguments(node))
        text = f"{name}(\n{inner}){end}"
    return f"```py\n{text}\n```"


NAMED = re.compile(r"(\w+(?:, \w+)*): ")


def markdown(words: str) -> str:
    """A docstring as Markdown: named arguments and errors become lists."""
    return "\n\n".join(paragraph(text) for text in words.split("\n\n"))


def paragraph(text: str) -> str:
    if text.startswith("Raises:\n"):
        return f"Raises:\n\n{items(textwrap.dedent(text.partition(chr(10))[2]))}"
    return items(text) if NAMED.match(text) else escaped(text)


def items(text: str) -> str:
    """`name: words`, with further lines indented, as a list."""
    joined = re.sub(r"\n +", " ", text)
    return "\n".join(
        NAMED.sub(lambda m: f"* {', '.join(f'`{n}`' for n in m[1].split(', '))}: ", line, count=1)
        for line in escaped(joined).split("\n")
    )


def escaped(text: str) -> str:
    """Stars that stand for themselves; code is left alone."""
    if text.startswith("    "):
        return text
    return re.sub(r"(`[^`]*`)|\*", lambda m: m[1] or r"\*", text)


SECTIONS: dict[str, Callable[[], str]] = {
    "python functions": section(FUNCTIONS, "modnorm."),
    "python results": section(RESULTS, "modnorm."),
    "python errors": section(ERRORS, "modnorm."),
    "python data": section(DATA),
    "generated classes": section(GENERATED, made=True),
}
"""What can stand between `<!-- begin: NAME -->` and `<!-- end: NAME -->`."""
