"""The weights of the models that the optimizer benchmark steps through, as plans."""

from __future__ import annotations

from modnorm.kernels.weight import Weight

VOCAB, CONTEXT = 65, 64
Plan = tuple[Weight, ...]


def matrix(name: str, out: int, width: int, target: float) -> Weight:
    return Weight(name, "Linear", (out, width), "spectral", 1.0, target)


def gpt(width: int, depth: int, vocab: int = VOCAB, context: int = CONTEXT) -> Plan:
    """modula's GPT in execution order, with its targets (blocks of mass 5)."""
    rows = [Weight("token", "Embed", (vocab, width), "row_rms", 1.0, 1 / 7)]
    rows += [Weight("position", "Embed", (context, width), "row_rms", 1.0, 1 / 7)]
    for block in range(depth):
        rows += [matrix(f"block.{block}.{name}", width, width, 5 / 7) for name in "qkv"]
        rows += [matrix(f"block.{block}.out", width, width, 5 / 21)]
        rows += [matrix(f"block.{block}.up", 4 * width, width, 5 / 21)]
        rows += [matrix(f"block.{block}.down", width, 4 * width, 5 / 21)]
    return (*rows, matrix("head", vocab, width, 1 / 7))


def resnet() -> Plan:
    """The weights of a ResNet-18 for 1000 classes, with a gain and a bias a convolution."""
    plan, width = [], 3
    shapes = [(64, 3, 7)]
    for channels in (64, 128, 256, 512):
        for block in range(2):
            before = channels // 2 if block == 0 and channels > 64 else channels
            shapes += [(channels, before, 3), (channels, channels, 3)]
            if before != channels:
                shapes += [(channels, before, 1)]
    for i, (out, width, taps) in enumerate(shapes):
        shape = (out, width, taps, taps)
        plan += [Weight(f"block.{i}.conv", "Conv2D", shape, "spectral_taps", 1.0, 0.05)]
        plan += [Weight(f"norm.{i}.scale", "Scale", (out,), "max", 1.0, 0.05)]
        plan += [Weight(f"norm.{i}.bias", "Bias", (out,), "rms", 1.0, 0.05)]
    return (*plan, matrix("head", 1000, width, 0.05))


def small_matrices() -> Plan:
    """A thousand matrices of 32×32: whatever is done for each of them counts."""
    return tuple(matrix(f"block.{i}", 32, 32, 0.001) for i in range(1000))


MODELS = {
    "gpt 128, 4": lambda: gpt(128, 4),
    "gpt 256, 6": lambda: gpt(256, 6),
    "gpt 512, 8": lambda: gpt(512, 8),
    "resnet-18": resnet,
    "1000 of 32×32": small_matrices,
    "gpt 124M": lambda: gpt(768, 12, 50257, 1024),
    "gpt 1B": lambda: gpt(2048, 20, 50257, 1024),
}
"""By name; `gpt` with width and depth, at 128, 4 the size of examples/gpt.mod."""
ON_CPU = tuple(MODELS)[:5]
"""What is measured without a GPU, unless asked for by name."""
