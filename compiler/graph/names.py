"""Scopes of a file: which statement a name means, and the mistakes that show without evaluating."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol, TypeAlias

from modnorm.diagnostics import Diagnostic, Diagnostics, Label, Span, did_you_mean
from modnorm.grammar import library
from modnorm.graph import equivalents
from modnorm.graph.numbers import FUNCTIONS
from modnorm.ops import registry
from modnorm.ops.formula_tree import KNOWN as FORMULA_FUNCTIONS
from modnorm.syntax import tree
from modnorm.syntax.depth import CHILDREN
from modnorm.syntax.foreign import IN_EXPRESSIONS

ALSO = 2
"""Further mentions shown of a name that is unknown."""
MAX_HINTS = 50
"""Unknown names of a file for which a similar one is looked for."""
PRELUDE = "nn"
"""The module of the library whose capital names need no import."""
EMPTY: Mapping[str, Span] = {}

OF_TENSORS = {
    "part": 'part("TENSOR", start, end, dim = 0, every = n)',
    "transposed": 'transposed("TENSOR")',
}
"""The functions that a `rename` may use, and how they are called."""

KINDS = {
    tree.Param: "param",
    tree.Def: "definition",
    tree.Shared: "shared module",
    tree.Bond: "bond",
}


class Resolver(Protocol):
    """Finds the file that an import statement means."""

    def imported(
        self, file: tree.File, statement: tree.ImportModule | tree.ImportNames
    ) -> tree.File | None: ...

    def library(self, module: str) -> tree.File: ...


Definition: TypeAlias = tree.Param | tree.Input | tree.Def | tree.Shared | tree.Bond | tree.Model


@dataclass(eq=False)
class Namespace:
    """The names of one file. Imported names are entries of another file's namespace."""

    file: tree.File
    is_main: bool
    own: dict[str, Definition] = field(default_factory=dict)
    modules: dict[str, tuple[Namespace, Span]] = field(default_factory=dict)
    names: dict[str, tuple[Namespace, str, Span]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """Names whose import failed or whose definition could not be read: reported, then silent."""
    twice: bool = False
    """Whether a name is defined twice: reported, and then not said to be unused."""

    def find(self, name: str) -> tuple[Namespace, Definition] | None:
        """The definition that a name means here, and the namespace that it belongs to."""
        seen: set[tuple[int, str]] = set()
        space, key = self, name
        while (id(space), key) not in seen:
            seen.add((id(space), key))
            if key in space.own:
                return space, space.own[key]
            if key not in space.names:
                return None
            space, key, _ = space.names[key]
        return None

    def known(self) -> list[str]:
        return [*self.own, *self.modules, *self.names]


def build(main: tree.File, resolver: Resolver, diagnostics: Diagnostics) -> Namespace:
    """The namespace of the main file, with those of every file it imports."""
    spaces: dict[int, Namespace] = {}

    def of(file: tree.File) -> Namespace:
        if id(file) in spaces:
            return spaces[id(file)]
        space = spaces[id(file)] = Namespace(file, is_main=file is main)
        places: dict[str, Span] = {}

        def claim(name: str, span: Span) -> bool:
            if name in places:
                space.twice = True
                diagnostics.add(
                    Diagnostic(
                        "E202",
                        f"`{name}` is defined twice",
                        span,
                        "defined again here",
                        (Label(places[name], "first defined here"),),
                        "rename one of the two",
                    )
                )
                return False
            places[name] = span
            return True

        for statement in file.statements:
            if isinstance(statement, tree.ImportModule):
                target = resolver.imported(file, statement)
                if claim(statement.alias, statement.span):
                    if target is None:
                        space.broken.add(statement.alias)
                    else:
                        space.modules[statement.alias] = (of(target), statement.span)
            elif isinstance(statement, tree.ImportNames):
                target = resolver.imported(file, statement)
                for name, local, span in statement.names:
                    if not claim(local, span):
                        continue
                    if target is None:
                        space.broken.add(local)
                        continue
                    other = of(target)
                    space.names[local] = (other, name, span)
            elif not isinstance(statement, tree.Rename) and claim(
                statement.name, statement.name_span
            ):
                space.own[statement.name] = statement
        for local, (other, name, span) in space.names.items():
            if space.find(local) is not None:
                continue
            space.broken.add(local)
            if name not in other.broken:
                diagnostics.add(
                    Diagnostic(
                        "E201",
                        f"`{other.file.source.name}` defines no `{name}`",
                        span,
                        hint=did_you_mean(name, other.known()),
                    )
                )
        for broken in file.broken:
            space.broken |= broken.names - places.keys()
        return space

    top = of(main)
    for space in tuple(spaces.values()):
        _Checker(space, diagnostics, lambda: of(resolver.library(PRELUDE))).run()
    return top


def mentions(expr: tree.Expr) -> Iterator[tuple[tree.Name, bool, frozenset[str]]]:
    """Every name mentioned: (name, whether it is called, loop variables around it)."""
    stack: list[tuple[tree.Expr, frozenset[str]]] = [(expr, frozenset())]
    while stack:
        node, bound = stack.pop()
        match node:
            case tree.Name():
                yield node, False, bound
            case tree.Call():
                yield node.function, True, bound
                stack.extend((a.value, bound) for a in reversed(node.arguments))
            case tree.Tare():
                stack.extend([(node.mass, bound), (node.module, bound)])
            case tree.Scan(cell=cell, carry=carry):
                stack.extend((e, bound) for e in (carry, cell) if e is not None)
            case tree.Assume():
                stack.extend([(node.module, bound), (node.sensitivity, bound)])
            case tree.ComposeFor():
                stack.append((node.body, bound | {node.variable}))
                stack.extend((r, bound) for r in node.range)
            case tree.Tuple():
                stack.extend((item, bound) for item in reversed(node.items))
            case tree.Unary():
                stack.append((node.operand, bound))
            case tree.Binary():
                stack.extend([(node.right, bound), (node.left, bound)])
            case tree.Conditional():
                stack.extend((e, bound) for e in (node.otherwise, node.then, node.test))
            case _:
                pass


@cache
def without_import() -> tuple[str, ...]:
    """The definitions of the library that are mentioned as operations are: the capital ones of a
    module whose names are like theirs.
    """
    text = library()[PRELUDE].read_text("utf-8")
    return tuple(re.findall(r"^def ([A-Z]\w*)", text, re.MULTILINE))


def in_library(name: str) -> str:
    """What to import, where the library defines a name, however its letters are cased."""
    for module, file in library().items():
        for known in re.findall(r"^(?:def|bond) (\w+)", file.read_text("utf-8"), re.MULTILINE):
            if known.lower() == name.lower():
                return f"add `from std.{module} import {known}` at the top"
    return ""


def is_operation(name: tree.Name, space: Namespace) -> bool:
    """Whether a name means an operation, and nothing that a file defines."""
    single = len(name.parts) == 1 and space.find(name.text) is None
    return single and name.text not in space.broken and registry.find(name.text) is not None


def _declared(name: tree.Name, expr: tree.Expr) -> str:
    """What to declare, for a name in an expression that an operation is given as a value."""
    stack: list[tree.Expr] = [expr]
    while stack:
        node = stack.pop()
        inner = CHILDREN.get(type(node))
        stack.extend(inner(node) if inner else ())
        op = registry.find(node.function.text) if isinstance(node, tree.Call) else None
        kinds = {a.name: a.kind for a in op.arguments()} if op is not None else {}
        for argument in node.arguments if isinstance(node, tree.Call) else ():
            if argument.value is name and kinds.get(argument.name or "") == "member":
                return f"declare it with its type and sizes: `input {name.text}: bool[batch, …]`"
    return ""


class _Checker:
    """Reports every unknown name of a file, and in the main file what is never used.

    `prelude` gives the file whose capital names need no import; a mention of one imports it.
    """

    def __init__(
        self, space: Namespace, diagnostics: Diagnostics, prelude: Callable[[], Namespace]
    ) -> None:
        self.space, self.diagnostics, self.prelude = space, diagnostics, prelude
        self.used: set[str] = set()
        self.unknown: dict[str, Diagnostic] = {}

    def run(self) -> None:
        file = self.space.file
        for statement in file.statements:
            match statement:
                case tree.Param():
                    self.expression(statement.value, {}, statement.name)
                case tree.Input():
                    self.input(statement)
                case tree.Def():
                    formals = self.formals(statement.formals, statement.name)
                    self.body(statement.body, formals, statement.name)
                case tree.Shared() | tree.Model():
                    self.body(statement.body, {}, statement.name)
                case tree.Bond():
                    self.bond(statement)
                case tree.Rename():
                    known = dict.fromkeys(OF_TENSORS, statement.span)
                    self.expression(statement.value, known, "")
                case _:
                    pass
        self.diagnostics.extend(self.unknown.values())
        # a name that is misspelt, or mentioned in what could not be read, is not unused
        whole = any(isinstance(statement, tree.Model) for statement in file.statements)
        if whole and self.space.is_main and not (self.unknown or self.space.twice or file.broken):
            self.unused()

    def bond(self, bond: tree.Bond) -> None:
        formals = self.formals(bond.formals, bond.name)
        self.expression(bond.formula, formals, bond.name, formula=True)
        tensor = bond.formals[0]
        for expr in bond.constants:
            what, hint = "sensitivity", "declare the largest slope that the formula has for any x"
            if expr is not bond.sensitivity:
                what, hint = "range", "say from which number to which values go"
            for name, _, _ in mentions(expr):
                if name.text == tensor.name:
                    self.diagnostics.add(
                        Diagnostic(
                            "E302",
                            f"the {what} of `{bond.name}` is a constant and cannot depend on"
                            f" `{tensor.name}`",
                            name.span,
                            others=(Label(tensor.span, "the tensor"),),
                            hint=hint,
                        )
                    )
            self.expression(expr, formals, bond.name)

    def formals(
        self, formals: tuple[tree.Formal, ...], owner: str, local: Mapping[str, Span] = EMPTY
    ) -> dict[str, Span]:
        names = self.distinct((f.name, f.span) for f in formals)
        for formal in formals:
            if formal.default is not None:
                self.expression(formal.default, local, owner)
        return names

    def distinct(self, names: Iterable[tuple[str, Span]]) -> dict[str, Span]:
        found: dict[str, Span] = {}
        for name, span in names:
            if name in found:
                self.space.twice = True
                self.diagnostics.add(
                    Diagnostic(
                        "E202",
                        f"`{name}` is defined twice",
                        span,
                        "defined again here",
                        (Label(found[name], "first defined here"),),
                        "rename one of the two",
                    )
                )
            found.setdefault(name, span)
        return found

    def body(self, body: tree.Body, local: Mapping[str, Span], owner: str) -> None:
        where = self.distinct((b.name, b.name_span) for b in body.where)
        scope = {**local, **where}
        self.expression(body.value, scope, owner)
        used: set[str] = {n.parts[0] for n, _, _ in mentions(body.value)}
        for binding in body.where:
            inside: list[tree.Expr] = []
            inner = scope
            if isinstance(binding, tree.Def):
                inner = {**scope, **self.formals(binding.formals, owner, scope)}
                inside = [f.default for f in binding.formals if f.default is not None]
            value = binding.body.value if isinstance(binding, tree.Def) else binding.value
            self.expression(value, inner, owner)
            heads = {n.parts[0] for expr in (value, *inside) for n, _, _ in mentions(expr)}
            used |= heads - {binding.name}
        for name, span in where.items():
            if name not in used and self.space.is_main and not self.space.twice:
                self.warn_unused("local definition", name, span)

    def input(self, statement: tree.Input) -> None:
        for size in statement.sizes:
            if isinstance(size, tree.Name) and len(size.parts) == 1:
                self.used.add(size.text)
            else:
                self.expression(size, {}, statement.name)
        bound = statement.bound
        if bound is None:
            return
        inputs = [s for s in self.space.file.statements if isinstance(s, tree.Input)]
        sizes = (size for other in inputs for size in other.sizes)
        free = {size.text: size.span for size in sizes if isinstance(size, tree.Name)}
        if isinstance(bound, tree.Name) and bound.text in {i.name for i in inputs} - free.keys():
            message = f"a bound is a number or the name of a size, but `{bound.text}` is an input"
            hint = f"it may be one of {', '.join(f'`{size}`' for size in free)}" if free else ""
            self.report(bound, message, lambda: hint, code="E302")
        else:
            self.expression(bound, free, statement.name)

    def expression(
        self, expr: tree.Expr, local: Mapping[str, Span], owner: str, *, formula: bool = False
    ) -> None:
        for name, called, loops in mentions(expr):
            head = name.parts[0]
            single = len(name.parts) == 1
            if single and (head in loops or head in local):
                if formula and called:
                    self.not_in_formula(name)
                continue
            if head != owner:
                self.used.add(head)
            if called and single and head in (FORMULA_FUNCTIONS if formula else FUNCTIONS):
                continue
            if formula and (called or is_operation(name, self.space)):
                self.not_in_formula(name)
            else:
                self.name(name, [*local, *loops], expr)

    def not_in_formula(self, name: tree.Name) -> None:
        near = did_you_mean(name.text, FORMULA_FUNCTIONS)
        known = f"it may use {' '.join(FORMULA_FUNCTIONS)}"
        self.report(name, f"a bond's formula cannot use `{name.text}`", lambda: near or known)

    def name(self, name: tree.Name, local: Iterable[str], expr: tree.Expr) -> None:
        space, head = self.space, name.parts[0]
        if head in space.broken:
            return
        if len(name.parts) == 1:
            if space.find(head) is not None:
                return
            if head in space.modules:
                _, span = space.modules[head]
                self.report(
                    name,
                    f"`{head}` is an imported file, not a value",
                    lambda: f"name one of its definitions: `{head}.…`",
                    (Label(span, "imported here"),),
                )
                return
            if registry.find(head) is not None:
                return
            if head in without_import():
                space.names[head] = (self.prelude(), head, name.span)
                return
            message = f"unknown name `{head}`"
            self.report(name, message, lambda: self.mend_name(head, local) or _declared(name, expr))
            return
        if head not in space.modules:
            message = f"`{head}` is not an imported file"
            if head in equivalents.PREFIXES:
                message = f"unknown name `{name.text}`"
            known = space.find(head)
            if head in local or (known and isinstance(known[1], tree.Def | tree.Shared)):
                message = (
                    f"`{head}` is not an imported file, and nothing else has parts behind a dot"
                )
                member = name.parts[-1]
                hint = f'a member of a tuple is taken by its name: `Select("{member}") @ {head}`'
                self.report(name, message, lambda: hint)
                return
            self.report(name, message, lambda: self.mend_module(name))
            return
        other, _ = space.modules[head]
        _, member, *more = name.parts
        if more:
            message = f"`{head}.{member}` has no parts that can be named"
            self.report(name, message, lambda: f"write `{head}.{member}`")
        elif other.find(member) is None and member not in other.broken:
            message = f"`{other.file.source.name}` defines no `{member}`"
            self.report(
                name,
                message,
                lambda: equivalents.exact(member) or did_you_mean(member, other.own),
            )

    def mend_name(self, head: str, local: Iterable[str]) -> str:
        own = [*local, *self.space.known(), *self.space.broken]
        known = [*own, *registry.names(), *without_import(), *FUNCTIONS]
        same = [name for name in known if name.lower() == head.lower()]
        foreign = IN_EXPRESSIONS.get(head) or equivalents.equivalent(head)
        if foreign and not any(name in own or f"`{name}" in foreign for name in same):
            return foreign  # `linear` is `Linear`, but `mul` is not `Mul`
        return did_you_mean(head, same or known) or in_library(head)

    def mend_module(self, name: tree.Name) -> str:
        """What to write for `head.member` where no file is imported as `head`."""
        head, member, *more = name.parts
        if head == "std" and member in library() and len(more) == 1:
            added = "" if member in self.space.modules else f"add `import std.{member}` and "
            return f"{added}write `{member}.{more[0]}`"
        member = name.parts[-1]
        foreign = head in equivalents.PREFIXES
        other = foreign and (equivalents.exact(member) or not in_library(member))
        if head in library() and not other:
            return f"add `import std.{head}` at the top"
        if foreign and member in without_import():
            return f"it stands without a prefix: write `{member}`"
        if foreign:
            return equivalents.prefixed(member)
        if head == "self":
            return "a part is named by `def` or `where`, and mentioned without `self`"
        near = did_you_mean(head, self.space.modules)
        return near or f'import it first: `import "{head}.mod"`'

    def report(
        self,
        name: tree.Name,
        message: str,
        hint: Callable[[], str],
        others: tuple[Label, ...] = (),
        code: str = "E201",
    ) -> None:
        """A name that is unknown, or means nothing here, once however often it is mentioned."""
        known = self.unknown.get(name.text)
        if known is None:
            shown = hint() if len(self.unknown) < MAX_HINTS else ""
            known = Diagnostic(code, message, name.span, "", others, shown)
        elif len(known.others) < len(others) + ALSO:
            known = replace(known, others=(*known.others, Label(name.span, "and here")))
        self.unknown[name.text] = known

    def constant(self, bond: tree.Bond) -> None:
        """A formula without the tensor."""
        tensor = bond.formals[0]
        if all(name.text != tensor.name for name, _, _ in mentions(bond.formula)):
            message = f"the formula of `{bond.name}` does not mention its tensor `{tensor.name}`"
            hint = "its output is the same whatever its input is"
            self.diagnostics.add(Diagnostic("W601", message, tensor.span, hint=hint))

    def unused(self) -> None:
        for statement in self.space.file.statements:
            if isinstance(statement, tree.Bond):
                self.constant(statement)
            match statement:
                case tree.Param() | tree.Def() | tree.Shared() | tree.Bond():
                    if statement.name not in self.used:
                        kind = KINDS[type(statement)]
                        self.warn_unused(kind, statement.name, statement.name_span)
                case tree.ImportModule():
                    if statement.alias not in self.used | self.space.broken:
                        self.warn_unused("import", statement.alias, statement.span)
                case tree.ImportNames():
                    for _, local, span in statement.names:
                        if local not in self.used | self.space.broken:
                            self.warn_unused("import", local, span)
                case _:
                    pass

    def warn_unused(self, kind: str, name: str, span: Span) -> None:
        message = f"the {kind} `{name}` is never used"
        self.diagnostics.add(Diagnostic("W601", message, span, hint="remove it, or use it"))
