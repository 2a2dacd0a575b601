"""The networks of the zoo that are written here, from torch.nn, in the ways that people do."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LSTMLanguageModel(nn.Module):
    """(batch, length) tokens → (batch, length, vocabulary)."""

    def __init__(self, vocabulary: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.lstm(self.embedding(x))[0])


class GRULanguageModel(nn.Module):
    """(batch, length) tokens → (batch, length, vocabulary), with one table at both ends."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.Linear(width, vocabulary)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Any:
        return self.decoder(self.gru(self.encoder(x))[0])


class GraphConvolution(nn.Module):
    """A(xW) + b (Kipf and Welling 2017), with W as (in, out), as in their code."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inside, out) / math.sqrt(inside))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ (x @ self.weight) + self.bias


class GCN(nn.Module):
    """(nodes, in) features and (nodes, nodes) weights of edges → (nodes, classes)."""

    def __init__(self, inside: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first = GraphConvolution(inside, hidden)
        self.second = GraphConvolution(hidden, classes)

    def forward(self, x: Tensor, adjacency: Tensor) -> Any:
        return self.second(F.relu(self.first(x, adjacency)), adjacency)


class EncoderClassifier(nn.Module):
    """(batch, length) tokens → (batch, classes), by nn.TransformerEncoder."""

    def __init__(self, vocabulary: int, width: int, mlp: int, heads: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(40, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, mlp, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.embedding(x) + self.positions[: x.shape[1]]
        return self.head(self.encoder(x).mean(1))


class AttentionPool(nn.Module):
    """(batch, length, keys) and (batch, length, values) → (batch, classes), by learned queries."""

    def __init__(self, width: int, keys: int, values: int, heads: int, classes: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(5, width))
        self.attention = nn.MultiheadAttention(
            width, heads, kdim=keys, vdim=values, batch_first=True
        )
        self.head = nn.Linear(width, classes)

    def forward(self, keys: Tensor, values: Tensor) -> Any:
        queries = self.queries.expand(len(keys), -1, -1)
        found, _ = self.attention(queries, keys, values, need_weights=False)
        return self.head(found.mean(1))


def weight_normed(sizes: tuple[int, ...]) -> nn.Module:
    """An MLP of weights that are parametrized as a length and a direction."""
    layers: list[nn.Module] = []
    for inside, out in pairwise(sizes):
        layers += [nn.utils.parametrizations.weight_norm(nn.Linear(inside, out)), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TemporalNet(nn.Module):
    """(batch, channels, length) → (batch, classes, length), causal and dilated (Bai et al. 2018).

    Its weights have a length and a direction by the older function of torch.
    """

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, and much in use
            self.convs = nn.ModuleList(
                nn.utils.weight_norm(nn.Conv1d(inside, hidden, 3, dilation=2**i))
                for i, inside in enumerate((channels, hidden))
            )
        self.head = nn.Conv1d(hidden, classes, 1)

    def forward(self, x: Tensor) -> Any:
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(F.pad(x, (2 * 2**i, 0))))
        return self.head(x)


class ConvModule(nn.Module):
    """The convolution module of Conformer (Gulati et al. 2020) on (batch, channels, length)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.pointwise1 = nn.Conv1d(channels, 2 * inner, 1)
        self.depthwise = nn.Conv1d(inner, inner, 7, padding=3, groups=inner)
        self.batch_norm = nn.BatchNorm1d(inner)
        self.pointwise2 = nn.Conv1d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.pointwise1(self.norm(x)), 1)
        return x + self.pointwise2(F.silu(self.batch_norm(self.depthwise(y))))


class AudioNet(nn.Module):
    """(batch, 1, samples) → (batch, classes)."""

    def __init__(self, channels: int, inner: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, channels, 9, stride=4, bias=False)
        self.blocks = nn.ModuleList(ConvModule(channels, inner) for _ in range(2))
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(-1))


class DLRM(nn.Module):
    """Click prediction (Naumov et al. 2019): (batch, dense) numbers, (batch, bag) ids a table."""

    def __init__(self, rows: tuple[int, ...], dense: int, hidden: int, width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(n, width, mode="sum") for n in rows)
        self.bottom = nn.Sequential(
            nn.Linear(dense, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU()
        )
        count = len(rows) + 1
        self.pairs = torch.tril_indices(count, count, -1)
        inside = width + self.pairs.shape[1]
        self.top = nn.Sequential(nn.Linear(inside, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, numbers: Tensor, *ids: Tensor) -> Any:
        x = self.bottom(numbers)
        all_ = torch.stack([x, *(table(i) for table, i in zip(self.tables, ids, strict=True))], 1)
        products = (all_ @ all_.mT)[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([x, products], 1)).squeeze(1)


def double_conv(inside: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """(batch, 3, height, width) → (batch, classes, height, width) (Ronneberger et al. 2015)."""

    def __init__(self, channels: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        one, two, three = channels
        self.down1, self.down2 = double_conv(3, one), double_conv(one, two)
        self.middle = double_conv(two, three)
        self.up2, self.up1 = (
            nn.ConvTranspose2d(three, two, 2, 2),
            nn.ConvTranspose2d(two, one, 2, 2),
        )
        self.join2, self.join1 = double_conv(2 * two, two), double_conv(2 * one, one)
        self.head = nn.Conv2d(one, classes, 1)

    def forward(self, x: Tensor) -> Any:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.middle(F.max_pool2d(two, 2))
        x = self.join2(torch.cat([two, self.up2(x)], 1))
        x = self.join1(torch.cat([one, self.up1(x)], 1))
        return self.head(x)


class DiTBlock(nn.Module):
    """A block of DiT with adaLN-Zero (Peebles and Xie 2023) on (batch, length, width)."""

    def __init__(self, width: int, mlp: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp), nn.GELU(approximate="tanh"), nn.Linear(mlp, width)
        )
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def attention(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        six = self.modulation(condition)[:, None].chunk(6, dim=-1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = six
        x = x + gate_msa * self.attention(self.norm1(x) * (1 + scale_msa) + shift_msa)
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)


class DiT(nn.Module):
    """(batch, 3, 16, 16) noisy images, (batch,) times and classes → the noise."""

    def __init__(self, width: int, mlp: int, heads: int, classes: int, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (16 // patch) ** 2, width), False)
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(classes, width)
        self.blocks = nn.ModuleList(DiTBlock(width, mlp, heads) for _ in range(2))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, patch * patch * 3)
        for layer in (
            *(block.modulation[1] for block in self.blocks),
            self.modulation[1],
            self.head,
        ):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, time: Tensor, classes: Tensor) -> Any:
        side = x.shape[-1] // self.patch
        angles = time[:, None] * torch.exp(-math.log(1e4) * torch.arange(16) / 16)
        condition = self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.classes(classes)
        x = self.embed(x).flatten(2).mT + self.positions
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        x = self.head(self.norm(x) * (1 + scale) + shift)
        x = x.unflatten(2, (self.patch, self.patch, 3)).unflatten(1, (side, side))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
