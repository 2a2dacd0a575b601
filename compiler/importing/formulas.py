"""Functions of one entry: torch's operations as the formula of a `bond`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modnorm.adopting.operations import KEEPS
from modnorm.adopting.trace import Node, Ref, Trace
from modnorm.importing.problems import Unsaid

Write = Callable[..., str]


def gelu(x: str, p: str, node: Node) -> str:
    if node.argument("approximate", "none") == "tanh":
        return f"{p} / 2 * (1 + tanh(sqrt(2 / {math.pi}) * ({x} + 0.044715 * {p} ** 3)))"
    return f"{p} / 2 * (1 + erf({p} / sqrt(2)))"


def clamp(x: str, p: str, node: Node) -> str:
    low = node.argument("min", node.argument("min_val"))
    high = node.argument("max", node.argument("max_val"))
    x = x if high is None else f"min({x}, {number(high)})"
    return x if low is None else f"max({x}, {number(low)})"


SOFTPLUS = "max({x}, 0) + log(1 + exp(-abs({x})))"
CALLS = "tanh sigmoid exp log erf sin cos abs sqrt".split()
ONE: Mapping[str, Callable[[str, str, Node], str]] = {
    **{name: lambda x, p, n: f"{n.name}({x})" for name in CALLS},
    "rsqrt": lambda x, p, n: f"1 / sqrt({x})",
    "reciprocal": lambda x, p, n: f"1 / {p}",
    "square": lambda x, p, n: f"{p} ** 2",
    "neg": lambda x, p, n: f"-1 * {p}",
    "relu": lambda x, p, n: f"max({x}, 0)",
    "relu6": lambda x, p, n: f"min(max({x}, 0), 6)",
    "silu": lambda x, p, n: f"{p} * sigmoid({x})",
    "softplus": lambda x, p, n: SOFTPLUS.format(x=x),
    "mish": lambda x, p, n: f"{p} * tanh({SOFTPLUS.format(x=x)})",
    "gelu": gelu,
    "clamp": clamp,
    "clamp_min": lambda x, p, n: f"max({x}, {number(n.argument('min'))})",
    "clamp_max": lambda x, p, n: f"min({x}, {number(n.argument('max'))})",
    "hardtanh": clamp,
    "hardsigmoid": lambda x, p, n: f"min(max({p} / 6 + 1 / 2, 0), 1)",
    "hardswish": lambda x, p, n: f"{p} * min(max({p} / 6 + 1 / 2, 0), 1)",
    "leaky_relu": lambda x, p, n: (
        f"max({x}, 0) + {number(n.argument('negative_slope', 0.01))} * min({x}, 0)"
    ),
    "elu": lambda x, p, n: (
        f"max({x}, 0) + {number(n.argument('alpha', 1))} * (exp(min({x}, 0)) - 1)"
    ),
    "pow": lambda x, p, n: f"{p} ** {number(n.args[1])}",
}  # fmt: skip
"""Formulas of operations of one value: of the value, bare and as an operand."""
TWO: Mapping[str, str] = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
"""Signs of operations of two."""
POINTWISE = frozenset(ONE) | frozenset(TWO) | KEEPS | {"rsub"}


def number(x: Any) -> str:
    """A number as the language has it."""
    if isinstance(x, Tensor):
        x = float(x)
    if not isinstance(x, (int, float)) or not math.isfinite(x):
        raise Unsaid(f"a formula with {x!r} in it")
    short = float(f"{x:.9g}") if isinstance(x, float) else x
    text = str(int(short)) if float(short).is_integer() else repr(short)
    return f"({text})" if short < 0 else text


def formula(trace: Trace, start: int, end: int) -> str:
    """What is written for the function from one value to another, with `x` for the first.

    Raises Unsaid where an operation is none of each entry.
    """
    made: dict[int, str] = {start: "x"}

    def text(arg: Any) -> str:
        if not isinstance(arg, Ref):
            return number(arg)
        if arg.number not in made:
            value = trace.values[arg.number]
            if value.node is None:
                if value.leaf is None or value.leaf.numel() != 1 or value.live:
                    raise Unsaid("a function of each entry, by a tensor of constants")
                return number(value.leaf)
            made[arg.number] = of(trace.nodes[value.node])
        return made[arg.number]

    def of(node: Node) -> str:
        name = node.name
        if name in KEEPS and name not in ("neg", "masked_fill"):
            return text(node.args[0])
        if name in ONE:
            x = text(node.args[0])
            return ONE[name](x, operand(x, 3), node)
        if name in TWO and node.argument("alpha", 1) == 1:
            sign, (left, right) = TWO[name], map(text, node.args[:2])
            least = 1 if sign in "+-" else 2
            return f"{operand(left, least)} {sign} {operand(right, least + (sign in '-/'))}"
        if name == "rsub":
            return f"{text(node.args[1])} - {operand(text(node.args[0]), 2)}"
        raise Unsaid(f"{name}, inside of a function of each entry")

    return text(Ref(end))


def operand(text: str, least: int) -> str:
    """A formula as it stands beside an operator: in brackets where it binds less than that.

    1 is a sum, 2 a product, 3 a power, 4 what binds by itself.
    """
    level, depth = 4, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and c in "+-*/" and i and text[i - 1] == " ":
            power = text[i : i + 2] == "**"
            level = min(level, 3 if power else 1 if c in "+-" else 2)
    if text.startswith("-"):
        level = min(level, 2)
    if level == 3 == least:
        level = 2
    return text if level >= least else f"({text})"


def slope(text: str) -> float:
    """The largest slope of a formula, rounded up to a hundredth."""
    names: dict[str, Any] = {
        "tanh": torch.tanh, "sigmoid": torch.sigmoid, "exp": torch.exp, "log": torch.log,
        "erf": torch.erf, "sin": torch.sin, "cos": torch.cos, "abs": torch.abs,
        "sqrt": lambda x: x.sqrt() if isinstance(x, Tensor) else math.sqrt(x),
        "max": lambda a, b: both(torch.maximum, a, b),
        "min": lambda a, b: both(torch.minimum, a, b),
    }  # fmt: skip
    x = torch.cat([torch.linspace(-20, 20, 400_001), torch.linspace(-1e3, 1e3, 200_001)]).double()
    x = x.sort().values
    y = eval(compile(text, "<formula>", "eval"), {"__builtins__": {}}, {**names, "x": x})
    ratio = ((y[1:] - y[:-1]) / (x[1:] - x[:-1])).abs()
    found = float(ratio[(x[1:] - x[:-1]) > 0].max())
    if not math.isfinite(found):
        raise Unsaid(f"the function {text}, whose slope has no bound")
    nearest = round(found, 2)
    return nearest if found <= nearest * (1 + 1e-7) else math.ceil(found * 100) / 100


def both(f: Any, a: Any, b: Any) -> Tensor:
    found: Tensor = f(*(torch.as_tensor(x, dtype=torch.float64) for x in (a, b)))
    return found


def named(text: str, wanted: str, bonds: dict[str, str]) -> str:
    """The name of a bond with a formula, which is declared where there is none yet."""
    stem = re.sub(r"\W", "", wanted) or "Function"
    statement = f"(x) = {text} sensitivity {number(slope(text))}"
    names = [stem, *(f"{stem}{i}" for i in range(2, 100))]
    for name in names:
        if bonds.get(name, statement) == statement:
            bonds[name] = statement
            return name
    raise Unsaid("more functions of each entry than there are names for")


def scalars(nodes: Sequence[Node], trace: Trace) -> list[float]:
    """The numbers that operations add or multiply by."""
    found: list[float] = []
    for node in nodes:
        for arg in (*node.args, *node.kwargs.values()):
            if isinstance(arg, float):
                found.append(arg)
            elif isinstance(arg, Ref):
                value = trace.values[arg.number]
                if value.leaf is not None and value.leaf.numel() == 1 and not value.live:
                    found.append(float(value.leaf))
    return found
