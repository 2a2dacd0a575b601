"""Language models, and speech, of transformers."""

from __future__ import annotations

from typing import Any

import torch

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
    from_transformers,
    fused,
    joined,
    model_loss,
    modules,
    roles,
    tokens,
    within,
)

HEAD = WIDTH // HEADS
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
COMMON: dict[str, Any] = SPECIAL | {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": MLP,
    "num_hidden_layers": 2, "num_attention_heads": HEADS, "max_position_embeddings": 40,
}  # fmt: skip
DECODER: dict[str, Any] = COMMON | {
    "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False, "use_cache": False,
}  # fmt: skip
GPT: dict[str, Any] = SPECIAL | {
    "vocab_size": VOCABULARY, "n_positions": 40, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS,
    "n_inner": MLP, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False,
}  # fmt: skip
FALCON: dict[str, Any] = SPECIAL | {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "ffn_hidden_size": MLP, "use_cache": False,
}  # fmt: skip


def next_tokens() -> Call:
    ids = tokens()
    return (), {"input_ids": ids, "labels": ids}


def masked_tokens() -> Call:
    ids, types = tokens(), torch.arange(LENGTH).expand(BATCH, -1) % 2
    hidden = torch.arange(LENGTH) % 4 == 1
    return (), {
        "input_ids": ids.masked_fill(hidden, 3), "token_type_ids": types,
        "labels": ids.masked_fill(~hidden, -100),
    }  # fmt: skip


def classified_tokens() -> Call:
    return (), {"input_ids": tokens(), "labels": torch.tensor([2, 5])}


def translated_tokens() -> Call:
    return (), {"input_ids": tokens(), "labels": tokens(8)}


def speech() -> Call:
    return (), {"input_features": torch.randn(BATCH, 20, 30), "labels": tokens(8)}


def model(
    config: str, head: str, settings: dict[str, Any], *expected: dict[str, Expected],
    example: Any = next_tokens, unused: tuple[str, ...] = (),
) -> Entry:  # fmt: skip
    build = from_transformers(config, head, **settings)
    return Entry(build, example, model_loss, joined(*expected), "transformers", unused)


# --- of the line of GPT-2 -------------------------------------------------------------------

QKV = cut(q=WIDTH, k=WIDTH, v=WIDTH)
QKV_BY_HEAD = cut(HEADS, q=HEAD, k=HEAD, v=HEAD)

GPT2 = (  # transformers' Conv1D has (in, out)
    roles(tied="transformer.wte.weight", table="transformer.wpe.weight"),
    within("transformer", modules("h.*.ln_1 h.*.ln_2 ln_f", "gain")),
    fused("transformer.h.*.attn.c_attn", QKV, transposed=True),
    within(
        "transformer.h.*",
        dict.fromkeys(
            ["attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"],
            Expected("matrix", transposed=True),
        ),
    ),
    roles(bias="transformer.h.*.c_proj.bias transformer.h.*.mlp.c_fc.bias"),
)
GPT_NEOX = (
    roles(table="gpt_neox.embed_in.weight", readout="lm_head.weight"),
    fused("gpt_neox.layers.*.attention.query_key_value", QKV_BY_HEAD),
    within(
        "gpt_neox.layers.*",
        modules("attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h")
        | modules("input_layernorm post_attention_layernorm", "gain"),
    ),
    modules("gpt_neox.final_layer_norm", "gain"),
)
GPTJ = (
    roles(table="transformer.wte.weight"),
    modules("lm_head", "readout"),
    within("transformer", modules("h.*.ln_1 ln_f", "gain") | modules("h.*.mlp.fc_*")),
    within("transformer.h.*.attn", roles(matrix="[qkv]_proj.weight out_proj.weight")),
)
BLOOM = (
    roles(tied="transformer.word_embeddings.weight"),
    fused("transformer.h.*.self_attention.query_key_value", QKV_BY_HEAD),
    within(
        "transformer.h.*",
        modules("self_attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h")
        | modules("input_layernorm post_attention_layernorm", "gain"),
    ),
    within("transformer", modules("word_embeddings_layernorm ln_f", "gain")),
)


def falcon(heads: dict[str, Any], norms: str) -> tuple[dict[str, Expected], ...]:
    """Of Falcon without biases of matrices; `heads` is how its queries, keys and values lie."""
    return (
        roles(tied="transformer.word_embeddings.weight"),
        within(
            "transformer.h.*",
            {"self_attention.query_key_value.weight": Expected("matrix", cut(**heads))}
            | roles(matrix="self_attention.dense.weight mlp.dense_*.weight")
            | modules(norms, "gain"),
        ),
        modules("transformer.ln_f", "gain"),
    )


FALCON_RW = (
    roles(tied="transformer.word_embeddings.weight"),
    fused("transformer.h.*.self_attention.query_key_value", QKV_BY_HEAD),
    within(
        "transformer.h.*",
        modules("self_attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h")
        | modules("input_layernorm post_attention_layernorm", "gain"),
    ),
    modules("transformer.ln_f", "gain"),
)
OPT = (  # embeddings of another width than the layers, as in opt-350m
    roles(tied="model.decoder.embed_tokens.weight", table="model.decoder.embed_positions.weight"),
    roles(matrix="model.decoder.project_in.weight model.decoder.project_out.weight"),
    within(
        "model.decoder.layers.*",
        modules("self_attn.[qkv]_proj self_attn.out_proj fc1 fc2")
        | modules("self_attn_layer_norm final_layer_norm", "gain"),
    ),
)

# --- of the line of Llama -------------------------------------------------------------------

EMBEDDED = roles(table="model.embed_tokens.weight", readout="lm_head.weight")
SEPARATE = roles(matrix="model.layers.*.self_attn.[qkvo]_proj.weight")
GATED = roles(matrix="model.layers.*.mlp.gate_proj.weight model.layers.*.mlp.up_proj.weight "
                     "model.layers.*.mlp.down_proj.weight")  # fmt: skip
NORMS = roles(gain="model.layers.*layernorm.weight model.norm.weight")
HEAD_NORMS = roles(gain="model.layers.*.self_attn.[qk]_norm.weight")
ATTENTION = (EMBEDDED, SEPARATE, NORMS)


def experts(out: int) -> dict[str, Expected]:
    """Of a mixture in each layer that has one; `out` is the size inside of an expert."""
    both = Expected("experts", cut(gate=out, up=out))
    return {"model.layers.*.mlp.experts.gate_up_proj": both} | roles(
        experts="model.layers.*.mlp.experts.down_proj", router="model.layers.*.mlp.gate.weight"
    )


PHI = (
    roles(table="model.embed_tokens.weight"),
    modules("lm_head", "readout"),
    within("model.layers.*", modules("self_attn.[qkv]_proj self_attn.dense mlp.fc[12]")),
    modules("model.layers.*.input_layernorm model.final_layernorm", "gain"),
)
PHI3 = (
    EMBEDDED,
    NORMS,
    within(
        "model.layers.*",
        roles(matrix="self_attn.o_proj.weight mlp.down_proj.weight")
        | {
            "self_attn.qkv_proj.weight": Expected("matrix", cut(q=HEADS * 16, k=32, v=32)),
            "mlp.gate_up_proj.weight": Expected("matrix", cut(gate=MLP, up=MLP)),
        },
    ),
)

# --- others ---------------------------------------------------------------------------------

MAMBA = (
    roles(tied="backbone.embeddings.weight", gain="backbone.norm_f.weight"),
    within(
        "backbone.layers.*",
        roles(
            gain="norm.weight mixer.D", opaque="mixer.A_log", taps="mixer.conv1d.weight",
            matrix="mixer.dt_proj.weight mixer.out_proj.weight",
            bias="mixer.conv1d.bias mixer.dt_proj.bias",
        )
        | {
            "mixer.in_proj.weight": Expected("matrix", cut(x=2 * WIDTH, z=2 * WIDTH)),
            "mixer.x_proj.weight": Expected("matrix", cut(dt=5, B=6, C=6)),
        },
    ),
)  # fmt: skip
BERT = (
    within(
        "bert.embeddings",
        roles(tied="word_embeddings.weight", table="position_*.weight token_type_*.weight"),
    ),
    modules("bert.embeddings.LayerNorm", "gain"),
    within(
        "bert.encoder.layer.*",
        modules("attention.self.query attention.self.key attention.self.value *.dense")
        | modules("*.LayerNorm", "gain"),
    ),
    within(
        "cls.predictions",
        roles(bias="bias") | modules("*.dense") | modules("*.LayerNorm", "gain"),
    ),
)
DISTILBERT = (
    roles(table="distilbert.embeddings.*_embeddings.weight"),
    modules("distilbert.embeddings.LayerNorm", "gain"),
    within(
        "distilbert.transformer.layer.*",
        modules("attention.*_lin ffn.lin[12]") | modules("sa_layer_norm output_layer_norm", "gain"),
    ),
    modules("pre_classifier"),
    modules("classifier", "readout"),
)
T5 = (
    roles(
        tied="shared.weight", table="*.relative_attention_bias.weight",
        gain="*.layer_norm.weight ??coder.final_layer_norm.weight",
        matrix="*Attention.[qkvo].weight *.DenseReluDense.w[io].weight",
    ),
)  # fmt: skip
WHISPER = (
    within(
        "model",
        roles(
            tied="decoder.embed_tokens.weight",
            table="decoder.embed_positions.weight encoder.embed_positions.weight",
            matrix="*_attn.k_proj.weight",
        )
        | modules("encoder.conv[12]", "conv")
        | modules("*_attn.[qv]_proj *.out_proj *.fc[12]")
        | modules("*attn_layer_norm *.final_layer_norm ??coder.layer_norm", "gain"),
    ),
)  # fmt: skip

LANGUAGE: dict[str, Entry] = {
    "gpt2": model("GPT2Config", "GPT2LMHeadModel", GPT, *GPT2),
    "gpt_neox": model(
        "GPTNeoXConfig", "GPTNeoXForCausalLM",
        COMMON | {
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
            },
            "use_cache": False, "tie_word_embeddings": False,
        },
        *GPT_NEOX,
    ),
    "gptj": model("GPTJConfig", "GPTJForCausalLM", GPT | {"rotary_dim": 6}, *GPTJ),
    "bloom": model(
        "BloomConfig", "BloomForCausalLM",
        SPECIAL | {
            "vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": 2, "n_head": HEADS,
            "use_cache": False,
        },
        *BLOOM,
    ),
    "falcon_7b": model(
        "FalconConfig", "FalconForCausalLM", FALCON | {"multi_query": True},
        *falcon({"q": WIDTH, "k": HEAD, "v": HEAD}, "input_layernorm"),
    ),
    "falcon_40b": model(
        "FalconConfig", "FalconForCausalLM",
        FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
        *falcon({"groups": 2, "q": 2 * HEAD, "k": HEAD, "v": HEAD}, "ln_attn ln_mlp"),
    ),
    "falcon_rw": model(
        "FalconConfig", "FalconForCausalLM",
        FALCON | {"multi_query": False, "parallel_attn": False, "bias": True, "alibi": True},
        *FALCON_RW,
    ),
    "opt": model(
        "OPTConfig", "OPTForCausalLM",
        COMMON | {
            "ffn_dim": MLP, "word_embed_proj_dim": 36, "do_layer_norm_before": False,
            "dropout": 0.0, "use_cache": False,
        },
        *OPT,
    ),
    "llama": model("LlamaConfig", "LlamaForCausalLM", DECODER, *ATTENTION, GATED),
    "mistral": model(
        "MistralConfig", "MistralForCausalLM", DECODER | {"sliding_window": 6}, *ATTENTION, GATED
    ),
    "qwen3": model("Qwen3Config", "Qwen3ForCausalLM", DECODER, *ATTENTION, GATED, HEAD_NORMS),
    "gemma2": model(
        "Gemma2Config", "Gemma2ForCausalLM",
        DECODER | {"sliding_window": 6, "query_pre_attn_scalar": 16, "tie_word_embeddings": True},
        roles(tied="model.embed_tokens.weight"), SEPARATE, GATED, NORMS,
    ),
    "phi": model(
        "PhiConfig", "PhiForCausalLM",
        COMMON | {"resid_pdrop": 0.0, "tie_word_embeddings": False, "use_cache": False}, *PHI,
    ),
    "phi3": model("Phi3Config", "Phi3ForCausalLM", DECODER, *PHI3),
    "mixtral": model(
        "MixtralConfig", "MixtralForCausalLM",
        DECODER | {"num_local_experts": 5, "num_experts_per_tok": 2}, *ATTENTION, experts(MLP),
    ),
    "qwen3_moe": model(  # the first layer has one MLP for all tokens
        "Qwen3MoeConfig", "Qwen3MoeForCausalLM",
        DECODER | {
            "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 28,
            "mlp_only_layers": [0],
        },
        *ATTENTION, GATED, HEAD_NORMS, experts(28),
    ),
    "mamba": model(
        "MambaConfig", "MambaForCausalLM",
        SPECIAL | {
            "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2,
            "state_size": 6, "time_step_rank": 5, "use_cache": False,
        },
        *MAMBA,
    ),
    "bert": model(
        "BertConfig", "BertForMaskedLM",
        COMMON | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, *BERT,
        example=masked_tokens,
    ),
    "distilbert": model(
        "DistilBertConfig", "DistilBertForSequenceClassification",
        {
            "vocab_size": VOCABULARY, "dim": WIDTH, "n_layers": 2, "n_heads": HEADS,
            "hidden_dim": MLP, "max_position_embeddings": 40, "num_labels": CLASSES,
            "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
        },
        *DISTILBERT, example=classified_tokens,
    ),
    "t5": model(
        "T5Config", "T5ForConditionalGeneration",
        {
            "vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 10, "d_ff": MLP, "num_layers": 2,
            "num_heads": HEADS, "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 16, "decoder_start_token_id": 0,
            "dropout_rate": 0.0, "use_cache": False,
        },
        *T5, example=translated_tokens,
    ),
    "whisper": model(
        "WhisperConfig", "WhisperForConditionalGeneration",
        SPECIAL | {
            "vocab_size": VOCABULARY, "num_mel_bins": 20, "d_model": WIDTH, "encoder_layers": 2,
            "decoder_layers": 2, "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS, "encoder_ffn_dim": MLP, "decoder_ffn_dim": 72,
            "max_source_positions": 15, "max_target_positions": 40, "decoder_start_token_id": 3,
            "suppress_tokens": None, "begin_suppress_tokens": None, "use_cache": False,
        },
        *WHISPER, example=speech, unused=("model.encoder.embed_positions.weight",),
    ),
}  # fmt: skip
