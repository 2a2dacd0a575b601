"""`modnorm.adopt` on the ways in which models are built, stored, wrapped and called."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from optimizer_cases import norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import modnorm
from modnorm.kernels.weight import Weight

Roles = dict[str, str]
KINDS = ("normed_adam", "normed_sgd", "dualized_sgd")


def randn(*shape: int, requires_grad: bool = False) -> Tensor:
    """The same numbers every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_(
        requires_grad
    )


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def silent(model: nn.Module, example: Any, **options: Any) -> Any:
    """What adopting gives, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return modnorm.adopt(model, example, **options)


def holders(plan: Any) -> dict[str, list[Weight]]:
    found: dict[str, list[Weight]] = defaultdict(list)
    for w in plan:
        found[w.layout.parameter if w.layout else w.name].append(w)
    return found


def roles(plan: Any) -> Roles:
    """By parameter, the role of its weights, and how many they are if they are several."""
    return {
        name: " ".join(sorted({w.role for w in own})) + (f" {len(own)}" if len(own) > 1 else "")
        for name, own in holders(plan).items()
    }


def whole(model: nn.Module, plan: Any) -> None:
    """Every trained parameter has each of its entries in one weight."""
    found = holders(plan)
    for name, p in model.named_parameters():
        if p.requires_grad:
            numbers = torch.arange(p.numel()).view(p.shape)
            held = torch.cat([w.cut(numbers).flatten() for w in found[name]])
            assert held.sort().values.equal(numbers.flatten()), name


def floats(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (tuple, list)):
        for x in out:
            yield from floats(x)
    else:
        yield from floats(list(out.values()))


def called(model: nn.Module, example: Any) -> Any:
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def trained(model: nn.Module, example: Any, optimizer: Any, steps: int = 3) -> list[float]:
    """Losses against targets that stay the same."""
    losses = []
    for _ in range(steps):
        seed = torch.Generator().manual_seed(1)
        outs = [x for x in floats(called(model, example)) if x.is_floating_point()]
        terms = [F.mse_loss(x, torch.randn(x.shape, generator=seed).to(x)) for x in outs]
        loss = torch.stack([x.float() for x in terms]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def understood(build: Callable[[], nn.Module], example: Any, expected: Roles) -> nn.Module:
    """The roles are these, nothing is left out, and every parameter moves downhill."""
    model = seeded(build)
    optimizer = silent(model, example, lr=0.05)
    assert roles(optimizer.plan) == expected
    whole(model, optimizer.plan)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = trained(model, example, optimizer, 1)
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == []
    losses += trained(model, example, optimizer, 7)
    assert losses[-1] < losses[0]
    return model


# --- modules of torch.nn --------------------------------------------------------------------


def linear(*paths: str, weight: str = "matrix") -> Roles:
    return {f"{path}.{x}": role for path in paths for x, role in (("weight", weight),
                                                                  ("bias", "bias"))}  # fmt: skip


def gains(*paths: str) -> Roles:
    return linear(*paths, weight="gain")


class Attends(nn.Module):
    """Cross attention, with keys and values of other widths if they are given."""

    def __init__(self, width: int, heads: int, keys: int | None, values: int | None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            width, heads, kdim=keys, vdim=values, batch_first=True
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Any:
        return self.head(self.attention(x, keys, values)[0])


class Recurs(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(6, 8, batch_first=True, **options)
        size = options.get("proj_size") or 8
        self.head = nn.Linear(size * (2 if options.get("bidirectional") else 1), 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0])


def gates(count: int, *suffixes: str, projected: bool = False) -> Roles:
    many = f" {count}" if count > 1 else ""
    found = {
        f"rnn.{what}_{which}_{suffix}": role + many
        for suffix in suffixes
        for what, role in (("weight", "matrix"), ("bias", "bias"))
        for which in ("ih", "hh")
    }
    found |= {f"rnn.weight_hr_{suffix}": "matrix" for suffix in suffixes if projected}
    return found | linear("head", weight="readout")


MODULES: dict[str, tuple[Callable[[], nn.Module], Any, Roles]] = {
    "attention": (
        lambda: Attends(8, 2, None, None), (randn(2, 3, 8), *randn(2, 2, 4, 8)),
        {"attention.in_proj_weight": "matrix 3", "attention.in_proj_bias": "bias 3"}
        | linear("attention.out_proj") | linear("head", weight="readout"),
    ),
    "attention of other widths": (
        lambda: Attends(8, 2, 6, 10),
        (randn(2, 3, 8), randn(2, 4, 6), randn(2, 4, 10)),
        {f"attention.{x}_proj_weight": "matrix" for x in "qkv"}
        | {"attention.in_proj_bias": "bias 3"}
        | linear("attention.out_proj") | linear("head", weight="readout"),
    ),
    "rnn": (lambda: Recurs(nn.RNN), randn(2, 4, 6), gates(1, "l0")),
    "rnn of relu": (
        lambda: Recurs(nn.RNN, nonlinearity="relu"), randn(2, 4, 6), gates(1, "l0")
    ),
    "gru in both directions": (
        lambda: Recurs(nn.GRU, bidirectional=True), randn(2, 4, 6),
        gates(3, "l0", "l0_reverse"),
    ),
    "lstm of layers": (
        lambda: Recurs(nn.LSTM, num_layers=2, dropout=0.1), randn(2, 4, 6),
        gates(4, "l0", "l1"),
    ),
    "lstm with a projection": (
        lambda: Recurs(nn.LSTM, proj_size=4), randn(2, 4, 6),
        gates(4, "l0", projected=True),
    ),
    "lstm in both directions with a projection": (
        lambda: Recurs(nn.LSTM, bidirectional=True, proj_size=4), randn(2, 4, 6),
        gates(4, "l0", "l0_reverse", projected=True),
    ),
    "bag": (
        lambda: nn.Sequential(nn.EmbeddingBag(11, 6, mode="mean"), nn.Linear(6, 3)),
        torch.arange(8).view(2, 4), {"0.weight": "table"} | linear("1", weight="readout"),
    ),
    "prelu": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.PReLU(8), nn.Linear(8, 8), nn.PReLU(),
                              nn.Linear(8, 3)),
        randn(4, 6),
        linear("0", "2") | linear("4", weight="readout") | {"1.weight": "gain", "3.weight": "gain"},
    ),
    "norms of groups and instances": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3),
            nn.InstanceNorm2d(8, affine=True), nn.Flatten(), nn.Linear(128, 3),
        ),
        randn(2, 3, 8, 8),
        linear("0", "2", weight="conv") | gains("1", "3") | linear("5", weight="readout"),
    ),
    "norms": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8),
                              nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)),
        randn(5, 6),
        linear("0", "2", "4") | gains("1", "5") | {"3.weight": "gain"}
        | linear("6", weight="readout"),
    ),
    "convolutions of one and three axes": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.Flatten(2), nn.Conv1d(4, 6, 3), nn.ReLU(),
                              nn.Conv1d(6, 6, 3, groups=6), nn.Flatten(), nn.LazyLinear(3)),
        randn(2, 2, 3, 3, 3),
        linear("0", "2", weight="conv") | linear("4", weight="taps")
        | linear("6", weight="readout"),
    ),
    "convolutions of groups": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(),
                              nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(32, 3)),
        randn(2, 4, 6, 6),
        linear("0", weight="conv") | linear("2", weight="taps") | linear("4", weight="readout"),
    ),
    "transposed convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 3), nn.ReLU(),
                              nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), nn.Flatten(),
                              nn.Linear(400, 3)),
        randn(2, 3, 5, 5),
        linear("0", "1", "3", weight="conv") | linear("5", weight="readout"),
    ),
    "transposed convolutions of one axis": (
        lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 3), nn.ReLU(),
                              nn.ConvTranspose1d(6, 6, 3, groups=3), nn.Flatten(),
                              nn.Linear(54, 3)),
        randn(2, 4, 5),
        linear("0", "2", weight="conv") | linear("4", weight="readout"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_torch(name: str) -> None:
    build, example, expected = MODULES[name]

    def ready() -> nn.Module:
        model = build()
        called(model, example)  # what is lazy gets its shape
        return model

    understood(ready, example, expected)


def test_a_transformer_of_torch() -> None:
    model = seeded(lambda: nn.Transformer(8, 2, 2, 2, 12, dropout=0.0, batch_first=True))
    plan = silent(model, (randn(2, 3, 8), randn(2, 4, 8)), plan_only=True)
    found = roles(plan)
    whole(model, plan)
    for name, role in found.items():
        what = name.split(".")[-2:]
        kind = "bias" if "bias" in what[1] else "gain" if "norm" in what[0] else "matrix"
        assert role.split()[0] == kind, name
        assert ("3" in role) == ("in_proj" in name), name


# --- ways to write a product ----------------------------------------------------------------


class Written(nn.Module):
    """A product with the weight, written in some way, between two layers."""

    def __init__(self, shape: tuple[int, ...], call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.LazyLinear(3)
        self.weight, self.call = nn.Parameter(torch.randn(shape) / 3), call

    def forward(self, x: Tensor) -> Any:
        return self.last(torch.tanh(self.call(self.first(x), self.weight)))


WRITTEN: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "x @ w": ((6, 8), lambda x, w: x @ w, (8, 6)),
    "x @ w.T": ((8, 6), lambda x, w: x @ w.T, (8, 6)),
    "(w @ x.T).T": ((8, 6), lambda x, w: (w @ x.flatten(0, 1).T).T.view(2, 4, 8), (8, 6)),
    "bsi,io->bso": ((6, 8), lambda x, w: torch.einsum("bsi,io->bso", x, w), (8, 6)),
    "oi,bsi->bso": ((8, 6), lambda x, w: torch.einsum("oi,bsi->bso", w, x), (8, 6)),
    "...i,oi->...o": ((8, 6), lambda x, w: torch.einsum("...i,oi->...o", x, w), (8, 6)),
    "abi,oi": ((8, 6), lambda x, w: torch.einsum("abi,oi", x, w), (8, 6)),
    "bsi,ihd->bshd": (
        (6, 2, 4), lambda x, w: torch.einsum("bsi,ihd->bshd", x, w).flatten(-2), (8, 6)
    ),
    "bshd,hde->bse": (
        (2, 3, 8), lambda x, w: torch.einsum("bshd,hde->bse", x.unflatten(-1, (2, 3)), w), (8, 6)
    ),
    "tensordot": ((6, 8), lambda x, w: torch.tensordot(x, w, dims=1), (8, 6)),
    "inner": ((8, 6), lambda x, w: torch.inner(x, w), (8, 6)),
    "bmm": ((6, 8), lambda x, w: torch.bmm(x, w.expand(2, -1, -1)), (8, 6)),
    "a scaled weight": ((8, 6), lambda x, w: F.linear(x, w * 0.5), (8, 6)),
    "a convolution as a matrix": (
        (8, 6, 1), lambda x, w: F.linear(x, w.squeeze(-1)), (8, 6)
    ),
    "in place": (
        (8, 6), lambda x, w: x.new_zeros(2, 4, 8).add_(F.linear(x, w)).mul_(2.0), (8, 6)
    ),
    "a half": ((8, 6), lambda x, w: F.linear(x.half(), w.half()).float(), (8, 6)),
    "used twice": ((6, 6), lambda x, w: F.linear(torch.relu(F.linear(x, w)), w), (6, 6)),
    "a loop that data decides": (
        (6, 6), lambda x, w: x @ w.T if x.sum() > 1e9 else x @ w.T @ w.T, (6, 6)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_products_however_written(name: str) -> None:
    """The weight is measured as the matrix (out, in) that it is."""
    shape, call, logical = WRITTEN[name]
    x = randn(2, 4, 5)

    def build() -> nn.Module:
        model = Written(shape, call)
        model(x)
        return model

    expected = linear("first") | {"weight": "matrix"} | linear("last", weight="readout")
    model = understood(build, x, expected)
    (record,) = holders(silent(model, x, plan_only=True))["weight"]
    assert (record.norm, sorted(record.shape)) == ("spectral", sorted(logical))
    weight = dict(model.named_parameters())["weight"].detach()
    inputs = randn(2, 4, 6)
    if name not in ("used twice", "a loop that data decides", "in place", "a half"):
        scale = 0.5 if name == "a scaled weight" else 1.0
        made = call(inputs, weight)
        torch.testing.assert_close(F.linear(inputs, record.cut(weight)) * scale, made)


# --- wrappers -------------------------------------------------------------------------------


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, 3))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = small(), reentrant

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.fixture
def group() -> Iterator[None]:
    """A group of one process."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "DataParallel": nn.DataParallel,
    "compile": compiled,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "compile of DistributedDataParallel": lambda model: compiled(
        nn.parallel.DistributedDataParallel(model)
    ),
}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_change_nothing(name: str) -> None:
    x = randn(4, 5)
    bare = seeded(small)
    plan = silent(bare, x, plan_only=True)
    inner = seeded(small)
    model = WRAPPERS[name](inner)
    random = torch.get_rng_state()
    optimizer = silent(model, x, lr=0.05)
    assert torch.equal(torch.get_rng_state(), random)
    assert optimizer.plan == plan
    theirs = modnorm.adopt(bare, plan=plan, lr=0.05)
    torch.manual_seed(3)
    losses = trained(model, x, optimizer)
    torch.manual_seed(3)
    assert losses == pytest.approx(trained(bare, x, theirs), rel=1e-5)
    for one, other in zip(inner.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpoints_change_nothing(reentrant: bool) -> None:
    x = randn(4, 5, requires_grad=True)
    plan = silent(seeded(small).eval(), x, plan_only=True)
    model = seeded(lambda: Checkpointed(reentrant)).eval()
    optimizer = silent(model, x, lr=0.05)
    assert x.grad is None
    inner = [(f"inner.{w.name}", *w[1:6]) for w in plan]
    assert [tuple(w[:6]) for w in optimizer.plan] == inner
    losses = trained(model, x, optimizer, 8)
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_models_of_torchscript(how: str) -> None:
    x, model = randn(4, 5), seeded(small).eval()
    made = torch.jit.script(model) if how == "script" else torch.jit.trace(model, (x,))
    found = silent(made, x, plan_only=True)
    assert [w[:6] for w in found] == [w[:6] for w in silent(model, x, plan_only=True)]


def test_a_model_without_numbers_is_refused_in_words() -> None:
    model = nn.Linear(5, 3, device="meta")
    with pytest.raises(ValueError, match=r"meta.*weight"):
        modnorm.adopt(model, randn(4, 5))


def test_a_lazy_model_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"weight.*call the model once"):
        modnorm.adopt(nn.Sequential(nn.LazyLinear(3)), randn(4, 5))


def test_a_model_without_parameters() -> None:
    with pytest.raises(ValueError, match="depends on no parameter"):
        modnorm.adopt(nn.ReLU(), randn(4, 5))


# --- what is trained ------------------------------------------------------------------------


def test_what_is_frozen_is_left_out() -> None:
    model = seeded(small)
    model[0].requires_grad_(False)
    before = [p.detach().clone() for p in model[0].parameters()]
    optimizer = silent(model, randn(4, 5), lr=0.05)
    assert set(roles(optimizer.plan)) == {"2.weight", "2.bias", "3.weight", "3.bias"}
    trained(model, randn(4, 5), optimizer)
    assert all(torch.equal(p, x) for p, x in zip(model[0].parameters(), before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_groups_have_options_of_their_own(kind: str) -> None:
    """One of rate 0 stays, and steps of the other have the size of its rate."""
    model, x = seeded(small).eval(), randn(4, 5)
    named = dict(model.named_parameters())
    still = [(n, p) for n, p in named.items() if n.startswith("0.")]
    moves = [(n, p) for n, p in named.items() if not n.startswith("0.")]
    groups = [
        {"params": still, "lr": 0.0},
        {"params": moves, "lr": 0.25, "weight_decay": 0.1},
    ]
    optimizer = silent(model, x, kind=kind, params=groups)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.1]
    assert [g["lr"] for g in optimizer.param_groups] == [0.0, 0.25]
    before = {name: p.detach().clone() for name, p in named.items()}
    trained(model, x, optimizer, 1)
    assert all(torch.equal(p, before[n]) for n, p in still)
    w = next(w for w in optimizer.plan if w.name == "3.bias")
    kept = before[w.name] * (1 - 0.25 * w.target * 0.1)
    moved = named[w.name].detach() - kept
    assert norm(w, moved) == pytest.approx(0.25 * w.target, rel=1e-3)


def test_what_is_unused_is_named_and_left_out() -> None:
    model = seeded(small)
    model[1].spare = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="does not use 1.spare.bias, 1.spare.weight") as heard:
        optimizer = modnorm.adopt(model, randn(4, 5), lr=0.05)
    assert [w.filename for w in heard] == [__file__]
    assert not [w.name for w in optimizer.plan if "spare" in w.name]
    trained(model, randn(4, 5), optimizer)


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.square = nn.Parameter(torch.eye(5) + 0.1)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x) @ torch.linalg.inv(self.square)


def test_what_is_not_understood_is_named_with_its_place() -> None:
    model = nn.Sequential(seeded(Opaque))
    code = Opaque.forward.__code__
    line = rf"0.square in 0 \({code.co_filename}:{code.co_firstlineno + 1}\)"
    with pytest.warns(UserWarning, match=line) as heard:
        optimizer = modnorm.adopt(model, randn(4, 5), lr=0.05)
    assert len(heard) == 1
    assert roles(optimizer.plan)["0.square"] == "opaque"
    losses = trained(model, randn(4, 5), optimizer, 8)
    assert losses[-1] < losses[0]


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Any:
        self.norm(x)
        raise KeyError("no such thing")


def test_a_model_that_fails_is_as_it_was() -> None:
    model, x, random = seeded(Fails), randn(4, 5), torch.get_rng_state()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    with pytest.raises(KeyError, match="no such thing"):
        modnorm.adopt(model, x)
    after = model.state_dict()
    assert all(torch.equal(after[key], x) for key, x in before.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Any:
        return self.head(torch.tanh(self.inner(self.table(ids))))


def test_tied_weights_are_one() -> None:
    understood(Tied, torch.arange(6).view(2, 3), {"table.weight": "tied"} | linear("inner"))


class State(nn.Module):
    """A first state that is learned, buffers, and a dict for what it takes and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.h, self.rnn = nn.Parameter(randn(1, 1, 6)), nn.GRU(5, 6, batch_first=True)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("shift", torch.ones(6))
        self.register_buffer("sparse", torch.eye(6).to_sparse())

    def forward(self, inputs: dict[str, Tensor], *, scale: float) -> Any:
        y, _ = self.rnn(inputs["x"], self.h.expand(-1, len(inputs["x"]), -1).contiguous())
        return {"last": self.norm(y[:, -1] * scale + self.shift), "mask": inputs["mask"]}


def test_states_buffers_and_dicts() -> None:
    model = seeded(State)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    inputs = {"x": randn(3, 4, 5), "mask": torch.ones(3, dtype=torch.bool)}
    optimizer = silent(model, {"inputs": inputs, "scale": 0.5})
    after = model.state_dict()
    for key, x in before.items():
        assert torch.equal(after[key].to_dense(), x.to_dense()), key
    found = roles(optimizer.plan)
    assert found["h"] == "vector"
    assert found["rnn.weight_hh_l0"] == "matrix 3"
    assert {found["norm.weight"], found["norm.bias"]} == {"gain", "bias"}
    args = ((inputs,), {"scale": 0.5})
    assert silent(model, args, plan_only=True) == optimizer.plan


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_types_and_orders_in_memory(dtype: torch.dtype, channels_last: bool) -> None:
    """A plan is the same for all of them."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )

    x = randn(4, 3, 6, 6)
    plan = silent(seeded(build), x, plan_only=True, sensitivity="declared")
    model, x = seeded(build).to(dtype), x.to(dtype)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    assert silent(model, x, plan_only=True, sensitivity="declared") == plan
    optimizer = silent(model, x, lr=0.05)
    losses = trained(model, x, optimizer, 8)
    assert losses[-1] < losses[0]


# --- parametrizations -----------------------------------------------------------------------


def parametrized(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(wrap(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 3))


def test_weight_norm() -> None:
    own = "0.parametrizations.weight.original"
    understood(
        lambda: parametrized(parametrizations.weight_norm), randn(4, 5),
        {"0.bias": "bias", f"{own}0": "gain", f"{own}1": "matrix"} | linear("2", weight="readout"),
    )  # fmt: skip


def test_spectral_norm() -> None:
    """What it divides by is a part of the function; the weight is a matrix."""
    understood(
        lambda: parametrized(parametrizations.spectral_norm).eval(), randn(4, 5),
        {"0.bias": "bias", "0.parametrizations.weight.original": "matrix"}
        | linear("2", weight="readout"),
    )  # fmt: skip


def test_orthogonal() -> None:
    """Which weight it makes of which numbers is not said by entries."""
    model = seeded(lambda: parametrized(parametrizations.orthogonal))
    x = randn(4, 5)
    with pytest.warns(UserWarning, match="0.parametrizations.weight.original in 0"):
        optimizer = modnorm.adopt(model, x, lr=0.05)
    whole(model, optimizer.plan)
    losses = trained(model, x, optimizer, 8)
    assert losses[-1] < losses[0]


def test_two_adoptions_are_the_same() -> None:
    model, x = seeded(small), randn(4, 5)
    assert silent(model, x, plan_only=True) == silent(model, x, plan_only=True)
    model.eval()
    assert not silent(model, x, plan_only=True)[0].place.startswith("<")
    assert not model.training


class TiedEncoder(nn.Module):
    """One matrix, used both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(6, 5))
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(F.linear(x, self.weight, self.bias)) @ self.weight


def test_a_matrix_that_is_used_both_ways() -> None:
    plan = silent(TiedEncoder(), randn(4, 5), plan_only=True)
    shapes = {w.name: (w.shape, w.norm, w.layout) for w in plan}
    assert shapes == {"weight": ((6, 5), "spectral", None), "bias": ((6,), "rms", None)}


def test_spectral_norm_in_training_iterates_with_the_matrix_both_ways() -> None:
    first = parametrizations.spectral_norm(nn.Linear(5, 6))
    plan = silent(nn.Sequential(first, nn.ReLU(), nn.Linear(6, 3)), randn(4, 5), plan_only=True)
    assert roles(plan) == {
        "0.parametrizations.weight.original": "matrix", "0.bias": "bias",
        "2.weight": "readout", "2.bias": "bias",
    }  # fmt: skip


# --- what it is told ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensitivity": "mesured"}, "sensitivity must be one of auto, declared, measured, as_is"),
        ({"masses": {"nothing.*": 2}}, "no weight is called 'nothing.\\*'"),
        ({"masses": {"*": -1}}, "a mass is a number of at least 0"),
        ({"blocks_mass": float("nan")}, "a mass is a number of at least 0"),
        ({"kind": "adam"}, "kind must be one of normed_adam"),
    ],
)  # fmt: skip
def test_options_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modnorm.adopt(small(), randn(4, 5), **options)


def test_a_plan_has_its_masses() -> None:
    plan = modnorm.adopt(small(), randn(4, 5), plan_only=True)
    with pytest.raises(ValueError, match="stand in the plan"):
        modnorm.adopt(small(), plan=plan, masses={"*": 2})


def test_what_a_plan_leaves_out_is_told() -> None:
    model = small()
    plan = modnorm.adopt(model, randn(4, 5), plan_only=True)
    model.register_parameter("more", nn.Parameter(torch.zeros(3)))
    with pytest.warns(UserWarning, match="no part of the plan, and not trained: more"):
        modnorm.adopt(model, plan=plan)


def test_a_plan_takes_no_other_files_place(tmp_path: Any) -> None:
    plan = modnorm.adopt(small(), randn(4, 5), plan_only=True)
    path = tmp_path / "plan.json"
    path.write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match="no plan that modnorm has saved"):
        plan.save(path)
    assert path.read_text() == '{"mine": 1}'
    path.unlink()
    plan.save(path)
    plan.save(path)
    assert tuple(modnorm.load_plan(path)) == tuple(plan)
