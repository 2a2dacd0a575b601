"""What an operation declares.

One subclass of `Atom` or `Bond` is one operation, and the only place that knows it: its arguments,
shape rule, mass, sensitivity (declared and certified), sharpness, norm, duality map, eager
reference, emission and documentation. Passes and the code generator ask for these properties and
never for names.

The norms are those of Large et al. 2024 (arXiv 2405.14813); a sensitivity is a Lipschitz constant
with respect to them, sharpness its triple (α, β, γ) (second derivatives with
respect to weights, weights and inputs, inputs).
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from modnorm.ops.edges import Bound, Edge, Form, Matrix, Measure, natural, reached, slots
from modnorm.ops.types import Real, Tensor, TupleType, Type

if TYPE_CHECKING:
    import torch

    from modnorm.kernels.weight import Layout

Kind = Literal[
    "size",
    "sizes",
    "index",
    "integer",
    "number",
    "flag",
    "axis",
    "axes",
    "choice",
    "embed",
    "window",
    "margin",
    "module",
    "member",
    "pick",
]


def argument(
    kind: Kind,
    default: Any = dataclasses.MISSING,
    *,
    inferred: bool = False,
    named: bool = False,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare an argument of an operation.

    Kinds: `size` (positive integer), `sizes` (all that is given by position, sizes or -1: a
    tuple), `index` (integer of at least 0), `integer` (any), `number` (exact rational or float, or
    one of `choices`), `flag` (bool), `axis` (an integer), `axes` (one or a tuple of them), `choice`
    (a string, one of `choices`), `embed` (a shared Embed), `window` (a positive integer, or a tuple
    with one for each axis of pixels), `margin` (the same with integers of at least 0, or a string,
    one of `choices`), `module` (a module, of which the operation makes copies: see `stacked`),
    `member` (a module: the operation's input is the pair of what comes and of what that module
    makes of it; the field is None all the same), `pick` (an index, or the name of a member). A
    default of None is that of an argument that may be left out. An `inferred` argument may be left
    out: it is None until `resolve` fills it in from the input. A `named` one is only given by name.
    A trailing underscore of the field's name is not part of the language: `in_` is written `in`.
    """
    if inferred:
        default = None
    metadata = {"kind": kind, "inferred": inferred, "choices": choices}
    return field(default=default, kw_only=named, metadata=metadata)


class Argument(NamedTuple):
    """One declared argument: its name in the language, the field, its kind and default."""

    name: str
    field: str
    kind: Kind
    default: Any
    inferred: bool
    named_only: bool
    choices: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def from_input(self) -> bool:
        """Whether `resolve` fills it in; a named one it leaves as it is."""
        return self.inferred and not self.named_only

    @property
    def takes_all(self) -> bool:
        """Whether it is everything that a call gives by position."""
        return self.kind == "sizes"


class Misfit(Exception):
    """Raised by `resolve` when an input does not fit.

    `argument` names the argument that disagrees with the input, so that the diagnostic can point
    at both; `code` is the diagnostic's.
    """

    def __init__(
        self, message: str, *, hint: str = "", argument: str = "", code: str = "E401"
    ) -> None:
        super().__init__(message)
        self.message, self.hint, self.argument, self.code = message, hint, argument, code


class Advice(NamedTuple):
    """What to write instead of an operation, where its bound is large or missing."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class Sharpness:
    """Second-order bounds (α, β, γ) of a module in its norms."""

    alpha: float
    beta: float
    gamma: float


LINEAR = Sharpness(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Norm:
    """The norm on an atom's weight.

    `name` selects the implementation in `modnorm.kernels`; `formula` is for people, and so is
    `values`: the norms of values that a weight of norm 1 lies between, where there is a choice.
    """

    name: str
    formula: str
    values: str = ""


@dataclass(frozen=True)
class Op(ABC):
    """An operation with its arguments."""

    name: ClassVar[str]
    """The name in the language."""
    internal: ClassVar[bool] = False
    """True for operations that only rewrites create; the language does not know them."""
    origin: ClassVar[str] = ""
    """Where the declared values come from, where that needs saying."""
    instead: ClassVar[str] = ""
    """What a call without all of its arguments may have meant, for the help."""
    draws: ClassVar[bool] = False
    """Whether it draws random numbers in training: each use draws its own. Not in `eval()`."""
    is_value: ClassVar[bool] = False
    """Whether its output is the same whatever its input is: nothing before it can learn."""
    buffers: ClassVar[tuple[str, ...]] = ()
    """The names of what it keeps from training, such as running means: they are no weights."""

    @property
    def label(self) -> str:
        """The name for reports and paths; a bond by formula has its own."""
        return self.name

    def helpers(self) -> tuple[str, ...]:
        """Sources of the functions that the emission calls, for the generated file to define."""
        return ()

    @classmethod
    def arguments(cls) -> Iterator[Argument]:
        """The declared arguments, in order."""
        for f in dataclasses.fields(cls):
            if "kind" in f.metadata:
                name = f.name.rstrip("_")
                kind, inferred = f.metadata["kind"], f.metadata["inferred"]
                choices = f.metadata.get("choices", ())
                yield Argument(name, f.name, kind, f.default, inferred, bool(f.kw_only), choices)

    @classmethod
    def signature(cls) -> str:
        """How a call is written: `Linear(out, in, mass = 1)`."""
        parts = []
        # what every operation of a kind has is told of once, and not with each of them
        common = {f.name for f in dataclasses.fields(cls) if f.metadata.get("common")}
        for a in sorted(cls.arguments(), key=lambda a: a.named_only):
            if a.field in common:
                continue
            shown = str(a.default).lower() if isinstance(a.default, bool) else str(a.default)
            shown = f'"{shown}"' if isinstance(a.default, str) else shown
            shown = "…" if a.default is None else shown
            if isinstance(a.default, Fraction):
                shown = repr(float(a.default))
            if a.takes_all:
                parts.append(f"{a.name}…")
            else:
                parts.append(a.name if a.required or a.from_input else f"{a.name} = {shown}")
        return f"{cls.name}({', '.join(parts)})" if parts else cls.name

    @classmethod
    def doc(cls) -> str:
        """The documentation: the first paragraph of the class's docstring, on one line."""
        return " ".join((cls.__doc__ or "").split("\n\n")[0].split())

    @property
    def meant_for(self) -> tuple[float, float] | None:
        """From where to where its input's entries are meant to go, where that is not everywhere."""
        return None

    @property
    def has_effects(self) -> bool:
        """Whether a use is more than its output: it draws random numbers, or changes buffers."""
        return self.draws or bool(self.buffers)

    @property
    def is_module(self) -> bool:
        """Whether it is a module of its own in the generated model, under a path of its own."""
        return self.has_effects

    def module(self) -> str:
        """The Python expression that makes that module, for an operation with effects.

        It may use `nn`, `**factory` (device, dtype and generator) and the helpers.
        """
        raise NotImplementedError(f"{self.name} has effects, so it needs `module`")

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        """The shape of each of `buffers`; known once resolved."""
        return ()

    # -- shapes ------------------------------------------------------------------------------

    @abstractmethod
    def resolve(self, x: Type) -> tuple[Self, Type]:
        """This operation with inferred arguments filled in, and the type of its output.

        Raises:
            Misfit: if an input of type `x` does not fit.
        """

    # -- the modular norm --------------------------------------------------------------------

    @property
    @abstractmethod
    def sensitivity(self) -> Real:
        """The declared sensitivity μ: it sets the targets."""

    @property
    @abstractmethod
    def certified(self) -> Real | str:
        """A proved bound on the sensitivity over the unit ball of inputs and weights.

        A string where there is none says why.
        """

    def gains(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        """How far the output moves when the input does, for inputs within the bounds of `x`.

        `x` holds the tensors of an input of `type`, a tuple's members flattened; the weight's norm
        is at most 1. Every entry is a proved bound; a string says why there is none. This default
        takes `certified` between the measures in which values are spoken of.
        """
        bound = self.certified
        if isinstance(bound, str):
            return bound
        out = slots(self.resolve(type)[1])
        row = {(j, natural(t)): float(bound) for j, t in enumerate(out)}
        return {(i, natural(edge.type)): row for i, edge in enumerate(x)}

    def sizes(self, x: Sequence[Edge], type: Type) -> list[dict[Measure, Bound]]:
        """Bounds on the norms of the output's tensors; what is not there is not bounded.

        This default holds where a zero input gives a zero output.
        """
        gains = self.gains(x, type)
        out = slots(self.resolve(type)[1])
        return [{} for _ in out] if isinstance(gains, str) else reached(x, gains, out)

    def at_zero(self, x: Sequence[Edge], type: Type) -> Mapping[Measure, float] | None:
        """Bounds on the outputs for a zero input, 0 in measures that are left out.

        None where none are known, so that `gains` say nothing of sizes.
        """
        return {} if self.__class__.sizes is Op.sizes else None

    def pushes(self, x: Sequence[Edge], type: Type) -> dict[Measure, float]:
        """How far a change of the weight by norm 1 moves the output, in each measure."""
        return {}

    def curvature(self, x: Sequence[Edge], type: Type) -> Form | str:
        """How far the derivative in the input moves when the input does, within the bounds of `x`.

        Every entry is a proved bound; a string says why there is none.
        """
        if self.sharpness is not None and self.sharpness.gamma == 0:
            return {}
        return (
            "it is not smooth" if self.sharpness is None else "its second derivative has no bound"
        )

    def mixes(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        """How far the derivative in the input moves when the weight moves by norm 1."""
        return {}

    def kept_by(self, x: Sequence[Edge], buffers: Mapping[str, torch.Tensor]) -> bool:
        """Whether inputs within the bounds of `x` can have left such buffers: what is proved of an
        operation that keeps some takes that for granted.
        """
        return True

    def advice(self, x: Sequence[Edge], type: Type) -> tuple[Advice, ...]:
        """What would bring the bound down, for inputs within the bounds of `x`."""
        return ()

    def cautions(self, x: Type) -> tuple[Advice, ...]:
        """What is legal for an input of type `x`, and probably not meant: warnings.

        They are asked of the operation as it is written, before `resolve`.
        """
        return ()

    def along(self, x: Type) -> tuple[int, ...]:
        """The axes, from 0, along which entries of an input of type `x` meet, or are counted.

        This default takes those that an argument names.
        """
        if not isinstance(x, Tensor):
            return ()
        found: set[int] = set()
        for a in self.arguments():
            if a.kind in ("axis", "axes") and (dim := getattr(self, a.field)) is not None:
                found |= {
                    axis % len(x.shape) for axis in (dim if isinstance(dim, tuple) else (dim,))
                }
        return tuple(sorted(found))

    @property
    @abstractmethod
    def sharpness(self) -> Sharpness | None:
        """(α, β, γ), or None where the operation is not smooth or has no bound."""

    # -- what rewrites may use ---------------------------------------------------------------

    @property
    def is_identity(self) -> bool:
        """Whether the output is the input."""
        return False

    @property
    def scalar(self) -> Real | None:
        """The factor, for an operation that only multiplies by a constant."""
        return None

    @property
    def joins(self) -> bool:
        """Whether the output is the sum of the members of a tuple."""
        return False

    @property
    def picks(self) -> int | None:
        """The member, for an operation that only gives back one of a tuple."""
        return None

    @property
    def picks_apart(self) -> bool:
        """Whether it picks a member of a tuple of which others, beside it, pick other members.

        The norm of a tuple is the sum of its members', so that the largest of their sensitivities
        counts, and not the sum.
        """
        return False

    @property
    def gives(self) -> int | None:
        """The input of the model that it gives back whatever comes in, for the name of one.

        It is handed to `reference` as the weight, and to `emit` as `own`.
        """
        return None

    def absorb(self, scalars: tuple[Real, ...]) -> tuple[Op, Real] | None:
        """Move constant factors from this operation's inputs to its output.

        `scalars` holds a factor for the input, or for each member of a tuple input. Returns
        (op', b) with op(a·x) = b·op'(x) for every x, or None where there is no such pair.
        """
        return None

    def degree(self, x: Type) -> int | None:
        """k where op(a·x) = aᵏ·op(x) for every a > 0; None where there is no such k.

        It is 0 for a normalization, whose eps is scaled along. This default asks `absorb`.
        """
        count = len(x.members) if isinstance(x, TupleType) else 1
        found = self.absorb((2,) * count)
        if found is None or found[0] != self:
            return None
        return next((degree for degree in (0, 1) if found[1] == 2**degree), None)

    @property
    def fans_out(self) -> bool:
        """Whether it gives a vector to each of several copies of what comes next."""
        return False

    def routed(self, x: Type) -> tuple[Op, tuple[Op, ...], Op] | None:
        """Operations, for one of (y, scores) that leaves out what most copies made of a vector.

        The first takes what was fanned out, with the scores, to the vectors that each copy gets, in
        a row; to how many each gets; and more, which those in the middle pick. The last takes what
        copies made of them, what was fanned out, and that. None where copies get all.
        """
        return None

    def fuse(self, before: Op) -> Op | None:
        """One operation equal to this one after `before`, or None."""
        return None

    @property
    def by_vector(self) -> bool:
        """Whether each vector along the last axis of its inputs is computed with by itself, however
        many axes stand before."""
        return False

    def stacked(self, count: int) -> Op | None:
        """What computes the same for so many copies at once, each with a weight of its own.

        Its values have an axis of copies before the last. None where there is no such operation.
        """
        return self if self.by_vector else None

    # -- running -----------------------------------------------------------------------------

    @abstractmethod
    def reference(self, x: Any, weight: Any = None) -> Any:
        """The plain eager computation, for tests and measurements; torch is imported inside.

        Of an operation with effects it is that of `eval()`, and `weight` are its buffers by name;
        without them they are as they begin.
        """

    @abstractmethod
    def emit(self, x: Any, type: Type, own: str) -> str:
        """The Python expression for this operation in the generated file.

        `x` is the input's expression, always atomic (a name or a call, so that a suffix such as
        `.view(…)` can follow), or a tuple of expressions where `type`, the input's type, is a
        tuple. The expression may use `torch`, `F` (torch.nn.functional) and `math`. `own` is the
        expression of the module that has the weight (`own.weight`, and `own.name` for messages), or
        that an operation with effects is.
        """


@dataclass(frozen=True)
class Bond(Op):
    """An operation without weights: mass 0."""


INITS = ("orthogonal", "zero", "normal")
"""How a weight may be told to begin."""


@dataclass(frozen=True)
class Weighted(Op):
    """An operation with a parameter of its own, a mass, and a way in which the parameter begins.

    By default its norm is 1 then. `init_` is None for that, `"zero"`, `"normal"` for entries drawn
    with a standard deviation `std`, by default of the size that they have else, or `"orthogonal"`
    for a matrix of entries of that size, where each weight is one or consists of some.
    """

    mass: Any = field(default=1, kw_only=True, metadata={"kind": "number", "inferred": False})
    init_: str | None = field(
        default=None,
        kw_only=True,
        metadata={"kind": "choice", "inferred": True, "choices": INITS, "common": True},
    )
    std: Any = field(
        default=None, kw_only=True, metadata={"kind": "number", "inferred": True, "common": True}
    )

    is_module = True
    begins_at_zero: ClassVar[bool] = False
    """Whether the parameter is 0 at first by default, and has no norm."""

    def __post_init__(self) -> None:
        """Raise a Misfit where `init_` and `std` do not fit."""
        if self.std is not None:
            self._check_std()
        elif self.init_ == "normal" and self.begins_at_zero:
            raise Misfit(
                f'`{self.name}` begins at 0, so `init = "normal"` needs to be told how far from it',
                hint='give the standard deviation: `init = "normal", std = 0.02`',
                argument="init",
                code="E302",
            )
        if self.init_ == "orthogonal" and len(self.axes) < 2:
            raise Misfit(
                f"the weight of `{self.name}` is a vector, and none is orthogonal",
                hint='write `init = "zero"` or `init = "normal"`, or leave it out',
                argument="init",
                code="E302",
            )

    def _check_std(self) -> None:
        if self.init_ != "normal":
            raise Misfit(
                f'`std` of `{self.name}` is the standard deviation of `init = "normal"`, which is'
                " not given",
                hint=f'write `init = "normal", std = {self.std}`, or leave `std` out',
                argument="std",
                code="E302",
            )
        try:
            size = float(self.std)
        except OverflowError:
            size = math.inf
        if not 0 < size < math.inf:
            raise Misfit(
                f"`std` of `{self.name}` must be positive, and a number that a float can hold",
                hint='it is a standard deviation; `init = "zero"` begins at 0',
                argument="std",
                code="E302",
            )

    @property
    def begins_orthogonal(self) -> bool:
        """Whether the matrices that the weight consists of are orthogonal by default."""
        return "orthogonal_" in self.init

    @property
    def beginning(self) -> str:
        """Statements as `init`, for the way in which the weight is told to begin."""
        match self.init_:
            case "zero":
                return "nn.init.zeros_(weight)"
            case "normal" if self.std is not None:
                return f"nn.init.normal_(weight, std={float(self.std)!r}, generator=generator)"
            case "normal":
                drawn = "nn.init.normal_(weight, generator=generator).mul_(size)"
                return f"{self.init}\nsize = weight.square().mean().sqrt()\n{drawn}"
            case "orthogonal" if not self.begins_orthogonal:
                drawn = "nn.init.orthogonal_(weight, generator=generator)"
                scaled = "weight *= size / weight.square().mean().sqrt()"
                return f"{self.init}\nsize = weight.square().mean().sqrt()\n{drawn}\n{scaled}"
        return self.init

    @property
    @abstractmethod
    def axes(self) -> tuple[str, ...]:
        """A name for each axis of the weight; `init` may use them, except where a name repeats.

        Most classes have the same for all of their operations.
        """

    @property
    def layer(self) -> tuple[str, str]:
        """The class that the generated layer derives from, and what that is made with.

        It is the one of torch.nn that computes the same, where there is one, so that what looks for
        such layers finds it. The arguments may use the names of `axes`.
        """
        return "nn.Module", ""

    @property
    def shown(self) -> str:
        """How the layer prints, as in `Linear(out=10, in=64)`: a format of the weight's sizes."""
        sizes = {axis.rstrip("_"): "{}" for axis in self.axes}
        assert self.axes[: len(sizes)] == tuple(dict.fromkeys(self.axes)), "repeated axes come last"
        return self.with_settings(**sizes)

    def with_settings(self, **sizes: str) -> str:
        """The sizes with which a layer prints, and behind them the arguments that are not default.

        Those that the input decides, or the weight's shape shows, are none of them.
        """
        given = {
            a.name: str(getattr(self, a.field))
            for a in self.arguments()
            if not (a.from_input or a.required or a.takes_all)
            and not (a.field in self.axes or a.name == "mass")
            and getattr(self, a.field) != a.default
        }
        return ", ".join(f"{k}={v}" for k, v in (sizes | given | sizes).items())

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """The norm on the weight; most classes have one for all of their operations."""

    @property
    @abstractmethod
    def init(self) -> str:
        """Python statements that fill `weight` (a float tensor of `weight_shape`, no gradient) in
        place so that its norm is 1, drawing from `generator`. They may use `torch`, `nn`, `math`.

        This is how a weight begins unless it is told otherwise: see `beginning`.
        """

    @property
    @abstractmethod
    def weight_shape(self) -> tuple[int, ...]:
        """The weight's shape; known once resolved."""


@dataclass(frozen=True)
class Atom(Weighted):
    """An operation whose parameter is one weight, with a norm."""

    @property
    def sensitivity(self) -> Real:
        return 1

    @property
    def certified(self) -> Real | str:
        return 1

    @property
    def sharpness(self) -> Sharpness | None:
        return Sharpness(0.0, 1.0, 0.0)

    def pushes(self, x: Sequence[Edge], type: Type) -> dict[Measure, float]:
        """For an output that is linear in the weight: what `gains` make of the input's size."""
        return linear_pushes(self, x, type)

    def mixes(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        """For an output that is linear in the weight and in the input, or in their sum."""
        return linear_mixes(self, x, type)

    @property
    def measured_shape(self) -> tuple[int, ...]:
        """The weight's shape as optimizers have it, where a `layout` makes another one of it."""
        return self.weight_shape

    def layout(self, parameter: str = "") -> Layout | None:
        """Where a parameter of this name has the weight as optimizers measure it.

        None where they measure it as it is stored.
        """
        return None

    @abstractmethod
    def weight_norm(self, weight: torch.Tensor) -> torch.Tensor:
        """The exact norm of a weight, a scalar tensor: the definition, by singular values."""

    @abstractmethod
    def dualize(self, gradient: torch.Tensor) -> torch.Tensor:
        """The duality map: the weight T of norm 1 that maximises ⟨gradient, T⟩, exactly.

        Source: Bernstein & Newhouse 2024 (arXiv 2410.21265).
        """


@dataclass(frozen=True)
class Reader(Op):
    """An operation that uses the weight of a shared Embed and has none of its own: mass 0.

    `embed` names the shared module; `count` and `dim` are the sizes of its weight.
    """

    embed: str = argument("embed")
    count: int = field(default=0, kw_only=True)
    dim: int = field(default=0, kw_only=True)

    @classmethod
    def fields_from(cls, atom: Atom) -> dict[str, int] | None:
        """`count` and `dim` of the atom whose weight is read; None if it cannot be read."""
        if atom.norm.name != "row_rms":
            return None
        count, dim = atom.weight_shape
        return {"count": count, "dim": dim}

    def pushes(self, x: Sequence[Edge], type: Type) -> dict[Measure, float]:
        """As an atom's: the output is linear in the weight that is read."""
        return linear_pushes(self, x, type)

    def mixes(self, x: Sequence[Edge], type: Type) -> Matrix | str:
        return linear_mixes(self, x, type)


def linear_mixes(op: Op, x: Sequence[Edge], type: Type) -> Matrix | str:
    """`mixes` of an operation whose only second derivative is that in weight and input."""
    if op.sharpness is None or op.sharpness.alpha:
        return "it is not linear in its weight"
    return op.gains(x, type) if op.sharpness.beta else {}


def linear_pushes(op: Op, x: Sequence[Edge], type: Type) -> dict[Measure, float]:
    """`pushes` of an operation that is linear in its weight and in its input."""
    gains = op.gains(x, type)
    if isinstance(gains, str):
        return {}
    (found,) = reached(x, gains, slots(op.resolve(type)[1]))
    return {measure: bound.high for measure, bound in found.items()}


def amount(count: int, what: str) -> str:
    """A number of things, for a message: `1 axis`, `3 axes`."""
    many = {"axis": "axes", "entry": "entries"}.get(what, f"{what}s")
    return f"{count} {what if count == 1 else many}"


def expect_tensor(op: str, x: Type, *, rank: int = 0, dtype: str = "float") -> Tensor:
    """The input as a tensor of at least `rank` axes and the dtype, or a Misfit that says why not.

    `dtype` is `float`, `int`, or `any`.
    """
    if isinstance(x, TupleType):
        raise Misfit(
            f"`{op}` takes one value, but its input is a tuple {x}",
            hint="pick a member with `Select(i)`, or join the members with `Add`",
            code="E402",
        )
    if dtype not in ("any", x.dtype):
        hint = (
            "turn integers into vectors with `Embed(count, dim)`"
            if dtype == "float"
            else "it looks up integers, such as `input tokens: int[batch, seq]`; a learned value"
            " that no integer picks is `Parameter(1, d)`"
        )
        if x.dtype == "bool":
            hint = "a `bool` value is a mask: `Attention @ (q, k, v, mask)`"
        kind = "real numbers" if dtype == "float" else "integers"
        raise Misfit(f"`{op}` takes {kind}, but its input is {x}", hint=hint, code="E402")
    if len(x.shape) < rank:
        raise Misfit(
            f"`{op}` takes a value of at least {amount(rank, 'axis')}, but its input is {x}",
            code="E402",
        )
    return x
