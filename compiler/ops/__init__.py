"""Every atom and bond of the language, each declared once."""

from modnorm.ops import (
    attention,
    conv,
    effects,
    elementwise,
    embed,
    fused,
    headed,
    joins,
    linear,
    normalize,
    pooling,
    product,
    reshape,
    rope,
    scalars,
    vectors,
)

__all__ = [
    "attention",
    "conv",
    "effects",
    "elementwise",
    "embed",
    "fused",
    "headed",
    "joins",
    "linear",
    "normalize",
    "pooling",
    "product",
    "reshape",
    "rope",
    "scalars",
    "vectors",
]
