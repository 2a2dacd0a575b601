"""Models of many kinds, made once for all ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import modnorm

MODELS = ("gpt", "rescnn", "mixtral", "llama", "gpt2")


def tokens(step: int, vocab: int = 37) -> Tensor:
    seed = torch.Generator().manual_seed(100 + step)
    return torch.randint(vocab, (16, 13), generator=seed)


def next_token(logits: Any, text: Tensor) -> Tensor:
    logits = getattr(logits, "logits", logits)
    return nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())


def of_text(model: Any, step: int) -> Tensor:
    """The loss of a language model."""
    text = tokens(step)
    return next_token(model(text[:, :-1]), text)


def of_images(model: Any, step: int) -> Tensor:
    """That of a model of images."""
    seed = torch.Generator().manual_seed(100 + step)
    images = torch.randn(8, 1, 12, 12, generator=seed).to(next(model.parameters()).dtype)
    return nn.functional.cross_entropy(model(images), torch.arange(8) % 5)


@cache
def source(name: str) -> Any:
    """A model, its plan and its loss."""
    torch.manual_seed(0)
    if name == "gpt":
        file = modnorm.load("examples/gpt.mod", vocab=37, context=16, d_embed=24, heads=3, blocks=2)
        return file.GPT(generator=torch.Generator().manual_seed(0)), file.PLAN, of_text
    if name == "rescnn":
        file = modnorm.load("examples/rescnn.mod", width=10, blocks=2, classes=5, size=12)
        return file.ResCNN(generator=torch.Generator().manual_seed(0)), file.PLAN, of_images
    if name == "mixtral":
        file = modnorm.load(
            "examples/architectures/mixtral.mod", vocab=37, d=24, heads=4, groups=2, hidden=20,
            experts=3, blocks=2,
        )  # fmt: skip
        return file.Mixtral(generator=torch.Generator().manual_seed(0)), file.PLAN, of_text
    model: Any
    if name == "llama":
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=37, hidden_size=24, intermediate_size=36, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                max_position_embeddings=32, attn_implementation="eager",
            )
        )  # fmt: skip
    else:
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=37, n_positions=32, n_embd=24, n_layer=2, n_head=4, resid_pdrop=0.0,
                embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
            )
        )  # fmt: skip
    model.config.use_cache = False
    return model, modnorm.adopt(model, tokens(0)[:, :-1], plan_only=True), of_text


def alone(name: str) -> tuple[Any, Any, Callable[[Any, int], Tensor]]:
    """A model of its own, its plan and its loss."""
    model, plan, loss = source(name)
    return copy.deepcopy(model), plan, loss


for name in MODELS:
    source(name)
