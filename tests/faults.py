"""Ways in which optimizers misread a tensor, each seen in public, wrong and mended.

`FAULTS` has a `Fault` for each: `wrong()` and `mended()` give the arguments of `modnorm.audit`, and
`found` by patterns of parameters' names (`fnmatch`) the code of what is wrong with them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import published
from tests.zoo.entry import seeded

WIDTH, INNER, HEADS, GROUPS, VOCABULARY, LENGTH = 48, 64, 4, 2, 61, 8
HEAD = WIDTH // HEADS
SCALES_ALIKE = {"adjust_lr_fn": "match_rms_adamw"}
"""Of torch's Muon: a scale that is the same for a matrix and its transpose."""


@dataclass(frozen=True)
class Call:
    """Arguments of `modnorm.audit`: three by position, and others by name."""

    model: nn.Module
    optimizer: Any
    example: Any
    named: dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """A fault, and how it is mended."""

    title: str
    wrong: Callable[[], Call]
    mended: Callable[[], Call]
    found: dict[str, str]

    def __post_init__(self) -> None:
        for name in ("wrong", "mended"):
            object.__setattr__(self, name, seeded(getattr(self, name)))


# --- models ---------------------------------------------------------------------------------


class Separate(nn.Module):
    """Attention with a matrix for each of q, k, v."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.o_proj(attend(*(heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))))


class Fused(nn.Module):
    """q, k and v in one matrix, one below the other."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.o_proj(attend(*map(heads, self.qkv(x).chunk(3, -1))))


class Grouped(nn.Module):
    """For each key the queries that see it, itself and its value, group by group."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, (HEADS + 2 * GROUPS) * HEAD, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        each = HEADS // GROUPS
        y = self.qkv(x).view(*x.shape[:2], GROUPS, each + 2, HEAD)
        q, k, v = y.split([each, 1, 1], 3)
        return self.o_proj(attend(heads(q.flatten(2)), *(u.flatten(2, 3).transpose(1, 2)
                                                         .repeat_interleave(each, 1)
                                                         for u in (k, v))))  # fmt: skip


class Gated(nn.Module):
    """A query and a gate for each head, then all keys, then all values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        both, k, v = self.qkv(x).split([2 * WIDTH, WIDTH, WIDTH], -1)
        q, gate = both.view(*x.shape[:2], HEADS, 2 * HEAD).chunk(2, -1)
        y = attend(q.transpose(1, 2), heads(k), heads(v))
        return self.o_proj(y * torch.sigmoid(gate.flatten(2)))


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, HEAD)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Conv1DMLP(nn.Module):
    """Its matrices are stored as (in, out), as those of GPT-2 are."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(WIDTH, 2 * WIDTH) * 0.1)
        self.down = nn.Parameter(torch.randn(2 * WIDTH, WIDTH) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x @ self.up) @ self.down


class GateUp(nn.Module):
    """The gate and what it gates in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Mixture(nn.Module):
    """Four experts, of which each token has the best two."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4, bias=False)
        self.up = nn.Parameter(torch.randn(4, INNER, WIDTH) * 0.1)
        self.down = nn.Parameter(torch.randn(4, WIDTH, INNER) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        score, chosen = self.router(x).softmax(-1).topk(2, -1)
        y = torch.zeros_like(x)
        for i in range(len(self.up)):
            at = chosen == i
            own = x[at.any(-1)]
            out = F.linear(F.gelu(F.linear(own, self.up[i])), self.down[i])
            y[at.any(-1)] += out * score[at].unsqueeze(-1)
        return y


class Block(nn.Module):
    def __init__(self, attention: type[nn.Module], mlp: type[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention, self.mlp = attention(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Model(nn.Module):
    """A small language model. Each block is used so many times, one after the other."""

    def __init__(
        self, attention: type[nn.Module] = Separate, mlp: type[nn.Module] = MLP, blocks: int = 2,
        times: int = 1, tied: bool = False, out: int = VOCABULARY,
    ) -> None:  # fmt: skip
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block(attention, mlp) for _ in range(blocks))
        self.norm = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, out, bias=False)
        self.times = times
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            for _ in range(self.times):
                x = block(x)
        return self.lm_head(self.norm(x))


class Draft(nn.Module):
    """A head that drafts: its own table of tokens beside the features of the model before it."""

    def __init__(self, width: int = WIDTH, inner: int = INNER) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, inner), nn.GELU(),
                                                  nn.Linear(inner, width))
                                    for _ in range(2))  # fmt: skip
        self.lm_head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        for layer in self.layers:
            x = x + layer(F.layer_norm(x, x.shape[-1:]))
        return self.lm_head(F.layer_norm(x, x.shape[-1:]))


class Adapted(nn.Module):
    """A frozen matrix, and a trained change of rank four."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(WIDTH, INNER).requires_grad_(False)
        self.lora_A = nn.Linear(WIDTH, 4, bias=False)
        self.lora_B = nn.Linear(4, INNER, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 2 * self.lora_B(self.lora_A(x))


class Adapter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(Adapted(), nn.GELU(), nn.Linear(INNER, WIDTH))
                                    for _ in range(2))  # fmt: skip
        self.head = nn.Linear(WIDTH, 7)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(F.layer_norm(x, x.shape[-1:]))
        return self.head(x)


class Kernels(nn.Module):
    """Convolutions, the first with few inputs and the last of width 1, and a depthwise one."""

    def __init__(self, depthwise: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 24, 3, padding=1)
        self.wide = nn.Conv1d(24, 96, 2)
        self.body = nn.ModuleList(nn.Conv1d(96, 96, 3, padding=1) for _ in range(2))
        self.taps = nn.Conv1d(96, 96, 5, padding=2, groups=96) if depthwise else nn.Identity()
        self.head = nn.Linear(96, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.wide(F.relu(self.stem(x))))
        for layer in self.body:
            x = x + F.relu(layer(x))
        return self.head(F.relu(self.taps(x)).mean(-1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lm_head(self.lstm(self.embed(tokens))[0])


class Wide(nn.Module):
    """An MLP of any width, whose readout divides by a number."""

    def __init__(self, width: int, depth: int = 2, divisor: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Linear(16, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.readout = nn.Linear(width, 7)
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.readout(x) / self.divisor


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (2, LENGTH))


# --- optimizers -----------------------------------------------------------------------------

Group = list[nn.Parameter]


def parted(model: nn.Module, matrix: Callable[[str, nn.Parameter], bool]) -> tuple[Group, Group]:
    """Parameters that a rule takes for hidden matrices, and the others."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [p for n, p in named if matrix(n, p)], [p for n, p in named if not matrix(n, p)]


def without(*parts: str) -> Callable[[str, nn.Parameter], bool]:
    """Everything with two axes or more but for names with one of these in them."""
    return lambda name, p: p.ndim >= 2 and not any(part in name for part in parts)


LANGUAGE = ("wte", "wpe", "lm_head")


def both(
    model: nn.Module, matrix: Callable[[str, nn.Parameter], bool], muon: Any = None,
    lr: float = 3e-4, **options: Any,
) -> list[torch.optim.Optimizer]:  # fmt: skip
    """A Muon, by default torch's, and AdamW for the rest."""
    hidden, rest = parted(model, matrix)
    made = (muon or torch.optim.Muon)(hidden, lr=0.02, **options)
    return [made, torch.optim.AdamW(rest, lr=lr)]


def muon_call(
    model: nn.Module, skip: Sequence[str], muon: Any = None, example: Any = None, **options: Any
) -> Call:
    example = tokens() if example is None else example
    return Call(model, both(model, without(*skip), muon, **options), example, {})


def split_call(
    model: nn.Module, fused: str, rows: Sequence[Sequence[int]], skip: Sequence[str] = LANGUAGE
) -> Call:
    """A Muon that cuts the rows of parameters with a part in their names, and AdamW."""
    hidden, rest = parted(model, without(*skip))
    cut = [p for name, p in model.named_parameters() if fused in name and p.ndim > 1]
    whole = [p for p in hidden if all(p is not other for other in cut)]
    groups = [{"params": cut, "rows": [list(one) for one in rows]}, {"params": whole}]
    made = [published.SplitMuon(groups), torch.optim.AdamW(rest, lr=3e-4)]
    return Call(model, made, tokens(), {})


def ranges(*sizes: int) -> list[range]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [range(a, a + n) for a, n in zip(starts, sizes, strict=True)]


def by_group(groups: int, *sizes: int) -> list[list[int]]:
    """Rows of parts that lie one after the other in each of some groups."""
    total = sum(sizes)
    return [[g * total + i for g in range(groups) for i in one] for one in ranges(*sizes)]


SIGNALS = 3, 10
"""Channels and length of what convolutions get."""


def kernels_call(muon: Any, *skip: str, depthwise: bool = False) -> Call:
    return muon_call(Kernels(depthwise), ("head", *skip), muon, torch.randn(2, *SIGNALS))


# --- single faults --------------------------------------------------------------------------


def draft_rates(lr: float) -> Call:
    """A table beside matrices whose updates have entries of RMS 1."""
    return muon_call(Draft(40, 1600), ("tokens", "lm_head"), published.WideMuon, lr=lr)


def two_stages(tied: bool) -> Call:
    """The first and the last stage of a pipeline have an optimizer each for what they hold."""
    model = Model(tied=True)
    last = [*model.norm.parameters(), *(model.lm_head.parameters() if tied else ())]
    ours = {id(p) for p in model.norm.parameters()}
    first, rest = parted(model, lambda name, p: name.startswith("blocks") and p.ndim == 2)
    rest = [p for p in rest if id(p) not in ours]
    made = [torch.optim.Muon(first), torch.optim.AdamW(rest), torch.optim.AdamW(last)]
    return Call(model, made, tokens(), {})


def sharded(while_sharded: bool) -> Call:
    """Groups by numbers of axes, while the second block's parameters lie elsewhere or not."""
    model = Model()
    kept = {p: p.data for p in model.blocks[1].parameters()}
    for p in kept if while_sharded else ():
        p.data = torch.empty(0)
    made = both(model, without(*LANGUAGE))
    for p, data in kept.items():
        p.data = data
    return Call(model, made, tokens(), {})


def own_groups(kept: bool) -> Call:
    """Weight decay for matrices alone, as the groups that were handed in say."""
    model = Model()
    decayed, rest = parted(model, without("wpe"))
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    given = [dict(group) for group in groups]
    made = torch.optim.AdamW(groups if kept else model.parameters(), lr=1e-3)
    return Call(model, made, tokens(), {"groups": given})


def by_modules() -> Call:
    """The parameters of the classes that the one who wrote the optimizer knew."""
    model = Model(mlp=Mixture)
    known = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding | nn.LayerNorm)]
    own = [p for module in known for p in module.parameters()]
    return Call(model, torch.optim.AdamW(own, lr=1e-3), tokens(), {})


def clipped(clip: float | None) -> Call:
    model = Model()
    hidden, rest = parted(model, without(*LANGUAGE))
    groups = [{"params": hidden, "use_muon": True}, {"params": rest, "lr": 3e-4}]
    return Call(model, published.MuonWithAdam(groups, clip), tokens(), {})


def looped(uses: int) -> Call:
    """The parameters of a block that is run three times, collected from so many of its uses."""
    model = Model(blocks=1, times=3)
    block = [p for _ in range(uses) for p in model.blocks[0].parameters()]
    _, rest = parted(model, lambda name, p: name.startswith("blocks"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about parameters that are there twice
        made = torch.optim.AdamW(block + rest, lr=1e-3)
    return Call(model, made, tokens(), {})


BASE = 24


def wide(known: Callable[[str], bool], divides: bool = True) -> Call:
    """Adam at two widths; rates of what is known to grow in two axes follow the width."""

    def made(width: int) -> tuple[nn.Module, Any, Tensor]:
        divisor = width / BASE
        model = Wide(width, 3, divisor if divides else 1.0)
        groups = [
            {"params": [p], "lr": 1e-3 / divisor if known(name) else 1e-3}
            for name, p in model.named_parameters()
        ]
        return model, torch.optim.Adam(groups), torch.randn(2, 16)

    return Call(*made(4 * BASE), {"other": made(BASE)})


def hidden_layer(name: str) -> bool:
    return name.startswith("layers") and name.endswith("weight")


QKV = ranges(WIDTH, WIDTH, WIDTH)
GATED = [*by_group(HEADS, HEAD, HEAD), *ranges(2 * WIDTH, WIDTH, WIDTH)[1:]]

FAULTS = {
    "names": Fault(
        "patterns of names, embed and lm_head, that miss wte and wpe",
        lambda: muon_call(Model(), ("embed", "lm_head")),
        lambda: muon_call(Model(), LANGUAGE),
        {"wte.weight": "table-as-matrix", "wpe.weight": "table-as-matrix"},
    ),
    "lora": Fault(
        "factors of a low-rank change taken for hidden matrices",
        lambda: muon_call(Adapter(), ("head",), published.Muon, torch.randn(2, WIDTH)),
        lambda: muon_call(Adapter(), ("head", "lora_"), published.Muon, torch.randn(2, WIDTH)),
        {"layers.*.lora_?.weight": "low-rank-as-matrix"},
    ),
    "draft table": Fault(
        "a draft head's table of tokens, orthogonalised",
        lambda: muon_call(Draft(), ("embed", "lm_head")),
        lambda: muon_call(Draft(), ("tokens", "lm_head")),
        {"tokens.weight": "table-as-matrix"},
    ),
    "table's rate": Fault(
        "a table moved to AdamW at the rate of hidden matrices",
        lambda: draft_rates(0.02),
        lambda: draft_rates(1.0),
        {"tokens.weight": "rate-of-matrices"},
    ),
    "gate and up": Fault(
        "a gate and what it gates in one matrix, mapped as one",
        lambda: muon_call(Model(mlp=GateUp), LANGUAGE),
        lambda: split_call(Model(mlp=GateUp), "gate_up", ranges(INNER, INNER)),
        {"blocks.*.mlp.gate_up.weight": "fused-as-one"},
    ),
    "q, k, v": Fault(
        "q, k and v in one matrix, mapped as one",
        lambda: muon_call(Model(Fused), LANGUAGE),
        lambda: split_call(Model(Fused), "qkv", QKV),
        {"blocks.*.attention.qkv.weight": "fused-as-one"},
    ),
    "groups of queries": Fault(
        "q, k and v group by group, cut as if they lay one below the other",
        lambda: split_call(Model(Grouped), "qkv", ranges(WIDTH, GROUPS * HEAD, GROUPS * HEAD)),
        lambda: split_call(Model(Grouped), "qkv", by_group(GROUPS, WIDTH // GROUPS, HEAD, HEAD)),
        {"blocks.*.attention.qkv.weight": "fused-cut-wrongly"},
    ),
    "gated attention": Fault(
        "queries with gates, keys and values cut as q, k and v",
        lambda: split_call(Model(Gated), "qkv", ranges(2 * WIDTH, WIDTH, WIDTH)),
        lambda: split_call(Model(Gated), "qkv", GATED),
        {"blocks.*.attention.qkv.weight": "fused-cut-wrongly"},
    ),
    "out of attention": Fault(
        "the projection out of attention taken for the fused one",
        lambda: split_call(Model(), "o_proj", ranges(*[WIDTH // 3] * 3)),
        lambda: muon_call(Model(), LANGUAGE),
        {"blocks.*.attention.o_proj.weight": "cut-apart"},
    ),
    "across layers": Fault(
        "kernels of one shape, orthogonalised across layers",
        lambda: kernels_call(published.LayersAsRows),
        lambda: kernels_call(published.LayersApart),
        {"body.*.weight": "kernels-as-one"},
    ),
    "sides": Fault(
        "a kernel's scale from its sides",
        lambda: kernels_call(published.Muon),
        lambda: kernels_call(published.KernelMuon),
        {"stem.weight": "kernel-sides", "wide.weight": "kernel-sides",
         "body.*.weight": "kernel-sides"},
    ),
    "experts": Fault(
        "experts flattened to one matrix",
        lambda: muon_call(Model(mlp=Mixture), (*LANGUAGE, "router"), published.LastAxisMuon),
        lambda: muon_call(Model(mlp=Mixture), (*LANGUAGE, "router"), published.StackMuon),
        {"blocks.*.mlp.up": "experts-as-one", "blocks.*.mlp.down": "experts-as-one"},
    ),
    "taps": Fault(
        "depthwise taps orthogonalised as a full convolution's",
        lambda: kernels_call(published.KernelMuon, depthwise=True),
        lambda: kernels_call(published.KernelMuon, "taps", depthwise=True),
        {"taps.weight": "taps-as-matrix"},
    ),
    "two stages": Fault(
        "a tied table that is stepped on two stages of a pipeline",
        lambda: two_stages(True),
        lambda: two_stages(False),
        {"wte.weight": "given-twice"},
    ),
    "shards": Fault(
        "matrices that were flat placeholders when the groups were made",
        lambda: sharded(True),
        lambda: sharded(False),
        {"blocks.1.attention.*": "left-elementwise", "blocks.1.mlp.*.weight": "left-elementwise"},
    ),
    "one row": Fault(
        "a head of one row, orthogonalised",
        lambda: muon_call(Model(out=1), ("wte", "wpe")),
        lambda: muon_call(Model(out=1), LANGUAGE),
        {"lm_head.weight": "readout-as-matrix"},
    ),
    "own groups": Fault(
        "a person's own groups thrown away",
        lambda: own_groups(False),
        lambda: own_groups(True),
        {"*": "group-options-lost"},
    ),
    "transposed": Fault(
        "matrices stored as (in, out), scaled as (out, in)",
        lambda: muon_call(Model(mlp=Conv1DMLP), LANGUAGE),
        lambda: muon_call(Model(mlp=Conv1DMLP), LANGUAGE, **SCALES_ALIKE),
        {"blocks.*.mlp.up": "fan-swapped", "blocks.*.mlp.down": "fan-swapped"},
    ),
    "never given": Fault(
        "experts that the optimizer never got",
        by_modules,
        lambda: muon_call(Model(mlp=Mixture), (*LANGUAGE, "router"), published.StackMuon),
        {"blocks.*.mlp.up": "never-given", "blocks.*.mlp.down": "never-given"},
    ),
    "positions": Fault(
        "a table of positions treated as a hidden matrix",
        lambda: muon_call(Model(), ("wte", "lm_head")),
        lambda: muon_call(Model(), LANGUAGE),
        {"wpe.weight": "table-as-matrix"},
    ),
    "router": Fault(
        "a router treated as a hidden matrix",
        lambda: muon_call(Model(mlp=Mixture), LANGUAGE, published.StackMuon),
        lambda: muon_call(Model(mlp=Mixture), (*LANGUAGE, "router"), published.StackMuon),
        {"blocks.*.mlp.router.weight": "router-as-matrix"},
    ),
    "gates": Fault(
        "the gates of an LSTM mapped as one matrix",
        lambda: muon_call(Recurrent(), ("embed", "lm_head")),
        lambda: split_call(
            Recurrent(), "lstm.weight", ranges(*[WIDTH] * 4), ("embed", "lm_head")
        ),
        {"lstm.weight_*": "fused-as-one"},
    ),
    "base shapes": Fault(
        "base shapes of a model with fewer layers, which miss the last one",
        lambda: wide(lambda name: hidden_layer(name) and "2" not in name),
        lambda: wide(hidden_layer),
        {"layers.2.weight": "size-with-width"},
    ),
    "no base shapes": Fault(
        "rules of scaling that are off, since base shapes were not set",
        lambda: wide(lambda name: False, divides=False),
        lambda: wide(hidden_layer),
        {"layers.*.weight": "size-with-width", "readout.weight": "size-with-width"},
    ),
    "head's rate": Fault(
        "a head whose rate stays as it is when the width grows",
        lambda: wide(hidden_layer, divides=False),
        lambda: wide(lambda name: hidden_layer(name) or name == "readout.weight", divides=False),
        {"readout.weight": "size-with-width"},
    ),
    "clipping": Fault(
        "clipping applied to what is mapped",
        lambda: clipped(1.0),
        lambda: clipped(None),
        {"blocks.*.attention.*": "clipped-update", "blocks.*.mlp.*.weight": "clipped-update"},
    ),
    "uses": Fault(
        "a shared block counted once for each use",
        lambda: looped(3),
        lambda: looped(1),
        {"blocks.0.*": "given-twice"},
    ),
}  # fmt: skip
"""The faults of public reports, by what they are about."""
