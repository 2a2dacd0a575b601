"""What is offered for names of torch computes what torch's own does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modnorm
from modnorm.graph.equivalents import EQUIVALENTS, equivalent
from modnorm.graph.names import in_library
from modnorm.ops import registry

VECTOR, IMAGE = "float[batch, 12]", "float[batch, 3, 8, 8]"
SAME: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "swish": F.silu,
    "LeakyReLU": F.leaky_relu,
    "PReLU": nn.PReLU(dtype=torch.float64),
    "ELU": F.elu,
    "SELU": F.selu,
    "LogSigmoid": F.logsigmoid,
    "Softsign": F.softsign,
    "Mish": F.mish,
    "Hardtanh": F.hardtanh,
    "ReLU6": F.relu6,
    "Hardsigmoid": F.hardsigmoid,
    "Hardswish": F.hardswish,
    "Softshrink": F.softshrink,
    "Tanhshrink": F.tanhshrink,
    "QuickGELU": lambda x: x * torch.sigmoid(1.702 * x),
    "SquaredReLU": lambda x: F.relu(x) ** 2,
    "Square": lambda x: torch.clamp(x, -1, 1) ** 2,
    "Sine": torch.sin,
    "Cosine": torch.cos,
    "Erf": torch.erf,
    "Clamp": lambda x: torch.clamp(x, -1, 1),
    "LayerNormalization": nn.LayerNorm(12, dtype=torch.float64),
    "RMSNormalization": nn.RMSNorm(12, eps=1e-5, dtype=torch.float64),
    "BatchNorm1d": nn.BatchNorm1d(12, dtype=torch.float64),
    "InstanceNorm": F.instance_norm,
    "GroupNormalization": nn.GroupNorm(3, 3, dtype=torch.float64),
    "normalize": lambda x: F.normalize(x, dim=-1) * 12**0.5,
    "MaxPool2d": lambda x: F.max_pool2d(x, 2),
    "AvgPool2d": lambda x: F.avg_pool2d(x, 2),
    "AdaptiveAvgPool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "GlobalAveragePooling2D": lambda x: x.mean((2, 3)),
    "reduce_mean": lambda x: x.mean(1),
}
"""By the first name of a row, what it is elsewhere, with weights as they are at first."""
IMAGES = (
    "InstanceNorm",
    "GroupNormalization",
    "MaxPool2d",
    "AvgPool2d",
    "AdaptiveAvgPool2d",
    "GlobalAveragePooling2D",
)


@pytest.mark.parametrize("name", SAME)
def test_it_computes_the_same(name: str, tmp_path: object) -> None:
    (row,) = (row for row in EQUIVALENTS if row.names.split()[0] == name)
    declared = IMAGE if name in IMAGES else VECTOR
    params = "param size = 2  param kernel = 2  param groups = 3"
    text = f"{row.add}\n{params}\ninput x: {declared}\nmodel M = {row.write}\n"
    path = tmp_path / "m.mod"  # type: ignore[operator]
    path.write_text(text)
    model = modnorm.load(path).M().double()
    x = 2 * torch.randn(
        [5, *([3, 8, 8] if name in IMAGES else [12])],
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )
    torch.testing.assert_close(model(x), SAME[name](x), rtol=1e-6, atol=1e-8)


def test_every_function_of_each_entry_is_compared() -> None:
    bonds = {row.names.split()[0] for row in EQUIVALENTS if row.add.startswith("bond")}
    assert bonds - set(SAME) == {"Lambda"}


def layers() -> list[str]:
    """The names of all modules of torch.nn."""
    found = {name: getattr(nn, name) for name in dir(nn)}
    return [n for n, c in found.items() if isinstance(c, type) and issubclass(c, nn.Module)]


@pytest.mark.parametrize("name", layers())
def test_every_layer_of_torch_is_here_or_in_the_table(name: str) -> None:
    assert registry.find(name) or in_library(name) or equivalent(name)
