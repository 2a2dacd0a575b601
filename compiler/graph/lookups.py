"""What names mean: local values, and the definitions of a file, each evaluated at most once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modnorm.diagnostics import Diagnostics, Label, Span
from modnorm.graph.calls import build_op
from modnorm.graph.checks import Evaluates
from modnorm.graph.modules import Leaf, Scope, Shared
from modnorm.graph.names import Definition, Namespace
from modnorm.graph.values import (
    POISON,
    Closure,
    Frame,
    Lazy,
    Poison,
    Value,
    describe,
    is_module,
    is_number,
)
from modnorm.ops import registry
from modnorm.ops.given import Given
from modnorm.syntax import tree

MAX_CALLS = 64
"""Definitions inside definitions."""


class Lookups(Evaluates):
    """Finds and evaluates what names are defined as. `overrides` are values of params."""

    def __init__(self, overrides: Mapping[str, Value], diagnostics: Diagnostics) -> None:
        super().__init__(diagnostics)
        self.overrides = overrides
        self.inputs: dict[int, Given] = {}
        """The inputs of the model, once they are known, by id of their statement."""
        self.cache: dict[int, tuple[object, Value]] = {}  # keys live as long, or ids come again
        self.busy: list[tuple[str, Span, object]] = []
        self.cycles: set[frozenset[int]] = set()

    def name(self, expr: tree.Name, frame: Frame) -> Value:
        head = expr.parts[0]
        if len(expr.parts) == 1 and head in frame.local:
            local = frame.local[head]
            if isinstance(local, Closure):
                return self.apply(local.frame, local.definition, (), expr.span, frame)
            return self.lazy(local, expr.span) if isinstance(local, Lazy) else local
        found = self.lookup(expr, frame)
        if isinstance(found, Poison):
            return POISON
        if found is None:
            return build_op(self, expr.text, {}, expr.span)
        space, definition = found
        return self.definition(space, definition, expr.span)

    def lookup(self, name: tree.Name, frame: Frame) -> tuple[Namespace, Definition] | Poison | None:
        """What a name defined in a file means; None for an operation; unknown ones are reported."""
        space, parts = frame.space, name.parts
        if parts[0] in space.broken:
            return POISON
        if len(parts) == 2 and parts[0] in space.modules:
            space, parts = space.modules[parts[0]][0], parts[1:]
        if len(parts) > 1:
            return POISON
        found = space.find(parts[0])
        if found is None and (len(name.parts) > 1 or registry.find(parts[0]) is None):
            return POISON
        return found

    def origin(self, expr: tree.Expr, frame: Frame) -> tuple[Label, ...]:
        """Where a name that stands for a value is defined, to be shown beside its mention."""
        if not isinstance(expr, tree.Name):
            return ()
        if len(expr.parts) == 1 and expr.text in frame.local:
            local = frame.local[expr.text]
            here = local.binding.name_span if isinstance(local, Lazy) else None
            if isinstance(local, Closure):
                here = local.definition.name_span
        else:
            found = frame.space.find(expr.text) if len(expr.parts) == 1 else None
            here = found[1].name_span if found is not None else None
            if found is not None and found[0].is_main and expr.text in self.overrides:
                return (Label(found[1].name_span, f"`{expr.text}` is overridden"),)
        return () if here is None else (Label(here, f"`{expr.text}` is defined here"),)

    def definition(self, space: Namespace, definition: Definition, span: Span) -> Value:
        match definition:
            case tree.Param():
                return self.param(space, definition)
            case tree.Input():
                return self.input(definition, span)
            case tree.Model():
                return self.fail(
                    "E302",
                    f"`{definition.name}` is a model; only a `def` can be used in others",
                    span,
                    others=(Label(definition.name_span, "defined here"),),
                    hint="give what they share a name: `def body = …` and `model Name = body`",
                )
            case tree.Shared():
                return self.shared(space, definition, span)
            case tree.Def() | tree.Bond():
                return self.apply(Frame(space), definition, (), span, Frame(space))

    def input(self, definition: tree.Input, span: Span) -> Value:
        """An input's value: a module that gives it whatever comes in."""
        given = self.inputs.get(id(definition))
        if given is not None:
            return Leaf(given, span)
        return self.fail(
            "E302",
            f"`{definition.name}` is an input, whose value is known only when the model runs",
            span,
            others=(Label(definition.name_span, "declared here"),),
        )

    def param(self, space: Namespace, definition: tree.Param) -> Value:
        if space.is_main and definition.name in self.overrides:
            return self.overrides[definition.name]
        return self.apart(definition, lambda: self.constant(definition, space))

    def constant(self, definition: tree.Param, space: Namespace) -> Value:
        value = self.value(definition.value, Frame(space))
        if isinstance(value, Poison | bool | str) or is_number(value):
            return value
        return self.fail(
            "E302",
            f"a param is a number, a truth value or a string, but `{definition.name}` is"
            f" {describe(value)}",
            definition.value.span,
            hint=f"write `def {definition.name} = …` for a module" if is_module(value) else "",
        )

    def apart(self, definition: tree.Param | tree.Shared, compute: Callable[[], Value]) -> Value:
        """The value of a definition that is the same wherever it is mentioned."""
        uses, self.uses = self.uses, []
        try:
            return self.once(definition, definition.name, definition.name_span, compute)
        finally:
            self.uses = uses

    def once(self, key: object, name: str, span: Span, compute: Callable[[], Value]) -> Value:
        """Evaluate something that has one value; a cycle is reported."""
        if id(key) not in self.cache:
            if not self.enter(name, span, key):
                return POISON
            try:
                self.cache[id(key)] = key, compute()
            finally:
                self.busy.pop()
        return self.cache[id(key)][1]

    def enter(self, name: str, span: Span, key: object) -> bool:
        """Begin evaluating a definition; False, and reported, if that is going on already."""
        for at, (_, _, active) in enumerate(self.busy):
            if active is key:
                cycle = frozenset(id(key) for _, _, key in self.busy[at:])
                if cycle in self.cycles:
                    return False
                self.cycles.add(cycle)
                chain = " → ".join([*(n for n, _, _ in self.busy[at:]), name])
                others = tuple(
                    Label(s, f"`{n}` is defined here") for n, s, _ in self.busy[at + 1 :]
                )
                self.fail(
                    "E205",
                    f"`{name}` is defined in terms of itself: {chain}",
                    span,
                    others=others,
                    hint="there is no recursion; repeat with `**` or `compose(… for …)`",
                )
                return False
        if len(self.busy) >= MAX_CALLS:
            self.fail("E305", f"definitions more than {MAX_CALLS} deep inside each other", span)
            return False
        self.busy.append((name, span, key))
        return True

    def lazy(self, lazy: Lazy, span: Span) -> Value:
        binding = lazy.binding
        value = self.once(
            lazy,
            binding.name,
            binding.name_span,
            lambda: self.value(binding.value, lazy.frame),
        )
        if is_module(value):
            return Scope(binding.name, value, "where", span, binding.name_span)
        return value

    def shared(self, space: Namespace, definition: tree.Shared, span: Span) -> Value:
        body = self.apart(
            definition,
            lambda: self.module(
                self.body(definition.body, Frame(space)),
                definition.body.value.span,
                "a `shared` is a module",
            ),
        )
        if not is_module(body):
            return POISON
        key = f"{space.file.source.name}:{definition.name}"
        return Shared(key, body, span, definition.name_span)

    def body(self, body: tree.Body, frame: Frame) -> Value:
        if body.where:
            frame = Frame(frame.space, dict(frame.local))
            for binding in body.where:
                local = Closure if isinstance(binding, tree.Def) else Lazy
                frame.local[binding.name] = local(binding, frame)  # type: ignore[arg-type]
        return self.value(body.value, frame)
