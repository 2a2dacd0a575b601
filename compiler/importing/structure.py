"""From operations and what they read to expressions: compositions, sums, tuples, repetitions.

A value through which all goes cuts an expression in two that are composed; between two such values
are branches. Parts take their names from the modules that their operations ran in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import networkx as nx

from modnorm.graph.renames import Recipe
from modnorm.importing.graph import Graph, Step
from modnorm.importing.tree import (
    IDENTITY,
    Both,
    Chain,
    Expr,
    Named,
    Repeat,
    Several,
    Word,
    chain,
    words,
)

Env = Mapping[int, Expr]
"""How values that are at hand are reached from the current input."""


@dataclass
class Built:
    """A model as expressions: `shared` by name, and what is compiled."""

    body: Expr
    shared: dict[str, Expr] = field(default_factory=dict)

    @property
    def clumsy(self) -> int:
        """How often a member of a tuple is picked: the fewer the better it reads."""
        every = [self.body, *self.shared.values()]
        return sum(w.text.startswith("Select") for expr in every for w in words(expr))


def build(graph: Graph) -> Built:
    """The expressions of a graph, about the input with which they read best."""
    found = [_Builder(graph, main).built() for main in graph.inputs]
    return min(found, key=lambda built: built.clumsy)


def lca(paths: Iterable[str]) -> str:
    """The innermost module that all are in."""
    split = [path.split(".") if path else [] for path in paths]
    if not split:
        return ""
    common = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def child(path: str, prefix: str) -> str:
    """The next name of a path behind a prefix; "" where there is none."""
    if not path.startswith(prefix) or path == prefix:
        return ""
    rest = path[len(prefix) + 1 :] if prefix else path
    return rest.split(".")[0]


def under(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


class _Builder:
    def __init__(self, graph: Graph, main: int) -> None:
        self.graph, self.main = graph, main
        self.steps = dict(graph.steps)
        self.shared: dict[str, Expr] = {}
        self.names: dict[object, str] = {}
        self.uses: dict[tuple[Recipe, ...], int] = {}
        self.consumers: dict[int, int] = {}
        self.pinned = set[int]()
        live = self.ancestors(graph.outputs.values())
        for number in live:
            step = self.steps.get(number)
            if step is None:
                continue
            if step.weights:
                self.uses[step.weights] = self.uses.get(step.weights, 0) + 1
            for read in set(step.args):
                self.consumers[read] = self.consumers.get(read, 0) + 1
        self.pin(live)

    def pin(self, live: set[int]) -> None:
        """Find what several places take that depend on the main input, and that does not.

        It is computed once, under a name: up to where the ways to those places part.
        """
        moving = {self.main}
        for n in sorted(live, key=self.order):
            if n in self.steps and moving.intersection(self.steps[n].args):
                moving.add(n)
        fixed = {n for n in live - moving if n in self.steps and self.steps[n].args}
        ends: dict[int, set[tuple[int, int]]] = {n: set() for n in fixed}
        readers: dict[int, set[int]] = {n: set() for n in fixed}
        for n in sorted(live, key=self.order, reverse=True):
            for at, arg in enumerate(self.steps[n].args if n in self.steps else ()):
                if arg in fixed:
                    ends[arg] |= {(n, at)} if n in moving else ends[n]
                    readers[arg].add(n)
        for n in fixed:
            parts = any(r in moving or ends[r] != ends[n] for r in readers[n])
            if len(ends[n]) > 1 and parts and not self.steps[n].free:
                self.pinned.add(n)

    def ancestors(self, numbers: Iterable[int], stop: Iterable[int] = ()) -> set[int]:
        """The values that some are made of, themselves with them, up to others."""
        found, open_, stop = set[int](), list(numbers), set(stop)
        while open_:
            number = open_.pop()
            if number in found:
                continue
            found.add(number)
            if number not in stop and number in self.steps:
                open_ += self.steps[number].args
        return found

    def built(self) -> Built:
        outputs = self.graph.outputs
        env = {self.main: IDENTITY}
        if len(outputs) == 1:
            (number,) = outputs.values()
            body = self.expr(number, env, "")
        else:
            members = tuple(self.expr(n, env, "") for n in outputs.values())
            body = Several(members, tuple(name.replace(".", "_") for name in outputs))
        if len(self.graph.inputs) > 1:
            body = chain(Word(self.graph.inputs[self.main].name), body)
        return Built(body, self.shared)

    # -- values ------------------------------------------------------------------------------

    def depends(self, number: int, env: Env) -> set[int]:
        """The values between those at hand and one, itself with them; none if it needs none."""
        within = self.ancestors([number], env)
        found: set[int] = set(env) & within
        for n in sorted(within, key=self.order):
            step = self.steps.get(n)
            if n not in env and step is not None and any(a in found for a in step.args):
                found.add(n)
        return found - set(env) if number in found else set()

    def order(self, number: int) -> tuple[int, int]:
        """A key by which a value comes after all that it is made of."""
        return self.depth(number), number

    def depth(self, number: int) -> int:
        if not hasattr(self, "_depth"):
            self._depth: dict[int, int] = {}
        open_ = [number]
        while open_:
            at = open_[-1]
            if at in self._depth:
                open_.pop()
                continue
            step = self.steps.get(at)
            missing = [a for a in step.args if a not in self._depth] if step else []
            if missing:
                open_ += missing
                continue
            before = [self._depth[a] for a in step.args] if step else []
            self._depth[at] = 1 + max(before, default=0)
            open_.pop()
        return self._depth[number]

    def expr(self, number: int, env: Env, prefix: str) -> Expr:
        """A value, as an expression of those at hand."""
        if number in env:
            return env[number]
        region = self.depends(number, env)
        if not region:
            return self.closed(number, prefix)
        cuts = self.gathered(self.cuts(number, env, region), env)
        stages = []
        before: Env = env
        for cut in cuts:
            own = [n for n in region if n in self.depends(cut, before)]
            where = lca(self.steps[n].module for n in own)
            stages.append((cut, before, where))
            before = {cut: IDENTITY}
        return self.grouped(stages, prefix)

    def cuts(self, number: int, env: Env, region: set[int]) -> list[int]:
        """The values through which all goes, from those at hand to one, in order."""
        graph: nx.DiGraph[int] = nx.DiGraph()
        for n in region:
            for arg in set(self.steps[n].args):
                if arg in env:
                    graph.add_edge(-1, n)
                elif arg in region:
                    graph.add_edge(arg, n)
        above = nx.immediate_dominators(graph, -1)
        found = [number]
        while (number := above.get(number, -1)) != -1:
            found.append(number)
        return found[::-1]

    def gathered(self, cuts: list[int], env: Env) -> list[int]:
        """Cuts, without those inside of a module before an operation of several values in it, of
        which the others do not depend on what is at hand: they stand beside these."""
        kept: list[int] = []
        for i, cut in enumerate(cuts):
            step = self.steps[cut]
            alone = len(step.args) > 1 and step.text not in ("+", "*") and step.module
            if alone and i and all(a == cuts[i - 1] or not self.depends(a, env) for a in step.args):
                while kept and f"{self.steps[kept[-1]].module}.".startswith(f"{step.module}."):
                    kept.pop()
            kept.append(cut)
        return kept

    def grouped(self, stages: Sequence[tuple[int, Env, str]], prefix: str) -> Expr:
        """Stages in the modules that they are of."""
        items: list[Expr] = []
        for name, group in groupby(stages, key=lambda s: child(s[2], prefix)):
            own = list(group)
            if name:
                body = self.grouped(own, under(prefix, name))
                items.append(body if is_list(name, body) else Named(name, body))
                continue
            for cut, env, where in own:
                items.append(self.single(cut, env, where))
        return self.repeated(items, prefix)

    def repeated(self, items: list[Expr], prefix: str) -> Expr:
        """Equal parts of a list of modules as repetitions, under the list's name."""
        found: list[Expr] = []
        stem = next((p for p in reversed(prefix.split(".")) if not p.isdigit()), "") or "layer"
        bodies = [i.body if isinstance(i, Named) and i.name.isdigit() else None for i in items]
        numbered = [body for body in bodies if body is not None]
        layers = all(map(is_plain, numbered))  # of a Sequential, each of its own kind
        for body, group in groupby(zip(items, bodies, strict=True), key=itemgetter(1)):
            same = list(group)  # equal bodies, each with its own weights
            copies = tuple(Named(stem, own) for _, own in same if own is not None)
            if body is None:
                found += [item for item, _ in same]
            elif len(same) > 1 and any(w.weights for w in words(body)):
                found.append(Repeat(copies[0], len(copies), copies))
            elif len(numbered) > 1 and not is_plain(body) and not layers:
                found += copies
            else:
                found += [c.body for c in copies]
        return chain(*found)

    # -- one value from those before it -------------------------------------------------------

    def word(self, number: int) -> Word:
        """The operation that makes a value."""
        step = self.steps[number]
        text, weights = step.text, step.weights
        if text.startswith("Unembed("):
            return Word(f"Unembed({self.tied(step)})", (), (), False)
        if weights and self.uses.get(weights, 0) > 1:
            return Word(self.tied(step), weights, step.buffers, True)
        return Word(text, weights, step.buffers)

    def tied(self, step: Step) -> str:
        """The name of the module that has weights which several operations use."""
        if step.weights not in self.names:
            makes = next(
                s for s in self.steps.values()
                if s.weights == step.weights and not s.text.startswith("Unembed(")
            )  # fmt: skip
            name = self.fresh(makes.module)
            self.names[step.weights] = name
            self.shared[name] = Word(makes.text, makes.weights, makes.buffers)
        return self.names[step.weights]

    def fresh(self, module: str) -> str:
        """A name for something shared that is in a module."""
        parts = [p for p in module.split(".") if p and not p.isdigit()]
        stem = parts[-1] if parts else "shared_value"
        taken = {*self.shared, *(g.name for g in self.graph.inputs.values())}
        name, i = stem, 2
        while name in taken:
            name, i = f"{stem}_{i}", i + 1
        return name

    def single(self, number: int, env: Env, prefix: str) -> Expr:
        """A value between which and those at hand there is none through which all goes."""
        step = self.steps[number]
        if step.text in ("+", "*"):
            return self.both(number, step.text, self.members(number, step.text, env), env, prefix)
        args = step.args
        if step.text.startswith("Unembed("):
            inner = self.expr(args[0], env, prefix)
            return chain(inner, self.word(number), Word(f"Mul({step.text[8:-1]})"))
        if len(args) == 1:
            return chain(self.expr(args[0], env, prefix), self.word(number))
        if (pick := self.shares(args, env)) is not None:
            return self.together(number, pick, env, prefix)
        members = tuple(self.expr(a, env, prefix) for a in args)
        return chain(Several(members), self.word(number))

    def members(self, number: int, sign: str, env: Env) -> list[int]:
        """The terms of a sum, or factors of a product, with those of terms that are sums."""
        found = []
        for arg in self.steps[number].args:
            step = self.steps.get(arg)
            inside = step is not None and step.text == sign and arg not in env
            if inside and self.consumers.get(arg) == 1 and self.depends(arg, env):
                found += self.members(arg, sign, env)
            else:
                found.append(arg)
        return found

    def heavy(self, number: int, env: Env) -> set[int]:
        """What may not be computed twice, of all that is between values at hand and one."""
        return {n for n in self.depends(number, env) if not self.steps[n].free}

    def shares(self, args: Sequence[int], env: Env) -> int | None:
        """The last value that several are made of, and that may not be computed twice."""
        seen, common = set[int](), set[int]()
        for arg in dict.fromkeys(args):
            own = self.heavy(arg, env)
            common |= seen & own
            seen |= own
        common |= {a for a in args if list(args).count(a) > 1 and self.heavy(a, env)}
        return max(common, key=self.order) if common else None

    def both(
        self, number: int, sign: str, members: Sequence[int], env: Env, prefix: str
    ) -> Expr:  # fmt: skip
        """A sum or a product, where terms that share something are put together."""
        groups: list[tuple[set[int], list[int]]] = []
        for member in members:
            own, with_ = self.heavy(member, env), [member]
            rest = []
            for seen, group in groups:
                if seen & own:
                    own, with_ = own | seen, [*group, *with_]
                else:
                    rest.append((seen, group))
            groups = [*rest, (own, with_)]
        groups.sort(key=lambda g: min(members.index(m) for m in g[1]))
        if len(groups) == 1 and len(members) > 1:
            pick = self.shares(members, env)
            assert pick is not None
            return self.together(number, pick, env, prefix)
        found = []
        for _, group in groups:
            if len(group) == 1:
                found.append(self.expr(group[0], env, prefix))
                continue
            steps = [self.steps[m] for m in group if m in self.steps]
            where = lca(s.module for s in steps)
            virtual = len(self.graph.shapes) + len(self.steps) + 1
            self.steps[virtual] = Step(sign, tuple(group), module=where)
            found.append(self.expr(virtual, env, prefix))
        if sign == "+":
            found.sort(key=lambda e: e != IDENTITY)
        return Both(sign, tuple(found)) if len(found) > 1 else found[0]

    def together(self, number: int, pick: int, env: Env, prefix: str) -> Expr:
        """A value by way of another and those at hand that are needed besides, in a tuple."""
        others = [n for n in env if n in self.ancestors([number], {pick, *env})]
        after: dict[int, Expr] = {pick: Word("Select(0)")}
        after |= {n: Word(f"Select({i})") for i, n in enumerate(others, 1)}
        members = (self.expr(pick, env, prefix), *(env[n] for n in others))
        return chain(Several(members), self.expr(number, after, prefix))

    # -- what does not depend on the current input --------------------------------------------

    def closed(self, number: int, prefix: str) -> Expr:
        """A value that no value at hand changes."""
        if number in self.graph.inputs:
            return Word(self.graph.inputs[number].name)
        step = self.steps[number]
        if not step.args:
            return self.word(number)
        if number in self.names:
            return Word(self.names[number], shared=True)
        pins = self.pinned - {number}
        above = self.ancestors([number], pins)
        before = [n for n in above if n in pins]
        inputs = [n for n in above if n in self.graph.inputs]
        main = inputs[0] if len(inputs) == 1 else -1
        env: dict[int, Expr] = {n: Word(self.graph.inputs[n].name) for n in inputs}
        env |= {n: self.closed(n, "") for n in before}
        if not inputs and len(before) == 1:
            main = before[0]
        elif not inputs and not before:  # made of parameters alone
            env = {n: self.word(n) for n in above if not self.steps[n].args}
        start: Expr = IDENTITY
        if main >= 0 and len(env) == 1:
            start, env = env[main], {main: IDENTITY}
        twice = number in self.pinned
        found = self.expr(number, env, "" if twice else prefix)
        found = chain(start, found)
        if not twice:
            return found
        name = self.fresh(lca(self.steps[n].module for n in self.depends(number, env)))
        self.names[number] = name
        self.shared[name] = found
        return Word(name, shared=True)


def is_list(name: str, body: Expr) -> bool:
    """Whether an expression consists of parts of a list, which have its name."""
    parts = body.items if isinstance(body, Chain) else (body,)
    names = [p.part.name if isinstance(p, Repeat) else getattr(p, "name", "") for p in parts]
    return set(names) == {name}


def is_plain(expr: Expr) -> bool:
    """Whether an expression is a row of words."""
    return isinstance(expr, Word) or (
        isinstance(expr, Chain) and all(isinstance(i, Word) for i in expr.items)
    )
