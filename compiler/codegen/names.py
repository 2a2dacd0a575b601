"""Names in the generated file: unique, legal, and not those that the file uses itself."""

from __future__ import annotations

import ast
import builtins
import keyword
from collections.abc import Iterable

from modnorm.graph.place import legal

BUILTINS = frozenset(dir(builtins))


class Names:
    """Hands out names, each once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)

    def claim(self, name: str) -> str:
        """The name, or the nearest free and legal variation of it."""
        name = legal(name)
        candidate = f"{name}_" if keyword.iskeyword(name) or name in self.taken else name
        number = 2
        while candidate in self.taken:
            candidate = f"{name}{number}"
            number += 1
        self.taken.add(candidate)
        return candidate


def local(tree: ast.Module, method: str) -> set[str]:
    """The variables and arguments of the methods of that name."""
    found: set[str] = set()
    for node in _methods(tree, method):
        found |= {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)}
        names = (inner for inner in ast.walk(node) if isinstance(inner, ast.Name))
        found |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return found


def meant(tree: ast.Module, method: str) -> set[str]:
    """The names that methods of that name have from the module around them."""
    names = (n for m in _methods(tree, method) for n in ast.walk(m) if isinstance(n, ast.Name))
    return {name.id for name in names} - local(tree, method)


def _methods(tree: ast.Module, name: str) -> list[ast.FunctionDef]:
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    functions = (n for c in classes for n in c.body if isinstance(n, ast.FunctionDef))
    return [function for function in functions if function.name == name]
