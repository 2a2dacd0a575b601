"""How deep an expression may nest, checked without recursion.

Later stages walk the tree recursively; what passes here is safe for them. A long flat chain
(`a @ b @ c`) is a left-deep tree, so it has a bound of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modnorm.diagnostics import Diagnostic, Span
from modnorm.syntax import tree

MAX_NESTING = 200
"""Brackets and operators inside each other."""
MAX_CHAIN = 400
"""Operators in a row."""

CHILDREN: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    tree.Call: lambda n: tuple(a.value for a in n.arguments),
    tree.Tare: lambda n: (n.module, n.mass),
    tree.Scan: lambda n: (n.cell, *((n.carry,) if n.carry else ())),
    tree.Assume: lambda n: (n.sensitivity, n.module),
    tree.ComposeFor: lambda n: (n.body, *n.range),
    tree.Tuple: lambda n: n.items,
    tree.Unary: lambda n: (n.operand,),
    tree.Binary: lambda n: (n.left, n.right),
    tree.Conditional: lambda n: (n.test, n.then, n.otherwise),
}
"""The expressions directly inside one; a node that is missing here has none."""

OUTER: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    tree.Body: lambda n: (n.value, *(b if isinstance(b, tree.Def) else b.value for b in n.where)),
    tree.Param: lambda n: (n.value,),
    tree.Input: lambda n: (*n.sizes, *((n.bound,) if n.bound else ())),
    tree.Def: lambda n: (n.body, *(f.default for f in n.formals if f.default)),
    tree.Shared: lambda n: (n.body,),
    tree.Model: lambda n: (n.body,),
    tree.Rename: lambda n: (n.value,),
    tree.Bond: lambda n: (
        n.formula,
        *n.constants,
        *(f.default for f in n.formals if f.default),
    ),
}
"""The same for statements, which do not count as a level."""


def too_deep(root: tree.Statement | tree.Expr) -> Diagnostic | None:
    """The first place where a statement nests too deeply, if there is one."""
    stack: list[tuple[Any, int, int]] = [(root, 0, 0)]
    while stack:
        node, nesting, chain = stack.pop()
        if nesting > MAX_NESTING:
            return nested(node.span)
        if chain > MAX_CHAIN:
            return _chained(node)
        if outer := OUTER.get(type(node)):
            stack.extend((child, 0, 0) for child in outer(node))
        inner = CHILDREN.get(type(node))
        for child in inner(node) if inner else ():
            if isinstance(node, tree.Binary) and child is node.left:
                stack.append((child, nesting, chain + 1))
            else:
                stack.append((child, nesting + 1, chain))
    return None


def nested(span: Span) -> Diagnostic:
    """E104 at the place where the nesting goes too far."""
    return Diagnostic(
        "E104",
        f"an expression nested more than {MAX_NESTING} deep",
        span,
        label="this is too deep",
        hint="name the inner parts with `def` or `where`",
    )


def _chained(node: tree.Binary) -> Diagnostic:
    return Diagnostic(
        "E104",
        f"a chain of more than {MAX_CHAIN} operators",
        node.operator_span if isinstance(node, tree.Binary) else node.span,
        label=f"more than {MAX_CHAIN} operators follow",
        hint="write `a ** n` for n copies, `compose(f(i) for i in range(n))` for a row of modules,"
        " or name parts of the chain with `def`",
    )
