"""What a rule is: how gradients become an update, whatever its size."""

from __future__ import annotations

from typing import Any

from torch import Tensor


# modnorm: begin
class Rule:
    """How gradients become an update u. All of it is in the states of weights, by name.

    moments: what it keeps there of each weight, of the weight's shape, at first 0.
    kernel: by which of the kernels for a GPU it is computed; None where plain torch does it.
    """

    moments: tuple[str, ...]
    kernel: str | None = None

    @classmethod
    def update(
        cls, group: Any, states: Any, grads: list[Tensor], views: list[Tensor]
    ) -> list[Tensor]:
        """Take in the gradients of several weights; the updates: in views, or part of the state.

        group: the options. views: memory of the weights' shapes, in which anything may stand.
        """
        raise NotImplementedError

    @classmethod
    def direction(cls, group: Any, state: Any, grad: Tensor | None) -> Tensor:
        """The last u of a weight in float64, made once more from its state and its gradient."""
        raise NotImplementedError


# modnorm: end
