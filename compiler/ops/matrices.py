"""The norms that a matrix may be measured in: each with its duality map and how a weight begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from modnorm.ops.base import Norm

if TYPE_CHECKING:
    import torch

    Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class MatrixNorm:
    """One norm of an (out, in) matrix, that from one norm of the input to one of the output.

    `into` is the norm of the input: the RMS, or the sum of the absolute entries. `out` is that of
    the output: the RMS, or the largest entry. `init` is as `Atom.init`, `size` and `dual` as
    `Atom.weight_norm` and `Atom.dualize`.
    """

    norm: Norm
    into: Literal["rms", "sum"]
    out: Literal["rms", "largest"]
    init: str
    size: Map
    dual: Map


def spectral_size(weight: torch.Tensor) -> torch.Tensor:
    """√(in/out)·σ_max of each matrix of a stack (…, out, in)."""
    import torch

    out, in_ = weight.shape[-2:]
    sigma: torch.Tensor = torch.linalg.matrix_norm(weight, 2)
    return math.sqrt(in_ / out) * sigma


def spectral_dual(gradient: torch.Tensor) -> torch.Tensor:
    """√(out/in)·U Vᵀ of each matrix of a stack (…, out, in)."""
    import torch

    out, in_ = gradient.shape[-2:]
    u, _, vt = torch.linalg.svd(gradient, full_matrices=False)
    product: torch.Tensor = u @ vt
    return math.sqrt(out / in_) * product


def _row_size(weight: torch.Tensor) -> torch.Tensor:
    return math.sqrt(weight.shape[1]) * weight.square().sum(dim=1).sqrt().amax()


def _row_dual(gradient: torch.Tensor) -> torch.Tensor:
    length = gradient.square().sum(dim=1, keepdim=True).sqrt()
    return gradient / length.masked_fill(length == 0, 1) / math.sqrt(gradient.shape[1])


def _column_size(weight: torch.Tensor) -> torch.Tensor:
    return weight.square().mean(dim=0).sqrt().amax()


def _column_dual(gradient: torch.Tensor) -> torch.Tensor:
    rms = gradient.square().mean(dim=0, keepdim=True).sqrt()
    return gradient / rms.masked_fill(rms == 0, 1)


def _sign_size(weight: torch.Tensor) -> torch.Tensor:
    return weight.shape[1] * weight.abs().amax()


def _sign_dual(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.sign() / gradient.shape[1]


def _frobenius_size(weight: torch.Tensor) -> torch.Tensor:
    out, in_ = weight.shape
    return math.sqrt(in_ / out) * weight.square().sum().sqrt()


def _frobenius_dual(gradient: torch.Tensor) -> torch.Tensor:
    out, in_ = gradient.shape
    length = gradient.square().sum().sqrt()
    return math.sqrt(out / in_) * gradient / length.masked_fill(length == 0, 1)


NORMAL = "nn.init.normal_(weight, generator=generator)\n"

CHOICES: dict[str, MatrixNorm] = {
    choice.norm.name: choice
    for choice in (
        MatrixNorm(
            Norm("spectral", "√(in/out)·σ_max", "RMS to RMS"),
            "rms",
            "rms",
            "nn.init.orthogonal_(weight, gain=math.sqrt(out / in_), generator=generator)",
            spectral_size,
            spectral_dual,
        ),
        MatrixNorm(
            Norm("row", "in·max over rows of RMS(row)", "RMS to the largest entry"),
            "rms",
            "largest",
            f"{NORMAL}weight /= weight.square().sum(dim=1, keepdim=True).mul(in_).sqrt()",
            _row_size,
            _row_dual,
        ),
        MatrixNorm(
            Norm("column", "max over columns of RMS(column)", "the sum of absolute entries to RMS"),
            "sum",
            "rms",
            f"{NORMAL}weight /= weight.square().mean(dim=0, keepdim=True).sqrt()",
            _column_size,
            _column_dual,
        ),
        MatrixNorm(
            Norm("sign", "in·max |w|", "RMS to the largest entry"),
            "rms",
            "largest",
            "weight.bernoulli_(0.5, generator=generator).mul_(2).sub_(1).div_(in_)",
            _sign_size,
            _sign_dual,
        ),
        MatrixNorm(
            Norm("frobenius", "√(in/out)·‖W‖_F", "RMS to RMS"),
            "rms",
            "rms",
            f"{NORMAL}weight *= math.sqrt(out / in_) / torch.linalg.vector_norm(weight)",
            _frobenius_size,
            _frobenius_dual,
        ),
    )
}
"""The norms of a matrix by name, the usual one first."""
SPECTRAL = next(iter(CHOICES))
