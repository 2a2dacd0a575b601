"""The models of tests/zoo run, and their parameters are what it says."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from tests.zoo import ZOO, Entry, Expected  # noqa: E402

DIMENSIONS = {
    "matrix": (2,), "readout": (2, 3, 4), "table": (2,), "tied": (2,), "router": (2,),
    "experts": (3,), "conv": (3, 4), "taps": (3, 4), "bias": (1,), "gain": (0, 1, 2, 3),
    "vector": (1, 2, 3), "opaque": (2,),
}  # fmt: skip
OWNERS: dict[type[nn.Module], set[str]] = {
    nn.Linear: {"matrix", "readout"},
    nn.Embedding: {"table", "tied"},
    nn.EmbeddingBag: {"table"},
    nn.LayerNorm: {"gain"},
    nn.GroupNorm: {"gain"},
    nn.BatchNorm1d: {"gain"},
    nn.BatchNorm2d: {"gain"},
    nn.ConvTranspose2d: {"conv"},
}
"""What the weight of a module of torch.nn can be."""
SILENCES = {
    "q": "k", "k": "q", "v": "q k", "gate": "up", "up": "gate", "value": "gate",
    "g": "i f o", "n": "r z", "z": "x", "B": "C", "C": "dt B",
    "gate_msa": "shift_msa scale_msa", "gate_mlp": "shift_mlp scale_mlp",
}  # fmt: skip
"""The pieces that no output depends on, once the first is zero."""


def with_pieces(*names: str) -> list[str]:
    """The models with a fused matrix, of such pieces if they are named."""
    return [
        key
        for key, entry in ZOO.items()
        for pieces in [{one for what in matrices(entry) for one, _ in what.pieces}]
        if pieces and pieces.issuperset(names)
    ]


def matrices(entry: Entry) -> list[Expected]:
    return [what for what in entry.expected.values() if what.role != "bias"]


@pytest.fixture(params=ZOO, scope="module")
def entry(request: pytest.FixtureRequest) -> Entry:
    found: Entry = ZOO[request.param]
    if found.needs is not None:
        pytest.importorskip(found.needs)
    return found


@pytest.fixture
def model(entry: Entry) -> nn.Module:
    return entry.build()


def loss(entry: Entry, model: nn.Module) -> Tensor:
    args, kwargs = entry.example()
    return entry.loss(model(*args, **kwargs))


def named(entry: Entry, model: nn.Module) -> dict[str, tuple[nn.Parameter, Expected]]:
    own = dict(model.named_parameters())
    return {name: (own[name], what) for name, what in entry.named(list(own)).items()}


def test_it_trains_what_it_says(entry: Entry, model: nn.Module) -> None:
    found = loss(entry, model)
    assert found.shape == ()
    assert found.isfinite()
    found.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {name for name, _ in model.named_parameters() if entry.is_unused(name)}


def test_it_is_small_and_the_same_each_time(entry: Entry, model: nn.Module) -> None:
    assert model.training
    assert sum(p.numel() for p in model.parameters()) < 200_000
    first = loss(entry, model)
    torch.testing.assert_close(loss(entry, model), first, rtol=0, atol=0)  # no dropout
    torch.testing.assert_close(loss(entry, entry.build()), first, rtol=0, atol=0)


def test_every_pattern_has_a_parameter(entry: Entry, model: nn.Module) -> None:
    """That every parameter has one pattern is said by `named`."""
    names = list(named(entry, model))
    patterns = (*entry.expected, *entry.unused)
    assert [one for one in patterns if not fnmatch.filter(names, one)] == []


def test_shapes_fit_roles_and_pieces(entry: Entry, model: nn.Module) -> None:
    for name, (p, what) in named(entry, model).items():
        assert p.ndim in DIMENSIONS[what.role], name
        assert what.role != "taps" or p.shape[1] == 1, name
        if what.pieces:
            rows = sorted(chain.from_iterable(rows for _, rows in what.pieces))
            assert rows == list(range(p.shape[what.axis])), name


def test_roles_are_those_of_the_modules(entry: Entry, model: nn.Module) -> None:
    """As far as a class of torch.nn says what its weight is."""
    expected = named(entry, model)
    for path, module in model.named_modules():
        name = f"{path}.weight"
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            allowed = {"taps"} if module.groups == module.in_channels > 1 else {"conv", "readout"}
        else:
            allowed = OWNERS.get(type(module), set())
        if allowed and name in expected:
            what = expected[name][1]
            assert what.role in allowed, name
            assert what.transposed == isinstance(module, nn.ConvTranspose2d), name


def test_tied_is_what_tables_and_matrices_share(entry: Entry, model: nn.Module) -> None:
    def of(kind: type[nn.Module]) -> set[int]:
        return {id(module.weight) for module in model.modules() if isinstance(module, kind)}

    both = of(nn.Embedding) & of(nn.Linear)
    expected = named(entry, model)
    tied = {name for name, (_, what) in expected.items() if what.role == "tied"}
    assert tied == {name for name, (p, _) in expected.items() if id(p) in both}


# --- pieces ---------------------------------------------------------------------------------


def rows(p: Tensor, what: Expected, piece: str) -> Iterator[tuple[Any, ...]]:
    """The index of a piece in a parameter that has it."""
    for name, found in what.pieces:
        if name == piece:
            yield (*[slice(None)] * what.axis, list(found))


@pytest.mark.parametrize("entry", with_pieces(), indirect=True)
@torch.no_grad()
def test_pieces_do_what_their_names_say(entry: Entry, model: nn.Module) -> None:
    """Without queries keys do nothing, without a gate what it lets through, and so on."""
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    expected = named(entry, model).values()
    pieces = {piece for what in matrices(entry) for piece, _ in what.pieces}
    kept = {key: one.clone() for key, one in model.state_dict().items()}

    def after(**values: float) -> Tensor:
        for piece, value in values.items():
            for p, what in expected:
                for at in rows(p, what, piece):
                    p[at] = p[at] * value
        found = loss(entry, model)
        model.load_state_dict(kept)
        return found

    whole = after()
    for silent, others in SILENCES.items():
        for other in set(others.split()) & pieces if silent in pieces else ():
            assert not torch.equal(after(**{other: 2.0}), whole), f"{other} does nothing"
            assert torch.equal(after(**{silent: 0.0, other: 2.0}), after(**{silent: 0.0})), (
                f"{other} matters without {silent}"
            )


@pytest.mark.parametrize("entry", with_pieces("gate", "up"), indirect=True)
@torch.no_grad()
def test_up_can_be_told_from_the_gate(entry: Entry, model: nn.Module) -> None:
    """The MLP is linear in it: twice as much of it and half of the matrix behind is the same."""
    expected = named(entry, model)
    whole = loss(entry, model)
    for name, (p, what) in expected.items():
        for at in rows(p, what, "up"):
            p[at] *= 2
            expected[name.replace("gate_up_proj", "down_proj")][0].mul_(0.5)
    assert torch.equal(loss(entry, model), whole)
    for p, what in expected.values():
        for at in rows(p, what, "gate"):
            p[at] *= 2
    assert not torch.equal(loss(entry, model), whole)
