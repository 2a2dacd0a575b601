"""Networks of transformers that see."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.entry import (
    CLASSES,
    HEADS,
    IMAGE,
    MLP,
    VOCABULARY,
    WIDTH,
    Call,
    Entry,
    Expected,
    from_transformers,
    images,
    joined,
    model_loss,
    modules,
    roles,
    tokens,
    within,
)

PATCHES: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS,
    "intermediate_size": MLP, "image_size": IMAGE, "patch_size": 8, "num_labels": CLASSES,
}  # fmt: skip


def classified_images() -> Call:
    return (), {"pixel_values": images(), "labels": torch.tensor([2, 5])}


def images_with_texts() -> Call:
    return (), {"input_ids": tokens(), "pixel_values": images(), "return_loss": True}


def model(
    name: str, settings: dict[str, Any], *expected: dict[str, Expected],
    unused: tuple[str, ...] = (),
) -> Entry:  # fmt: skip
    """A classifier of images, by the beginning of the names of its classes."""
    build = from_transformers(f"{name}Config", f"{name}ForImageClassification", **settings)
    table = joined(*expected, HEAD)
    return Entry(build, classified_images, model_loss, table, "transformers", unused)


HEAD = modules("classifier*", "readout")
LAYER = modules("attention.[qkvo]_proj mlp.fc[12]") | modules(
    "layernorm_before layernorm_after", "gain"
)
VIT = within(
    "vit",
    roles(vector="embeddings.cls_token embeddings.position_embeddings")
    | modules("embeddings.patch_embeddings.projection", "conv")
    | within("layers.*", LAYER)
    | modules("layernorm", "gain"),
)
DINOV2 = within(
    "dinov2",
    roles(
        vector="embeddings.cls_token embeddings.mask_token embeddings.position_embeddings",
        gain="encoder.layer.*.layer_scale[12].lambda1",
    )
    | modules("embeddings.patch_embeddings.projection", "conv")
    | modules("encoder.layer.*.attention.[qkvo]_proj encoder.layer.*.mlp.*_proj")
    | modules("encoder.layer.*.norm[12] layernorm", "gain"),
)
BEIT = within(  # keys have no bias, which softmax would not see
    "beit",
    roles(vector="embeddings.cls_token embeddings.mask_token")
    | modules("embeddings.patch_embeddings.projection", "conv")
    | within(
        "layers.*",
        roles(
            gain="lambda_[12]", matrix="attention.k_proj.weight",
            table="relative_position_bias.relative_position_bias_table",
        )
        | modules("attention.[qvo]_proj mlp.fc[12]")
        | modules("layernorm_before layernorm_after", "gain"),
    )
    | modules("pooler.layernorm", "gain"),
)  # fmt: skip
SWIN = within(
    "swin",
    modules("embeddings.patch_embeddings.projection", "conv")
    | modules("embeddings.norm encoder.layers.*.downsample.norm layernorm", "gain")
    | roles(
        matrix="encoder.layers.*.downsample.reduction.weight",
        table="encoder.layers.*.relative_position_bias_table",
    )
    | within("encoder.layers.*.blocks.*", LAYER),
)
CONVNEXT = within(
    "convnext",
    modules("embeddings.patch_embeddings encoder.stages.*.downsampling_layer.1", "conv")
    | modules("embeddings.layernorm encoder.stages.*.downsampling_layer.0 layernorm", "gain")
    | within(
        "encoder.stages.*.layers.*",
        modules("dwconv", "taps")
        | modules("pwconv[12]")
        | modules("layernorm", "gain")
        | roles(gain="layer_scale_parameter"),
    ),
)
RESNET = roles(conv="resnet.*.convolution.weight") | modules("resnet.*.normalization", "gain")
EFFICIENTNET = within(
    "efficientnet",
    modules("embeddings.batchnorm *.expand_bn *.depthwise_norm *.project_bn *.top_bn", "gain")
    | modules("*.squeeze_excite.reduce *.squeeze_excite.expand", "conv")
    | roles(
        taps="*.depthwise_conv.depthwise_conv.weight",
        conv="embeddings.convolution.weight *.expand_conv.weight *.project_conv.weight "
        "encoder.top_conv.weight",
    ),
)
CLIP = (
    roles(
        gain="logit_scale", vector="*.class_embedding",
        matrix="text_projection.weight visual_projection.weight",
        table="*.token_embedding.weight *.position_embedding.weight",
        conv="*.patch_embedding.weight",
    )
    | modules("*_model.encoder.layers.*_proj *_model.encoder.layers.*.fc[12]")
    | modules("*.layer_norm[12] *.final_layer_norm *.pre_layrnorm *.post_layernorm", "gain")
)  # fmt: skip

VISION: dict[str, Entry] = {
    "vit": model("ViT", PATCHES, VIT),
    "dinov2": model(
        "Dinov2", PATCHES | {"mlp_ratio": 2, "use_swiglu_ffn": True}, DINOV2,
        unused=("*.mask_token",),
    ),
    "beit": model(
        "Beit",
        PATCHES | {
            "use_relative_position_bias": True, "use_mask_token": True, "drop_path_rate": 0.0,
        },
        BEIT, unused=("*.mask_token",),
    ),
    "swin": model(
        "Swin",
        {
            "image_size": IMAGE, "patch_size": 4, "embed_dim": 24, "depths": [2, 2],
            "num_heads": [2, HEADS], "window_size": 4, "mlp_ratio": 1.5, "drop_path_rate": 0.0,
            "num_labels": CLASSES,
        },
        SWIN,
    ),
    "convnext": model(
        "ConvNext",
        {"num_stages": 2, "hidden_sizes": [20, 36], "depths": [2, 2], "num_labels": CLASSES},
        CONVNEXT,
    ),
    "resnet": model(
        "ResNet",
        {
            "embedding_size": 12, "hidden_sizes": [20, 36], "depths": [2, 2],
            "layer_type": "bottleneck", "num_labels": CLASSES,
        },
        RESNET,
    ),
    "efficientnet": model(  # of all numbers of channels 0.1; they begin with 32 and end with 1280
        "EfficientNet",
        {
            "image_size": IMAGE, "width_coefficient": 0.1, "depth_coefficient": 1.0,
            "depth_divisor": 4, "hidden_dim": 128, "in_channels": [32, 200, 280],
            "out_channels": [200, 280, 360], "kernel_sizes": [3, 5, 3], "strides": [1, 2, 1],
            "num_block_repeats": [1, 2, 1], "expand_ratios": [1, 3, 3], "depthwise_padding": [],
            "drop_connect_rate": 0.0, "dropout_rate": 0.0, "num_labels": CLASSES,
        },
        EFFICIENTNET,
    ),
    "clip": Entry(
        from_transformers(
            "CLIPConfig", "CLIPModel",
            text_config={
                "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": MLP,
                "num_hidden_layers": 2, "num_attention_heads": HEADS,
                "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1,
                "eos_token_id": 2,
            },
            vision_config={
                "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2,
                "num_attention_heads": HEADS, "image_size": IMAGE, "patch_size": 8,
            },
            projection_dim=28,
        ),
        images_with_texts, model_loss, CLIP, "transformers",
    ),
}  # fmt: skip
