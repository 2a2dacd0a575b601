"""What the zoo has of a model: how to build, call and train it, and what its parameters are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
Pieces = tuple[tuple[str, tuple[int, ...]], ...]

ROLES = (
    "matrix", "readout", "table", "tied", "router", "experts", "conv", "taps", "bias", "gain",
    "vector", "opaque",
)  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What a parameter is, and the logical weights that it holds if they are several."""

    role: str
    pieces: Pieces = ()
    transposed: bool = False

    def __post_init__(self) -> None:
        assert self.role in ROLES, self.role

    @property
    def axis(self) -> int:
        """Where the output features lie, which `pieces` count."""
        return (self.role == "experts") + self.transposed


@dataclass(frozen=True)
class Entry:
    """A model of the zoo; the package's docstring says how to read `expected`."""

    build: Callable[[], nn.Module]
    example: Callable[[], Call]
    loss: Callable[[Any], Tensor]
    expected: dict[str, Expected]
    needs: str | None = None
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("build", "example"):
            object.__setattr__(self, name, seeded(getattr(self, name)))

    def named(self, names: Sequence[str]) -> dict[str, Expected]:
        """What each of a model's parameters is. AssertionError unless each has one pattern."""
        found = {}
        for name in names:
            patterns = [one for one in self.expected if fnmatchcase(name, one)]
            assert len(patterns) == 1, f"{name} is described by {patterns or 'no pattern'}"
            found[name] = self.expected[patterns[0]]
        return found

    def is_unused(self, name: str) -> bool:
        return any(fnmatchcase(name, one) for one in self.unused)


# --- models ---------------------------------------------------------------------------------


def seeded(build: Callable[[], Any]) -> Callable[[], Any]:
    """The same every time, and no other random numbers moved."""

    @wraps(build)
    def repeatable() -> Any:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return build()

    return repeatable


def from_transformers(config: str, model: str, **settings: Any) -> Callable[[], nn.Module]:
    """A network of transformers, by the names of its classes, in train mode."""

    def build() -> nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**settings)).train()

    return build


# --- examples -------------------------------------------------------------------------------

VOCABULARY, WIDTH, MLP, HEADS, CLASSES, BATCH, LENGTH, IMAGE = 97, 48, 80, 4, 7, 2, 11, 32


def tokens(length: int = LENGTH) -> Tensor:
    """(2, length), none of them special, so that nothing is taken for padding or an end."""
    return torch.randint(4, VOCABULARY, (BATCH, length))


def images() -> Tensor:
    return torch.randn(BATCH, 3, IMAGE, IMAGE)


def model_loss(output: Any) -> Tensor:
    """What models of transformers return with the labels of the example."""
    return output.loss


def label_loss(output: Tensor) -> Tensor:
    """The cross-entropy of (…, classes) to labels that take each class in turn."""
    scores = output.flatten(0, -2)
    return nn.functional.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[1])


# --- what is expected -----------------------------------------------------------------------


def cut(groups: int = 1, **sizes: int) -> Pieces:
    """Pieces one behind the other, or so in each of the groups that they are stored in."""
    total, start, pieces = sum(sizes.values()), 0, []
    for name, size in sizes.items():
        rows = (g * total + start + i for g in range(groups) for i in range(size))
        pieces.append((name, tuple(rows)))
        start += size
    return tuple(pieces)


def roles(**patterns: str) -> dict[str, Expected]:
    """By role, the patterns of parameters that are one weight, with spaces between them."""
    return {one: Expected(role) for role, many in patterns.items() for one in many.split()}


def modules(paths: str, weight: str = "matrix") -> dict[str, Expected]:
    """Modules of one weight and a bias, with spaces between them."""
    both: dict[str, Expected] = {}
    for path in paths.split():
        both |= {f"{path}.weight": Expected(weight), f"{path}.bias": Expected("bias")}
    return both


def fused(path: str, pieces: Pieces, transposed: bool = False) -> dict[str, Expected]:
    """A module whose weight and bias hold the same pieces."""
    return {
        f"{path}.weight": Expected("matrix", pieces, transposed),
        f"{path}.bias": Expected("bias", pieces),
    }


def within(path: str, expected: dict[str, Expected]) -> dict[str, Expected]:
    return {f"{path}.{name}": one for name, one in expected.items()}


def joined(*parts: dict[str, Expected]) -> dict[str, Expected]:
    """One table of all. AssertionError where a pattern is in two."""
    whole = {name: one for part in parts for name, one in part.items()}
    assert len(whole) == sum(map(len, parts)), "a pattern is there twice"
    return whole
