"""Random programs as text, shape-correct by construction, for hypothesis.

The writer knows kinds of values (`vec`, `seq`, `image`, …) and writes an expression from one kind
to another. Expressions carry how tightly they bind, so that parentheses stand only where they must.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from bridges import (
    CHAIN,
    CONDITION,
    OPERAND,
    POWER,
    PRODUCT,
    SIGN,
    SUM,
    VOCABULARY,
    WIDTHS,
    Bridges,
    E,
    Kind,
    is_float,
    reaches,
)  # fmt: skip
from hypothesis import strategies as st
from pythonic import Statement, Text

MOST = 48
"""Operations of a model, every copy counted."""
DEPTH = 6 if os.environ.get("MODNORM_LONG") else 4
"""Operators inside operators."""


@dataclass
class Writer(Bridges):
    """Writes one program. `scope` holds what local names mean, innermost last."""

    scope: list[tuple[str, Any]] = field(default_factory=list)
    defs: list[tuple[str, Kind, Kind, list[tuple[str, Any]], int]] = field(default_factory=list)
    shared: list[tuple[str, Kind, Kind, int]] = field(default_factory=list)
    inputs: list[tuple[str, Kind]] = field(default_factory=list)
    costs: dict[str, int] = field(default_factory=dict)
    counts: list[str] | None = None

    # -- numbers -----------------------------------------------------------------------------

    def factor(self) -> E:
        """A number that is not 0."""
        local = [E(name) for name, what in self.scope if what == "number"]
        local += [E(f"{name} + 1", SUM) for name, what in self.scope if what == "index"]
        simple = [
            E("2"), E("1/2", PRODUCT), E("3"), E("-1", SIGN), E("0.25"), E("sqrt(2)"),
            E("1 - 1/3", SUM), E("2/3", PRODUCT), E("-1/2", PRODUCT), E("1"),
            E("max(1/3, 0.5)"), E("2 ** -1", POWER), E("1.5e0"), E("log2(8)"),
        ]  # fmt: skip
        number: E = self.pick(simple + local)
        return number

    def condition(self) -> str:
        """A condition; it may depend on numbers in scope."""
        local = [name for name, what in self.scope if what in ("number", "index")]
        known = ["1 < 2", "2 <= 1", "not false", '"a" == "b"', "1/2 == 0.5 and true", "1 < 2 < 3"]
        known += [f"{n} {c}" for n in local for c in ("< 1", "== 1", ">= 2", "!= 0")]
        text: str = self.pick(known)
        return text

    def count(self, cost: int, *, least: int = 0) -> tuple[str, int]:
        """A number of copies of something that costs this much: its text and value."""
        most = max(least, min(4, MOST // max(cost, 1)))
        if self.counts is not None and most >= 2:
            name = self.name("n")
            self.counts.append(name)
            self.statements.append(Statement("param", name, "2"))
            return name, 2
        index = [name for name, what in self.scope if what == "index"]
        if index and most == 4 and self.chance(3):
            return self.pick(index), 4
        value = self.draw(st.integers(least, most))
        return self.pick([str(value), str(value), f"({2 * value} / 2)"]), value

    # -- from one kind to another ------------------------------------------------------------

    def module(self, a: Kind, b: Kind, depth: int) -> E:
        """An expression from values of kind a to values of kind b."""
        if depth <= 0:
            return self.bridge(a, b)
        ways = [self.bridge, self.composition, self.composition]
        if b[0] != "tuple" and is_float(b):
            ways += [self.addition, self.addition, self.shifting]
        if is_float(a) or is_float(b):
            ways.append(self.scaling)
        if a == b:
            ways += [self.repetition, self.repetition, self.comprehension, self.comprehension]
        if a[0] == b[0] and a[0] in ("vec", "seq") and self.counts is None:
            ways.append(self.funnel)
        ways += [
            self.taring,
            self.calling,
            self.calling,
            self.sharing,
            self.choosing,
            self.assuming,
        ]
        if self.scannable(a, b):
            ways += [self.scanning] * 5
        if b[0] in ("heads", "seq") and a[0] in ("seq", "tok", "heads"):
            ways.append(self.attention)
        if b[0] != "tuple" and is_float(b):
            ways.append(self.selection)
        made: E = self.pick(ways)(a, b, depth - 1)
        return made

    def composition(self, a: Kind, b: Kind, depth: int) -> E:
        middle = self.between(a, b)
        first = self.module(a, middle, depth)
        return self.composed(first, self.module(middle, b, depth))

    def between(self, a: Kind, b: Kind) -> Kind:
        """A kind on the way from a to b."""
        width = self.pick(WIDTHS)
        kinds: list[Kind] = [a, b, ("vec", width), ("seq", width), ("heads", 2, width)]
        if a[0] == "image":
            kinds.append(("image", self.pick((2, 3)), a[2]))
        kinds += [("signal", width), ("clips", width), ("tuple", b, b), ("tuple", a, b)]
        fitting = [k for k in kinds if reaches(a, k) and reaches(k, b)]
        found: Kind = self.pick(fitting)
        return found

    def addition(self, a: Kind, b: Kind, depth: int) -> E:
        left = self.module(a, b, depth)
        named = [(name, kind) for name, kind in self.inputs if reaches(kind, b)]
        named = [pair for pair in named if pair[0] not in dict(self.scope)]
        if named and self.chance(2):
            name, kind = self.pick(named)
            right = self.composed(E(name), self.module(kind, b, depth))
            if self.chance(2):  # a shared module of an input
                shared = self.name("s")
                outer, self.scope = self.scope, []
                inner = self.composed(E(name), self.module(kind, b, min(depth, 2)))
                self.scope = outer
                self.statements.append(Statement("shared", shared, inner.text))
                right = E(shared, OPERAND, inner.cost)
            return E(f"{left.at(SUM)} + {right.at(PRODUCT)}", SUM, left.cost + right.cost + 1)
        other = b
        if b[0] == "seq" and reaches(a, ("pos", b[1])) and self.chance(4):
            other = ("pos", b[1])  # it has no batch, and is added to every sequence of one
        right = self.module(a, other, depth)
        sign = self.pick("++-")
        if self.chance(4):
            return self.composed(self.beside(left, right), E("Add"))
        return E(f"{left.at(SUM)} {sign} {right.at(PRODUCT)}", SUM, left.cost + right.cost + 1)

    def shifting(self, a: Kind, b: Kind, depth: int) -> E:
        """A constant in a sum, or one that a module is taken off."""
        inner, number = self.module(a, b, depth), self.factor()
        text = self.pick(
            [
                f"{number.at(PRODUCT)} + {inner.at(PRODUCT)}",
                f"{inner.at(SUM)} - {number.at(PRODUCT)}",
                f"{number.at(PRODUCT)} - {inner.at(PRODUCT)}",
            ]
        )
        return E(text, SUM, inner.cost + 1)

    def scaling(self, a: Kind, b: Kind, depth: int) -> E:
        inner, number = self.module(a, b, depth), self.factor()
        ways = []
        if is_float(b):
            ways += [
                E(f"{number.at(PRODUCT)} * {inner.at(SIGN)}", PRODUCT, inner.cost + 1),
                E(f"-{inner.at(SIGN)}", SIGN, inner.cost + 1),
                E(f"+{inner.at(SIGN)}", SIGN, inner.cost),
            ]
        if is_float(a):
            ways += [
                E(f"{inner.at(PRODUCT)} * {number.at(SIGN)}", PRODUCT, inner.cost + 1),
                E(f"{inner.at(PRODUCT)} / {number.at(SIGN)}", PRODUCT, inner.cost + 1),
            ]
        made: E = self.pick(ways)
        return made

    def repetition(self, a: Kind, b: Kind, depth: int) -> E:
        inner = self.module(a, b, depth)
        text, count = self.count(inner.cost)
        return E(f"{inner.at(OPERAND)} ** {text}", POWER, 1 + inner.cost * count)

    def comprehension(self, a: Kind, b: Kind, depth: int) -> E:
        """`compose` over a range, its body with or without the index."""
        index = self.name("i")
        if self.counts is None:
            self.scope.append((index, "index"))
        inner = self.module(a, b, depth)
        if self.counts is None:
            self.scope.pop()
        text, count = self.count(inner.cost)
        limits = text if self.counts is not None else self.pick([text, f"1, {text} + 1"])
        body = inner.text
        if self.counts is None and self.chance(3):
            body = E(f"({index} + 1) * {inner.at(SIGN)}").text if is_float(b) else body
        return E(f"compose({body} for {index} in range({limits}))", OPERAND, 1 + inner.cost * count)

    def funnel(self, a: Kind, b: Kind, depth: int) -> E:
        """Copies of different widths, the last one of which fits."""
        index, count = self.name("i"), self.draw(st.integers(1, 3))
        width = self.pick([f"{b[1]} + {count - 1} - {index}", f"max({b[1]}, 6 / ({index} + 1))"])
        if width.startswith("max"):  # 6, 3, 2, up to the first that is not too wide
            count = next(n for n in (1, 2, 3) if 6 / n <= b[1])
        inner = E(f"Linear({width})")
        if self.chance(2):
            inner = self.composed(inner, self.pick([E("Tanh"), E("Bias"), E("Scale(mass = 1/2)")]))
        text = f"compose({inner.text} for {index} in range({count}))"
        return E(text, OPERAND, 2 * count)

    def taring(self, a: Kind, b: Kind, depth: int) -> E:
        inner = self.module(a, b, depth)
        mass = self.pick(["1", "2", "1/3", "0.7", "5", "0"])
        return E(f"tare({inner.text}, {mass})", OPERAND, inner.cost)

    def assuming(self, a: Kind, b: Kind, depth: int) -> E:
        inner = self.module(a, b, depth)
        number = self.pick(["1", "1/2", "sqrt(2)", "3", "0.7"])
        return E(f"(assume sensitivity {number}: {inner.text})", OPERAND, inner.cost)

    # -- along a sequence --------------------------------------------------------------------

    @staticmethod
    def scannable(a: Kind, b: Kind) -> bool:
        """Whether a scan can be written: along free places, or the two of a clip."""
        parts = a[1:] if a[0] == "tuple" else (a,)
        whole = {"seq": ("seq", "vec"), "clips": ("clips", "seq")}
        return any(b[0] in whole.get(part[0], ()) for part in parts)

    def scanning(self, a: Kind, b: Kind, depth: int) -> E:
        """A cell along axis 1, of a value or of a tuple of two; its state is one, or two."""
        before = None
        if a[0] == "tuple":
            places = [i for i, part in enumerate(a[1:]) if self.scannable(part, b)]
            at = self.pick(places)
            before, a = self.call("Select", at), a[1 + at]
        inner = {"seq": "vec", "clips": "seq"}[a[0]]
        entry, state = (inner, a[1]), (inner, self.pick((b[1], b[1], *WIDTHS)))
        both, two = self.chance(4), self.chance(4)
        cell = self.cell(entry, state, depth, both, two)
        carry = self.pick(["", ", carry = 3/4", ", 1/2", ", carry = 0.9", ", carry = 2"])
        if a[0] == "seq" and not self.chance(6):
            carry = self.pick([", carry = 3/4", ", 1/2", ", carry = 0.9"])
        made = E(f"Scan({cell.text}{carry})", OPERAND, 3 * cell.cost)
        if both:
            pair = self.beside(self.module(a, a, 0), self.module(a, a, 0))
            before = pair if before is None else self.composed(before, pair)
        if before is not None:
            made = self.composed(before, made)
        if two:
            made = self.composed(made, self.call("Select", self.draw(st.integers(0, 1))))
        every: Kind = (a[0], state[1])
        if b[0] != a[0]:
            made, every = self.composed(made, E("Last")), state
        return made if every == b else self.composed(made, self.bridge(every, b))

    def cell(self, entry: Kind, state: Kind, depth: int, both: bool, two: bool) -> E:
        """A cell for an entry, or `both` of a tuple, and a state, or a tuple of `two` such.

        Nothing in it keeps buffers, so that it calls what is written for it alone.
        """
        outer = self.defs, self.shared, self.scope, self.in_cell
        self.defs, self.shared, self.in_cell = [], [], True
        self.scope = [pair for pair in self.scope if isinstance(pair[1], str)]

        def read(member: int, kind: Kind, several: bool) -> E:
            """Something made of the state or of the entry, of the size of the state."""
            chosen = self.call("Select", member)
            if several:
                chosen = self.composed(chosen, self.call("Select", self.draw(st.integers(0, 1))))
            start = [
                E("Tanh"),
                self.call("Linear", state[1]),
                self.call("Linear", *state[:0:-1] * 2),
            ]
            first = self.pick(start if kind == state else start[1:2])
            then = self.module(state, state, depth - 1)
            return self.composed(chosen, self.composed(first, then))

        def one() -> E:
            old, new = read(0, state, two), read(1, entry, both)
            cost, number = old.cost + new.cost + 2, self.factor()
            gate = E(f"Sigmoid @ {new.at(SIGN)}", PRODUCT)
            ways = [
                E(f"1/2 * {old.at(SIGN)} + {number.at(PRODUCT)} * {new.at(SIGN)}", SUM, cost),
                E(f"Tanh @ ({old.at(SUM)} + {new.at(PRODUCT)})", PRODUCT, cost),
                E(f"{old.at(PRODUCT)} * ({gate.text}) + {new.at(PRODUCT)}", SUM, 2 * cost),
                E(f"Lerp @ ({old.text}, {new.text}, {gate.text})", PRODUCT, 2 * cost),
            ]  # fmt: skip
            made: E = self.pick(ways)
            return made

        made = self.beside(one(), one()) if two else one()
        defs, shared, self.scope, self.in_cell = outer
        self.defs, self.shared = [*defs, *self.defs], [*shared, *self.shared]
        return made

    def choosing(self, a: Kind, b: Kind, depth: int) -> E:
        yes, no = self.module(a, b, depth), self.module(a, b, 0)
        text = f"{yes.at(CHAIN)} if {self.condition()} else {no.text}"
        return E(text, CONDITION, max(yes.cost, no.cost))

    def selection(self, a: Kind, b: Kind, depth: int) -> E:
        """One member of a tuple; what the others compute is lost."""
        members = [self.module(a, b, depth), self.module(a, b, 0)]
        position = self.draw(st.integers(0, 1))
        if position:
            members.reverse()
        names = self.pick([(), ("mean", "logvar"), ("x", "y")])
        whole = self.beside(*members, names=names)
        if self.chance(3):
            whole = self.composed(whole, self.pick([E("Identity"), E("Mul(2)"), E("Mul(-1/3)")]))
        by_name = names and self.chance(2)
        which = f'"{names[position]}"' if by_name else position
        return self.composed(whole, self.call("Select", which))

    def attention(self, a: Kind, b: Kind, depth: int) -> E:
        heads, value = (b[1], b[2]) if b[0] == "heads" else (2, self.pick(WIDTHS))
        key = ("heads", heads, self.pick((2, 4)))
        groups = self.pick([n for n in (1, 2, heads) if heads % n == 0])
        turn = E("RoPE") if self.chance(3) else None
        q = self.module(a, key, depth - 1)
        k = self.module(a, ("heads", groups, key[2]), depth - 1)
        if turn is not None:
            q, k = self.composed(q, turn), self.composed(k, turn)
        v = self.module(a, ("heads", groups, value), depth - 1)
        tuple_ = self.beside(q, k, v)
        given = ["", "(true)", "(true, 1/2)", "(scale = 2)", "(true, -1)", "(true, 0)"]
        given += ["(window = 2)", '(true, "1/sqrt(d)", softcap = 2)', "(true, alibi = true)"]
        given = self.pick([*given, "(true, -1, 2, alibi = true)"])
        made = self.composed(tuple_, E(f"Attention{given}"))
        if self.chance(3):
            made = E(f"1/3 * {made.at(SIGN)}", PRODUCT, made.cost + 1)
        if b[0] == "seq":
            made = self.composed(made, E("MergeHeads"))
            made = self.composed(made, self.call("Linear", b[1]))
        return made

    # -- definitions -------------------------------------------------------------------------

    def calling(self, a: Kind, b: Kind, depth: int) -> E:
        """A call of a definition, an old one or a new one; or a local name."""
        local = [n for n, what in self.scope if what == (a, b)]
        if local and self.chance(2):
            name = self.pick(local)
            return E(name, OPERAND, self.costs.get(name, 4))
        known = [d for d in self.defs if d[1:3] == (a, b)]
        if not known or self.chance(2):
            known = [self.define(a, b, depth)]
        name, _, _, formals, cost = self.pick(known)
        given: list[str] = []
        for formal, what in formals:
            if what == "number":
                number = self.factor()
                given.append(f"{formal} = {number.text}" if self.chance(3) else number.text)
            else:
                inner = self.module(*what, depth - 1)
                cost += inner.cost
                given.append(inner.text)
        arguments = f"({', '.join(self.ordered(formals, given))})" if formals else ""
        return E(f"{name}{arguments}", cost=cost)

    @staticmethod
    def ordered(formals: list[tuple[str, Any]], given: list[str]) -> list[str]:
        """Arguments with a name from the first named one on."""
        seen, result = False, []
        for (formal, _), text in zip(formals, given, strict=True):
            seen = seen or text.startswith(f"{formal} = ")
            named = seen and not text.startswith(f"{formal} = ")
            result.append(f"{formal} = {text}" if named else text)
        return result

    def define(self, a: Kind, b: Kind, depth: int) -> tuple[str, Kind, Kind, Any, int]:
        outer, self.scope = self.scope, []
        formals: list[tuple[str, Any]] = []
        if self.chance(2):
            formals.append((self.name("k"), "number"))
        if self.chance(3):
            formals.append((self.name("f"), self.pick([(a, b), (a, a), (b, b)])))
        self.scope += formals
        where = []
        for _ in range(self.pick((0, 0, 1, 2))):
            local = self.name("w")
            kinds = self.pick([(a, b), (a, a), (b, b), None])
            if kinds is None:
                where.append((local, self.factor().text))
                self.scope.append((local, "number"))
            else:
                inner = self.module(*kinds, depth - 1)
                self.costs[local] = inner.cost
                where.append((local, inner.text))
                self.scope.append((local, kinds))
        body = self.module(a, b, depth)
        self.scope = outer
        name = self.name("d")
        written = tuple((n, "2" if w == "number" and self.chance(3) else None) for n, w in formals)
        if any(d is not None for _, d in written) and any(d is None for _, d in written):
            written = tuple((n, None) for n, _ in written)
        if len(where) == 2 and self.chance(2):
            where.reverse()
        self.statements.append(Statement("def", name, body.text, written, tuple(where)))
        entry = (name, a, b, formals, body.cost)
        self.defs.append(entry)
        return entry

    def sharing(self, a: Kind, b: Kind, depth: int) -> E:
        """A mention of a shared module, an old one or a new one."""
        known = [s for s in self.shared if s[1:3] == (a, b)]
        if not known or self.chance(3):
            outer, self.scope = self.scope, []
            inner = self.module(a, b, min(depth, 2))
            self.scope = outer
            name = self.name("s")
            self.statements.append(Statement("shared", name, inner.text))
            self.shared.append((name, a, b, inner.cost))
            known = [self.shared[-1]]
        name, _, _, cost = self.pick(known)
        return E(name, OPERAND, cost)


INPUTS: dict[str, tuple[Kind, ...]] = {
    "vector": (("vec", 4),),
    "sequence": (("seq", 4),),
    "tokens": (("tok", VOCABULARY),),
    "image": (("image", 2, 4),),
    "clips": (("clips", 4),),
    "signal": (("signal", 2),),
    "frames": (("frames", VOCABULARY),),
    "two": (("vec", 4), ("vec", 3)),
    "mixed": (("tok", VOCABULARY), ("seq", 4)),
}
"""What a model may take: one input, or several."""


def declared(kind: Kind) -> str:
    match kind:
        case ("vec", d):
            return f"float[batch, {d}]"
        case ("seq", d):
            return f"float[batch, seq, {d}]"
        case ("image", c, size):
            return f"float[batch, {c}, {size}, {size}]"
        case ("clips", d):
            return f"float[batch, 2, seq, {d}]"
        case ("signal", c):
            return f"float[batch, {c}, seq]"
        case ("frames", v):
            return f"int[batch, 2, seq] < {v}"
        case ("tok", v):
            return f"int[batch, seq] < {v}"
    raise AssertionError(kind)


@dataclass(frozen=True)
class Sample:
    """A program, and the names of its params that only count copies."""

    text: Text
    counts: tuple[str, ...] = ()


@st.composite
def programs(draw: Any, *, counted: bool = False) -> Sample:
    """A random program. With `counted`, a param of its own stands for every number of copies."""
    kinds = INPUTS[draw(st.sampled_from(sorted(INPUTS)))]
    writer = Writer(draw, counts=[] if counted else None)
    for number, kind in enumerate(kinds):
        name = draw(st.sampled_from([f"in{number}", "xyz"[number], "ij"[number]]))
        writer.used.add(name)
        writer.statements.append(Statement("input", name, declared(kind)))
        writer.inputs.append((name, kind))
    names = ["Net", "Linear2", "Layer", "Part", "Norm", "model_1", "NormedAdam"]
    model = draw(st.sampled_from(names))
    writer.used.add(model)
    whole: Kind = kinds[0] if len(kinds) == 1 else ("tuple", *kinds)
    outputs = [("vec", 3), ("seq", 4), ("seq", VOCABULARY), ("heads", 2, 2), ("image", 2, 4), whole]
    outputs += [
        ("signal", 3),
        ("clips", 3),
        ("tuple", ("vec", 3), ("vec", 4)),
        ("tuple", whole, ("vec", 3)),
    ]
    out = draw(st.sampled_from([k for k in outputs if reaches(whole, k) and is_float(k)]))
    body = writer.module(whole, out, draw(st.integers(0, DEPTH)))
    writer.statements.append(Statement("model", model, body.text))
    return Sample(Text(tuple(writer.statements)), tuple(writer.counts or ()))
