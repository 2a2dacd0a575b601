"""What is built from torch.nn, and adapters of peft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import nets
from tests.zoo.entry import (
    BATCH,
    CLASSES,
    HEADS,
    LENGTH,
    MLP,
    VOCABULARY,
    WIDTH,
    Call,
    Entry,
    Expected,
    cut,
    fused,
    images,
    joined,
    label_loss,
    model_loss,
    modules,
    roles,
    seeded,
    tokens,
    within,
)
from tests.zoo.language import GPT, GPT2, QKV, next_tokens


def example(*shapes: tuple[int, ...]) -> Callable[[], Call]:
    """Positional arguments of normal numbers."""
    return lambda: (tuple(torch.randn(shape) for shape in shapes), {})


def some_tokens() -> Call:
    return (tokens(),), {}


def graph() -> Call:
    """Nodes with features, and D^-½(A + 1)D^-½ of the edges between them."""
    edges = torch.rand(13, 13) < 0.2
    own = (edges | edges.T | torch.eye(13, dtype=torch.bool)).float()
    scale = own.sum(1).rsqrt()
    return (torch.randn(13, 17), scale[:, None] * own * scale), {}


def clicks() -> Call:
    return (torch.randn(6, 13), torch.randint(31, (6, 3)), torch.randint(53, (6, 2))), {}


def noisy_images() -> Call:
    return (torch.randn(BATCH, 3, 16, 16), torch.tensor([3.0, 700.0]), torch.tensor([2, 5])), {}


def pixel_loss(output: Tensor) -> Tensor:
    """The cross-entropy of (batch, classes, …)."""
    return label_loss(output.movedim(1, -1))


def click_loss(output: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, torch.arange(len(output)) % 2.0)


def noise_loss(output: Tensor) -> Tensor:
    """The mean squared error to numbers that are the same each time."""
    return F.mse_loss(output, seeded(lambda: torch.randn(output.shape))())


def lora() -> nn.Module:
    import peft
    import transformers

    base = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT))
    config = peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["c_attn", "c_fc"],
        fan_in_fan_out=True, task_type="CAUSAL_LM",
    )  # fmt: skip
    return peft.get_peft_model(base, config)


def wrapped(expected: dict[str, Expected]) -> dict[str, Expected]:
    """Names of GPT-2 as peft has them, where c_attn and c_fc are inside of an adapter."""
    names = {}
    for name, one in expected.items():
        for layer in ("c_attn", "c_fc"):
            name = name.replace(f"{layer}.", f"{layer}.base_layer.")
        names[f"base_model.model.{name}"] = one
    return names


def stacked(path: str, pieces: Any) -> dict[str, Expected]:
    """The matrices of a recurrent layer, and their biases, with a piece for each gate."""
    both = ("ih", "hh")
    return {f"{path}.weight_{one}_l*": Expected("matrix", pieces) for one in both} | {
        f"{path}.bias_{one}_l*": Expected("bias", pieces) for one in both
    }


ADALN = dict.fromkeys(
    ("shift_msa", "scale_msa", "gate_msa", "shift_mlp", "scale_mlp", "gate_mlp"), WIDTH
)

PLAIN: dict[str, Entry] = {
    "mlp": Entry(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, MLP), nn.ReLU(),
            nn.Linear(MLP, CLASSES),
        ),
        example((BATCH, 8, 8)), label_loss, modules("[13]") | modules("5", "readout"),
    ),
    "lstm": Entry(
        lambda: nets.LSTMLanguageModel(VOCABULARY, WIDTH, 40), some_tokens, label_loss,
        roles(table="embedding.weight")
        | stacked("lstm", cut(i=40, f=40, g=40, o=40))
        | modules("head", "readout"),
    ),
    "gru": Entry(
        lambda: nets.GRULanguageModel(VOCABULARY, WIDTH), some_tokens, label_loss,
        roles(tied="encoder.weight", bias="decoder.bias")
        | stacked("gru", cut(r=WIDTH, z=WIDTH, n=WIDTH)),
    ),
    "gcn": Entry(
        lambda: nets.GCN(17, WIDTH, CLASSES), graph, label_loss,
        {
            "first.weight": Expected("matrix", transposed=True),
            "second.weight": Expected("readout", transposed=True),
        }
        | roles(bias="first.bias second.bias"),
    ),
    "transformer_encoder": Entry(
        lambda: nets.EncoderClassifier(VOCABULARY, WIDTH, MLP, HEADS, CLASSES), some_tokens,
        label_loss,
        roles(table="embedding.weight", vector="positions")
        | within(
            "encoder.layers.*",
            {
                "self_attn.in_proj_weight": Expected("matrix", QKV),
                "self_attn.in_proj_bias": Expected("bias", QKV),
            }
            | modules("self_attn.out_proj linear[12]")
            | modules("norm[12]", "gain"),
        )
        | modules("head", "readout"),
    ),
    "attention_pool": Entry(
        lambda: nets.AttentionPool(WIDTH, 36, 28, HEADS, CLASSES),
        example((BATCH, LENGTH, 36), (BATCH, LENGTH, 28)), label_loss,
        roles(vector="queries", matrix="attention.[qkv]_proj_weight")
        | {"attention.in_proj_bias": Expected("bias", QKV)}
        | modules("attention.out_proj")
        | modules("head", "readout"),
    ),
    "weight_norm": Entry(
        lambda: nets.weight_normed((20, WIDTH, MLP, CLASSES)), example((6, 20)), label_loss,
        roles(
            gain="*.parametrizations.weight.original0", bias="*.bias",
            matrix="[02].parametrizations.weight.original1",
            readout="4.parametrizations.weight.original1",
        ),
    ),
    "weight_norm_old": Entry(
        lambda: nets.TemporalNet(20, WIDTH, CLASSES), example((BATCH, 20, LENGTH)), pixel_loss,
        roles(gain="convs.*.weight_g", conv="convs.*.weight_v", bias="convs.*.bias")
        | modules("head", "readout"),
    ),
    "audio": Entry(
        lambda: nets.AudioNet(24, 36, CLASSES), example((BATCH, 1, 120)), label_loss,
        roles(conv="stem.weight")
        | within(
            "blocks.*",
            {
                "pointwise1.weight": Expected("conv", cut(value=36, gate=36)),
                "pointwise1.bias": Expected("bias", cut(value=36, gate=36)),
            }
            | modules("norm batch_norm", "gain")
            | modules("depthwise", "taps")
            | modules("pointwise2", "conv"),
        )
        | modules("head", "readout"),
    ),
    "dlrm": Entry(
        lambda: nets.DLRM((31, 53), 13, 40, 16), clicks, click_loss,
        roles(table="tables.*.weight")
        | modules("bottom.[02] top.0")
        | modules("top.2", "readout"),
    ),
    "unet": Entry(
        lambda: nets.UNet((8, 12, 20), CLASSES),
        lambda: ((images(),), {}), pixel_loss,
        {
            "up[12].weight": Expected("conv", transposed=True),
            "up[12].bias": Expected("bias"),
        }
        | roles(conv="down[12].[03].weight middle.[03].weight join[12].[03].weight")
        | modules("down[12].[14] middle.[14] join[12].[14]", "gain")
        | modules("head", "readout"),
    ),
    "dit": Entry(
        lambda: nets.DiT(WIDTH, MLP, HEADS, CLASSES), noisy_images, noise_loss,
        modules("embed", "conv")
        | roles(vector="positions", table="classes.weight")
        | modules("time.[02]")
        | fused("blocks.*.qkv", QKV)
        | modules("blocks.*.proj blocks.*.mlp.[02]")
        | fused("blocks.*.modulation.1", cut(**ADALN))
        | fused("modulation.1", cut(shift=WIDTH, scale=WIDTH))
        | modules("head", "readout"),
        unused=("positions",),
    ),
    "lora": Entry(
        lora, next_tokens, model_loss,
        wrapped(joined(*GPT2))
        | within(
            "base_model.model.transformer.h.*",
            roles(matrix="*.lora_A.default.weight mlp.c_fc.lora_B.default.weight")
            | {"attn.c_attn.lora_B.default.weight": Expected("matrix", QKV)},
        ),
        "peft", ("*.w[tp]e.weight", "*.ln_*", "*.base_layer.*", "*.c_proj.*"),
    ),
}  # fmt: skip
