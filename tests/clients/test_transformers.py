"""Programs of examples/architectures compute what the networks of transformers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import Tensor, nn  # noqa: E402

from tests.architectures import TOLERANCES, agree  # noqa: E402

TOKENS = torch.arange(22).reshape(2, 11) * 7 % 65
DECODER = {
    "vocab_size": 65, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x).logits


class Norm(nn.Module):
    """An RMS norm of theirs, which computes in float32, in the type of its input."""

    def __init__(self, norm: nn.Module, more: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight + more)
        self.eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class Rotary(nn.Module):
    """The cosines and sines of theirs, which are of float32, in the type of its input."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.base = rotary.config.rope_parameters["rope_theta"]
        self.size = 2 * len(rotary.inv_freq)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        powers = torch.arange(0, self.size, 2, dtype=x.dtype) / self.size
        angles = position_ids[..., None].to(x.dtype) * self.base**-powers
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()


def exactly(model: nn.Module) -> nn.Module:
    """A model of theirs that computes in the type of its weights throughout."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            kind = type(child).__name__
            if kind.endswith("RMSNorm"):  # Gemma adds 1 to its gain
                setattr(module, name, Norm(child, kind.startswith("Gemma")))
            elif kind.endswith("RotaryEmbedding"):
                setattr(module, name, Rotary(child))
    return model


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=65, n_positions=32, n_embd=64, n_layer=2, n_head=4,
            activation_function="gelu", bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        **DECODER, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    return transformers.LlamaForCausalLM(config)


def mixtral() -> nn.Module:
    config = transformers.MixtralConfig(
        **DECODER | {"intermediate_size": 96}, num_local_experts=4, num_experts_per_tok=2,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    config._experts_implementation = "eager"  # the others know no float64
    return transformers.MixtralForCausalLM(config)


def qwen3() -> nn.Module:
    config = transformers.Qwen3Config(
        **DECODER, head_dim=32, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    return transformers.Qwen3ForCausalLM(config)


def gemma2() -> nn.Module:
    config = transformers.Gemma2Config(
        **DECODER | {"intermediate_size": 128}, head_dim=16, query_pre_attn_scalar=16,
        sliding_window=6, hidden_activation="gelu", rms_norm_eps=1e-6,
        final_logit_softcapping=30.0, attn_logit_softcapping=50.0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}, attn_implementation="eager",
    )  # fmt: skip
    return transformers.Gemma2ForCausalLM(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        image_size=32, patch_size=8, layer_norm_eps=1e-6, num_labels=10,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 2, 2],
        layer_type="basic", num_labels=10,
    )  # fmt: skip
    return transformers.ResNetForImageClassification(config)


def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(
        num_stages=2, hidden_sizes=[16, 32], depths=[2, 2], layer_norm_eps=1e-6, num_labels=10
    )
    return transformers.ConvNextForImageClassification(config)


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def class_token_first(found: list[Tensor]) -> list[Tensor]:
    """ViT's own parameters are found behind the convolution whose output they join."""
    weight, bias, token, positions, *rest = found
    return [token, weight, bias, positions, *rest]


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "nanogpt": (gpt2, TOKENS),
    "llama": (llama, TOKENS),
    "mixtral": (mixtral, TOKENS),
    "qwen3": (qwen3, TOKENS),
    "gemma2": (gemma2, TOKENS),
    "vit": (vit, images(32)),
    "resnet18": (resnet, images(64)),
    "convnext": (convnext, images(32)),
}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_program_computes_what_transformers_does(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, x = CASES[name]
    order = class_token_first if name == "vit" else list
    model = build()
    if name == "gemma2" or dtype == torch.float64:
        model = exactly(model)
        softmax = nn.functional.softmax  # theirs asks for float32, as does the router
        monkeypatch.setattr(nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))
        monkeypatch.setattr(Tensor, "float", lambda x: x)
    agree(name, Logits(model), (x,), dtype, order)
