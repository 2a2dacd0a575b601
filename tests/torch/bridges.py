"""Random operations as text, from one kind of value to another: the leaves of random programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hypothesis import strategies as st
from pythonic import Statement

Kind: TypeAlias = tuple[Any, ...]
"""("vec", d), ("seq", d), ("heads", n, d), ("image", c, size), ("signal", c) for a value
(batch, c, seq), ("clips", d) for a value
(batch, 2, seq, d), ("tok", v), ("frames", v) for integers (batch, 2, seq), ("pos", d) for a value
(seq, d) that has no batch, and ("tuple", …)."""

CONDITION, CHAIN, SUM, PRODUCT, SIGN, POWER, OPERAND = range(7)
WIDTHS = (4, 2, 3, 6)
VOCABULARY = 5
AXES = {"vec": (1, -1), "signal": (1, -2),
        "seq": (2, -1), "pos": (1, -1), "image": (1, 2, 3, -1, -2, -3),
        "heads": (1, 3, -1, -3), "clips": (1, 3, -1, -3)}  # fmt: skip
"""Axes of a fixed size."""
CONTEXT = 4
"""Rows of a position embedding: longer than any sequence that is tried."""


UNFORTUNATE = (
    "x y z i j F nn torch math self copy copy_1 i_1 x_1 block blocks layer linear linear_1 bias "
    "weight Part Input Weight Norm blank lerp rope forward train type modules parameters "
    "state_dict apply children register_parameter training T_destination s_bias x_linear "
    "Any Tensor item Batch PLAN NormedAdam Layer Linear_ _ __class__ in_ out None_ int len "
    "range_ super gain generator factory"
).split()
"""Names that mean something in Python, in torch or in a generated file."""


@dataclass(frozen=True)
class E:
    """An expression: how tightly it binds, and how many operations it runs."""

    text: str
    level: int = OPERAND
    cost: int = 1

    def at(self, level: int) -> str:
        return self.text if self.level >= level else f"({self.text})"


def reaches(a: Kind, b: Kind) -> bool:
    """Whether `Writer.bridge` can write a module from a to b."""
    if b[0] == "tuple":
        return all(reaches(a, member) for member in b[1:])
    if a[0] == "tuple":
        return any(reaches(member, b) for member in a[1:])
    if a[0] == b[0] == "image":
        return bool(b[2] <= a[2])
    ways = {
        "vec": ("vec",),
        "seq": ("seq", "heads", "vec", "pos"),
        "heads": ("heads", "seq", "vec"),
        "image": ("vec",),
        "signal": ("signal", "vec"),
        "clips": ("clips", "seq", "vec"),
        "frames": ("clips", "seq", "vec"),
        "tok": ("seq", "heads", "vec", "pos"),
        "pos": ("pos",),
    }
    return b[0] in ways[a[0]] or a == b


def is_float(kind: Kind) -> bool:
    return all(map(is_float, kind[1:])) if kind[0] == "tuple" else kind[0] not in ("tok", "frames")


@dataclass
class Bridges:
    """Writes single operations. `draw` is hypothesis's; definitions go to `statements`."""

    draw: Any
    statements: list[Statement] = field(default_factory=list)
    embeds: list[tuple[str, int, int]] = field(default_factory=list)
    atoms: list[tuple[str, str, int, int]] = field(default_factory=list)
    names: int = 0
    used: set[str] = field(default_factory=set)
    in_cell: bool = False

    # -- drawing -----------------------------------------------------------------------------

    def pick(self, options: Any) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def chance(self, one_in: int) -> bool:
        return self.draw(st.integers(0, one_in - 1)) == one_in - 1

    def name(self, letter: str) -> str:
        """A name that is not taken yet; for definitions sometimes an unfortunate one."""
        if letter in "dsew" and self.chance(4):
            name: str = self.pick(UNFORTUNATE)
            if name not in self.used:
                self.used.add(name)
                return name
        self.names += 1
        return f"{letter}{self.names}"

    def any(self, options: list[Callable[[], E]]) -> E:
        made: E = self.pick(options)()
        return made

    def mass(self) -> str:
        """Arguments that give an atom a mass, or nothing."""
        return self.pick(["", "", "", "mass = 2", "mass = 1/2", "mass = 0", "mass = 0.3"])

    @staticmethod
    def call(name: str, *arguments: object) -> E:
        given = ", ".join(str(a) for a in arguments if a != "")
        return E(f"{name}({given})" if given else name)

    def composed(self, first: E, second: E) -> E:
        cost = first.cost + second.cost
        if self.chance(3):
            return E(f"{first.at(CHAIN)} >> {second.at(SUM)}", CHAIN, cost)
        return E(f"{second.at(PRODUCT)} @ {first.at(SIGN)}", PRODUCT, cost)

    @staticmethod
    def beside(*members: E, names: tuple[str, ...] = ()) -> E:
        texts = [member.text for member in members]
        texts = [f"{n} = {t}" for n, t in zip(names, texts, strict=True)] if names else texts
        return E(f"({', '.join(texts)})", OPERAND, sum(member.cost for member in members))

    # -- operations --------------------------------------------------------------------------

    def bridge(self, a: Kind, b: Kind, depth: int = 0) -> E:
        """A module from a to b of one or a few operations."""
        if b[0] == "tuple":
            members = [self.bridge(a, member) for member in b[1:]]
            if a == b and self.chance(2):
                return E("Identity")
            names = ("first", "second") if len(members) == 2 and self.chance(4) else ()
            return self.beside(*members, names=names)
        if a[0] == "tuple":
            member = self.pick([i for i, m in enumerate(a[1:]) if reaches(m, b)])
            return self.composed(self.call("Select", member), self.bridge(a[1 + member], b))
        if not is_float(a):
            return self.from_tokens(a, b) if a[0] == "tok" else self.from_frames(a, b)
        if a == b:
            return self.any([lambda: self.keep(a), lambda: self.linear(a, b)])
        if a[0] == b[0] != "image":
            return self.linear(a, b)
        return getattr(self, f"from_{a[0]}")(a, b)  # type: ignore[no-any-return]

    def keep(self, a: Kind) -> E:
        """An operation that keeps the kind of its input."""
        names = ["Identity", "Bias", "Scale", "Abs", "ReLU", "GELU", "SiLU", "Tanh", "MeanSubtract"]
        plain = [E(n) for n in names]
        plain += [E("Bias(mass = 1/2)"), E("Scale(mass = 3)"), E("RMSDivide(eps = 0.01)")]
        size, axis = a[1] if a[0] == "image" else a[-1], self.pick(AXES[a[0]])
        if not self.in_cell:
            plain += [E("BatchStandardize"), E("BatchStandardize(momentum = 1/2, eps = 0.1)")]
            plain += [E("BatchMeanSubtract"), E("BatchMeanSubtract(momentum = 1/2)")]
        plain += [E(f"Bias({size})"), E(f"Scale({size})"), E(f"Bias(axis = {axis})")]
        plain += [E(f"Scale(axis = {axis})"), E(f"Tanh @ Scale(axis = {axis})", PRODUCT, 2)]
        plain += [E("Softmax"), E("Softmax(1/2)"), E("Dropout"), E("Dropout(0)"), E("Dropout(0.1)")]
        plain += [E("DropPath"), E("DropPath(0)")]
        plain += [
            E("Product @ (Identity, Tanh)", PRODUCT, 3),
            E("Product @ (Abs, SiLU, Scale)", PRODUCT, 4),
        ]
        plain += [E("RMSDivide(eps = 1/100) @ MeanSubtract", PRODUCT, 2)]
        plain += self.rearranged(a)
        if a[0] not in ("image", "signal"):
            plain += self.mixtures(size)
        if a[0] == "image":
            plain += [E("MeanSubtract((1, 2, 3))"), E("RMSDivide((1, 2, 3), 0.01)")]
            plain += [E("RMSDivide(1, 0.1) @ MeanSubtract(1)", PRODUCT, 2)]
            groups = self.pick((1, a[1])) if a[2] > 1 else 1
            plain += [E(f"GroupStandardize({groups}, 0.1)"), E("MaxPool(3, 1, 1)")]
            if a[2] % 2 == 0:
                plain += [E("Upsample(2) @ AvgPool(2)", PRODUCT, 2)]
                plain += [E("Upsample((1, 2)) @ MaxPool((1, 2))", PRODUCT, 2)]
        if a[0] == "signal":
            plain += [E("AvgPool(3, 1, 1)"), E("MaxPool(1) @ Upsample(1)", PRODUCT, 2)]
        if a[0] in ("seq", "heads", "clips") and a[-1] % 2 == 0:
            plain += [E("RoPE"), E("RoPE(100)"), E("RoPE(interleaved = true, scale = 1/2)")]
            plain += [E("RoPE(offset = 2, fraction = 1/2)")] if a[-1] % 4 == 0 else []
        if a[0] == "heads":
            plain += [E(f"MergeHeads >> SplitHeads({a[1]})", CHAIN, 2)]
        ways: list[Callable[[], E]] = [lambda: self.pick(plain)] * 4
        ways += [self.bond]
        ways += [lambda: self.shared_atom("Bias", size, size)]
        ways += [lambda: self.shared_atom("Scale", size, size)]
        if not self.in_cell:
            ways += [lambda: self.shared_atom("BatchMeanSubtract", size, size)]
        ways += [lambda: self.shared_atom("Dropout", size, size)]
        return self.any(ways)

    @staticmethod
    def mixtures(size: int) -> list[E]:
        """Experts of vectors of a size, of which all or some are chosen."""
        router = "(Identity, Readout(3))"
        texts = [
            f"Experts(Linear({size}), 3) @ {router}",
            f"Experts(Bias >> Tanh, 3, 1) @ {router}",
        ]
        inner = f"Linear({size}) @ (SiLU @ Linear(2) * Linear(2))"
        texts += [f"Experts({inner}, 3, 2) @ {router}", f"Experts(Scale, 3, 2, false) @ {router}"]
        texts += [f"Experts((1/2 * Identity + 1/2 * Tanh @ Linear({size})) ** 2, 3) @ {router}"]
        return [E(text, PRODUCT, 6) for text in texts]

    @staticmethod
    def rearranged(a: Kind) -> list[E]:
        """What takes a value apart and puts it together again, or joins it with one of its own."""
        size, rank = a[-1], {"vec": 2, "pos": 2, "seq": 3}.get(a[0], 4)
        texts = ["Sigmoid", "Softplus", "Softcap(3)", "LogSoftmax", "Exp @ Softcap(1)"]
        texts += ["ReLU2 @ Tanh", "Squeeze(1) @ Unsqueeze(1)", "Mean(1) @ Stack(1) @ (Tanh, Abs)"]
        texts += ["Transpose @ Tanh @ Transpose", "Product @ (Tanh, Mean(-1, keepdim = true))"]
        texts += ["Add @ (Identity, Parameter)", 'Product @ (Parameter(init = "one"), Tanh)']
        if a[0] not in ("pos", "image", "signal"):
            texts += [f"Add @ (Identity, Parameter({'1, ' * (rank - 2)}{size}))"]
        if a[0] in ("seq", "heads", "clips"):
            texts += ["MatMul @ (Softmax @ MatMul @ (Identity, Transpose), Tanh)"]
        if size % 2 == 0 and a[0] != "signal":
            half = size // 2
            texts += ["Concat @ Split(2)", f"Concat @ (Slice({half}), Slice(0, {-half}))"]
            if a[0] == "seq":
                texts += [f"Reshape(-1, {size}) @ Tanh @ Reshape(-1, 2, {half})"]
            if a[0] == "vec":
                texts += ["Flatten @ Transpose @ Reshape(2, -1)"]
        return [E(text, PRODUCT if "@" in text else OPERAND, 1 + text.count("@")) for text in texts]

    def linear(self, a: Kind, b: Kind) -> E:
        """A matrix along the last axis, or for images and signals a convolution."""
        if a[0] == "image":
            return self.convolution(a, b)
        if a[0] == "signal":
            return self.along_signal(a[1], b[1])
        if a[:-1] != b[:-1]:
            return self.composed(E("MergeHeads"), self.heads(b))
        width, out = a[-1], b[-1]
        written = self.pick([out, out, f"{2 * out} / 2", f"{out - 1} + 1", f"min({out}, 7.5)"])
        ways = [
            lambda: self.call("Linear", written, self.mass()),
            lambda: self.call("Linear", out, width),
            lambda: self.call("Linear", out, self.norm(), self.mass()),
            lambda: self.call("Readout", out, self.mass()),
            lambda: self.composed(self.call("Linear", out), self.call("Bias", self.mass())),
            lambda: self.shared_atom("Linear", width, out),
        ]
        if a[0] in ("seq", "clips"):
            ways += [lambda name=n: self.call("Unembed", name) for n, v, d in self.embeds
                     if (v, d) == (out, width)]  # fmt: skip
        return self.any(ways)

    def groups(self, into: int, out: int) -> str:
        """An argument that cuts channels into groups, or nothing."""
        fit = [n for n in (2, 3, 4, 6) if into % n == out % n == 0]
        return f"groups = {self.pick(fit)}" if fit and self.chance(2) else ""

    def along_signal(self, into: int, out: int) -> E:
        """A convolution that keeps the length."""
        kernels = ["", "kernel = 1, padding = 0", 'padding = "causal"', "kernel = (3,)"]
        kernel = self.pick([*kernels, 'kernel = 4, padding = "same"', "dilation = 2, padding = 2"])
        if self.chance(4):
            return self.call("ConvTranspose1D", out, self.begins(), self.mass())
        return self.call("Conv1D", out, kernel, self.groups(into, out), self.begins(), self.mass())

    def begins(self) -> str:
        """An argument that says how a weight begins, or nothing."""
        return self.pick(["", "", "", 'init = "zero"', 'init = "orthogonal"'])

    def norm(self) -> str:
        """The argument that chooses a matrix's norm."""
        names = ("spectral", "row", "column", "sign", "frobenius")
        return f'norm = "{self.pick(names)}"'

    def heads(self, b: Kind) -> E:
        """From a sequence to heads."""
        _, heads, width = b
        if self.chance(2):
            return self.call("HeadedLinear", heads * width, heads, self.mass())
        whole = self.call("Linear", heads * width, self.mass())
        return self.composed(whole, self.call("SplitHeads", heads))

    def convolution(self, a: Kind, b: Kind) -> E:
        (_, _, size), (_, channels, small) = a, b
        if small == size:
            groups = self.groups(a[1], channels)
            three = self.call("Conv2D", channels, groups, self.mass())
            one = self.call("Conv2D", channels, "kernel = 1", "padding = 0", self.mass())
            wide = self.call("Conv2D", channels, "kernel = (1, 3), padding = (0, 1)", groups)
            same = self.call("Conv2D", channels, 'kernel = 2, padding = "same"', self.begins())
            turned = self.call("ConvTranspose2D", channels, self.begins(), self.mass())
            made: E = self.pick([three, one, wide, same, turned])
            return made
        if small == (size - 1) // 2 + 1 and self.chance(2):
            return self.call("Conv2D", channels, "stride = 2")
        if small == size - 2 and self.chance(2):
            return self.call("Conv2D", channels, "padding = 0")
        pool = self.call("AdaptiveAvgPool", small)
        if size % small == 0 and self.chance(2):
            pool = self.call("MaxPool", size // small)
        return self.composed(pool, self.convolution((a[0], a[1], small), b))

    def from_image(self, a: Kind, b: Kind) -> E:
        if b[0] == "image":
            return self.convolution(a, b)
        first: E = self.pick(
            [E("Flatten"), E("Flatten @ AdaptiveAvgPool", PRODUCT), E("Mean((2, 3))")]
        )
        return self.composed(first, self.call("Linear", b[1], self.mass()))

    def from_signal(self, a: Kind, b: Kind) -> E:
        return self.composed(E("Mean(2)"), self.linear(("vec", a[1]), b))

    def from_seq(self, a: Kind, b: Kind) -> E:
        if b[0] == "pos":
            return self.composed(E("Enumerate"), self.embed(CONTEXT, b[1]))
        if b[0] == "vec":
            return self.composed(E("Mean(1)"), self.linear(("vec", a[1]), b))
        return self.heads(b)

    def from_clips(self, a: Kind, b: Kind) -> E:
        axes = "1" if b[0] == "seq" else "(1, 2)"
        return self.composed(E(f"Mean({axes})"), self.linear((b[0], a[1]), b))

    def from_heads(self, a: Kind, b: Kind) -> E:
        merged = ("seq", a[1] * a[2])
        if b[0] == "seq":
            return self.composed(E("MergeHeads"), self.linear(merged, b))
        return self.composed(E("MergeHeads"), self.from_seq(merged, b))

    def from_tokens(self, a: Kind, b: Kind) -> E:
        if b[0] == "tok":
            return E("Identity")
        if b[0] == "pos":
            return self.composed(E("Enumerate"), self.embed(CONTEXT, b[1]))
        width = b[1] * b[2] if b[0] == "heads" else b[1]
        made = self.embed(VOCABULARY, width)
        if b[0] == "heads":
            return self.composed(made, self.call("SplitHeads", b[1]))
        return self.composed(made, E("Mean(1)")) if b[0] == "vec" else made

    def from_frames(self, a: Kind, b: Kind) -> E:
        if a == b:
            return E("Identity")
        made = self.embed(VOCABULARY, b[1])
        if b[0] == "clips":
            return made
        return self.composed(made, E("Mean(1)" if b[0] == "seq" else "Mean((1, 2))"))

    def embed(self, count: int, width: int) -> E:
        if not self.chance(2):
            return self.call("Embed", count, width, self.mass())
        known = [n for n, *sizes in self.embeds if sizes == [count, width]]
        if not known:
            name = self.name("e")
            body = self.call("Embed", count, width)
            text = self.pick([body.text, f"tare({body.text}, 1/2)"])
            self.statements.append(Statement("shared", name, text))
            self.embeds.append((name, count, width))
            known = [name]
        return E(self.pick(known))

    def shared_atom(self, op: str, width: int, out: int) -> E:
        """A shared operation, which other kinds of values of the same width may use too."""
        known = [n for n, *rest in self.atoms if rest == [op, width, out]]
        if not known:
            name = self.name("s")
            body = self.call(op, out, width) if op == "Linear" else self.call(op)
            self.statements.append(Statement("shared", name, body.text))
            self.atoms.append((name, op, width, out))
            known = [name]
        return E(self.pick(known))

    def bond(self) -> E:
        name, tensor = self.name("Bond"), self.name("x")
        formula, formals, mu, *domain = self.pick(
            [
                ("2 * tanh({x} / 2)", (), "1"),
                ("c * tanh({x} / c)", (("c", "3"),), "1"),
                ("{x} * sigmoid({x})", (), "1.2"),
                ("a * sin({x}) - cos({x}) / 2", (("a", None),), "a + 1/2"),
                ("min(max({x}, -1), 1)", (), "1"),
                ("-abs({x}) + 0.1", (), "1"),
                ("sqrt({x} ** 2 + 1)", (), "1"),
                ("{x} ** 2 / 2", (), "1", "[-1, 1]"),
                ("c * {x} ** 3", (("c", "1/3"),), "12 * c", "[-c, 2]"),
            ]
        )
        formals = ((tensor, None), *formals)
        written = formula.format(x=tensor)
        self.statements.append(Statement("bond", name, written, formals, (), mu, *domain))
        needed = any(default is None for _, default in formals[1:])
        return self.call(name, "2" if needed or (formals[1:] and self.chance(2)) else "")
