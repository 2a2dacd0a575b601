"""Programs of examples/architectures compute what torch's modules do, and train."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from checks import check_whole
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures import FOLDER, KINDS, TOLERANCES, agree, flat, loaded, losses, move

NAMES = sorted(path.stem for path in FOLDER.glob("*.mod"))


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def tokens(*shape: int, below: int = 65) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(4))


SEEN = torch.arange(9) < torch.tensor([9, 6])[:, None]
"""Which tokens of two texts are no padding."""
INPUTS: dict[str, tuple[Tensor, ...]] = {
    "audio": (numbers(2, 1, 80),),
    "convnext": (numbers(2, 3, 32, 32),),
    "dit": (numbers(2, 16, 16), numbers(2, 32), tokens(2, below=10)),
    "dlrm": (numbers(6, 13), *(tokens(6, below=n) for n in (1000, 500, 50))),
    "encoder_decoder": (tokens(2, 9), tokens(2, 7), SEEN[:, None, None]),
    "gcn": (numbers(9, 16), tokens(2, 24, below=9)),
    "gru": (numbers(2, 7, 16),),
    "lora": (numbers(6, 64),),
    "mixer": (numbers(2, 16, 48),),
    "resnet18": (numbers(2, 3, 64, 64),),
    "unet": (numbers(2, 3, 32, 32),),
    "vae": (numbers(4, 784), numbers(4, 20)),
    "vit": (numbers(2, 3, 32, 32),),
}
"""What a model is called with: two rows of text where nothing else is said."""


def inputs(name: str) -> tuple[Tensor, ...]:
    return INPUTS.get(name, (tokens(2, 11),))


class UNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def twice(into: int, out: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(into, out, 3, padding=1, bias=False), nn.GroupNorm(8, out), nn.ReLU(),
                nn.Conv2d(out, out, 3, padding=1, bias=False), nn.GroupNorm(8, out), nn.ReLU(),
            )  # fmt: skip

        self.down = nn.ModuleList([twice(3, width), twice(width, 2 * width)])
        self.bottom = twice(2 * width, 4 * width)
        self.up = nn.ModuleList([twice(3 * width, width), twice(6 * width, 2 * width)])
        self.last = nn.Conv2d(width, 1, 1)

    def level(self, x: Tensor, i: int) -> Tensor:
        if i == len(self.down):
            return self.bottom(x)
        x = self.down[i](x)
        below = F.interpolate(self.level(F.max_pool2d(x, 2), i + 1), scale_factor=2)
        return self.up[i](torch.cat((x, below), 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.level(x, 0))


class Seq2Seq(nn.Module):
    """torch.nn.Transformer, pre-norm, over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, 64) for n in (65, 32, 65, 32))
        common = {"dim_feedforward": 256, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(64, 4, **common) for _ in range(2))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(64, 4, **common) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2))
        self.head = nn.Linear(64, 65)

    def embed(self, x: Tensor, i: int) -> Tensor:
        return self.embeddings[i](x) + self.embeddings[i + 1](torch.arange(x.shape[1]))

    def forward(self, source: Tensor, target: Tensor, seen: Tensor) -> Tensor:
        unseen = ~seen[:, 0, 0]
        x, memory = self.embed(target, 0), self.embed(source, 2)
        for layer in self.encoder:
            memory = layer(memory, src_key_padding_mask=unseen)
        memory = self.norms[0](memory)
        later = nn.Transformer.generate_square_subsequent_mask(x.shape[1]).isinf()
        for layer in self.decoder:
            x = layer(x, memory, tgt_mask=later, memory_key_padding_mask=unseen)
        return self.head(self.norms[1](x))


class Looped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(65, 64)
        self.norms = nn.ModuleList(nn.RMSNorm(64, eps=1e-5) for _ in range(3))
        sizes = [(64, 64)] * 4 + [(64, 256), (256, 64), (64, 65)]
        self.linear = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in sizes)

    def turned(self, x: Tensor) -> Tensor:
        """Rotary positions by complex numbers: entries i and i + 8 of a head are one."""
        angles = torch.arange(x.shape[2])[:, None] * 1e4 ** -(torch.arange(8) / 8).double()
        a, b = x.chunk(2, -1)
        y = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((y.real, y.imag), -1).to(x.dtype)

    def block(self, x: Tensor) -> Tensor:
        one, two, _ = self.norms
        query, key, value, out, up, down, _ = self.linear
        y = one(x)
        q, k, v = (f(y).unflatten(-1, (4, 16)).transpose(1, 2) for f in (query, key, value))
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
        x = x + out(y.transpose(1, 2).flatten(2))
        return x + down(F.gelu(up(two(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(4):
            x = self.block(x)
        return self.linear[-1](self.norms[-1](x))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def mlp(n: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(n, 4 * n), nn.GELU(), nn.Linear(4 * n, n))

        self.first, self.norm, self.last = nn.Linear(48, 64), nn.LayerNorm(64), nn.Linear(64, 10)
        self.places = nn.ModuleList(mlp(16) for _ in range(2))
        self.channels = nn.ModuleList(mlp(64) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i in range(2):
            x = x + self.places[i](self.norms[2 * i](x).mT).mT
            x = x + self.channels[i](self.norms[2 * i + 1](x))
        return self.last(self.norm(x).mean(1))


class Changed(nn.Module):
    """A layer with LoRA's change; its own parameter, the bias, counts as used last."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (64, 64), (64, 4), (4, 64)
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in sizes)
        self.bias = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        frozen, down, up = self.layers
        return frozen(x) + 2 * up(down(x)) + self.bias


class Audio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv1d(1, 16, 9, 4, bias=False)]
            + [nn.Conv1d(16, 16, 3, dilation=2**i, bias=False) for i in range(1, 4)]
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, 16) for _ in range(4))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.convs[0](x)).relu()
        for i in range(1, 4):
            x = x + self.norms[i](self.convs[i](F.pad(x, (2 * 2**i, 0)))).relu()
        return self.head(x.mean(2))


class DLRM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.tables = nn.ModuleList(nn.Embedding(n, 16) for n in (1000, 500, 50))
        self.top = nn.Sequential(nn.Linear(22, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense: Tensor, *ids: Tensor) -> Tensor:
        dense = self.bottom(dense)
        rows = torch.stack([dense, *(f(x) for f, x in zip(self.tables, ids, strict=True))], 1)
        dots = rows @ rows.mT
        i, j = torch.triu_indices(4, 4, 1)
        return self.top(torch.cat((dense, dots[:, i, j]), 1))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(16, 32, batch_first=True), nn.Linear(32, 10)
        nn.init.zeros_(self.gru.bias_hh_l0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


class GCN(nn.Module):
    """Kipf and Welling 2017 (arXiv 1609.02907), with the matrix of its equation 2 written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GCNLayer(16, 16), GCNLayer(16, 7)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        a = torch.eye(len(x), dtype=x.dtype)
        for source, target in edges.T.tolist():
            a[target, source] += source != target
        d = a.sum(1).rsqrt().diag()
        return self.second(self.first(x, d @ a @ d).relu(), d @ a @ d)


class GCNLayer(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.linear, self.bias = nn.Linear(into, out, bias=False), nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return a @ self.linear(x) + self.bias


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = (784, 400), (400, 20), (400, 20), (20, 400), (400, 784)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in sizes)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, mean, logvar, up, out = self.layers
        y = features(x).relu()
        mean, logvar = mean(y), logvar(y)
        return out(up(mean + (logvar / 2).exp() * noise).relu()), mean, logvar


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(16, 64), nn.Parameter(torch.zeros(16, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.table


class Modulated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return F.layer_norm(x, (64,), eps=1e-6) * (1 + self.scale(c)) + self.shift(c)


class DiTBlock(nn.Module):
    """Peebles and Xie 2023 (arXiv 2212.09748), with adaLN-Zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
        self.modulated = nn.ModuleList(Modulated() for _ in range(2))
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        gate, y = self.gates[0](c), self.modulated[0](x, c)
        x = x + gate * self.attention(y, y, y, need_weights=False)[0]
        gate, y = self.gates[1](c), self.modulated[1](x, c)
        return x + gate * self.mlp(y)


class DiT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.label = Positions(), nn.Embedding(10, 64)
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.blocks = nn.ModuleList(DiTBlock() for _ in range(2))
        self.modulated = Modulated()
        self.noise, self.variance = nn.Linear(64, 16), nn.Linear(64, 16)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(x)
        c = F.silu(self.time(time) + self.label(label))[:, None]
        for block in self.blocks:
            x = block(x, c)
        x = self.modulated(x, c)
        return self.noise(x), self.variance(x)


class Gated(nn.Module):
    """h' = h + a·(b - h), written as a sum over the entries before instead of a recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.keep = nn.RMSNorm(64, eps=1e-5), nn.Linear(128, 128)
        self.into, self.gate = (nn.Linear(64, 128, bias=False) for _ in range(2))
        self.write, self.out = nn.Linear(128, 128, bias=False), nn.Linear(128, 64, bias=False)
        self.conv = nn.Conv1d(128, 128, 4, padding=3, groups=128)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = F.silu(self.conv(self.into(y).mT)[..., : x.shape[1]].mT)
        keep, write = self.keep(z).sigmoid(), self.write(z)
        # of what was written at s, there is left at t what all gates in between have kept
        sums = keep.log().cumsum(1)
        left = (sums[:, :, None] - sums[:, None]).exp()
        lower = torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril()
        states = torch.einsum("btsd,ts,bsd->btd", left, lower, (1 - keep) * write)
        return x + self.out(states * F.silu(self.gate(y)))


class Mamba(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(65, 64), nn.RMSNorm(64, eps=1e-5)
        self.blocks, self.head = nn.ModuleList(Gated() for _ in range(2)), nn.Linear(64, 65, False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def lora() -> nn.Module:
    return nn.Sequential(Changed(), nn.ReLU(), Changed(), nn.ReLU(), nn.Linear(64, 10))


COUNTERPARTS: dict[str, Callable[[], nn.Module]] = {
    "audio": Audio,
    "dit": DiT,
    "dlrm": DLRM,
    "encoder_decoder": Seq2Seq,
    "gcn": GCN,
    "gru": Reader,
    "looped": Looped,
    "lora": lora,
    "mamba": Mamba,
    "mixer": Mixer,
    "unet": UNet,
    "vae": VAE,
}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", COUNTERPARTS)
def test_a_program_computes_what_torchs_modules_do(name: str, dtype: torch.dtype) -> None:
    agree(name, COUNTERPARTS[name](), inputs(name), dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_program_trains(name: str, kind: str) -> None:
    found = losses(name, kind, inputs(name), lr=0.4)
    assert found[-1] < found[0] - 0.2


SMALL = {name: {"blocks": 1} for name in ("encoder_decoder", "llama", "mixer", "nanogpt", "vit")}
"""Of blocks that repeat, one is enough where all that is asked is whether it is understood."""


@pytest.mark.parametrize("name", NAMES)
def test_a_program_is_compiled_whole_and_exported(name: str) -> None:
    _, build = loaded(name, **SMALL.get(name, {}))
    model, args = build(generator=torch.Generator().manual_seed(0)).eval(), inputs(name)
    check_whole(model, args)
    move(model)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(*args)
    for found, expected in zip(flat(low), flat(model(*args)), strict=True):
        assert (found.float() - expected).norm() < 0.1 * expected.norm()


def test_every_program_is_compared_with_a_network_of_others() -> None:
    pytest.importorskip("transformers")
    from tests.clients.test_transformers import CASES

    assert sorted([*COUNTERPARTS, *CASES]) == NAMES
