"""How far the output moves with each weight of an adopted model, where paths part and meet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modnorm
from modnorm.ops.attention import Attention

WIDTH = 8


def targets(model: nn.Module, example: Any) -> dict[str, float]:
    """The targets of weights of mass 1 each, times their number, as declared."""
    options: Any = {"plan_only": True, "sensitivity": "declared", "masses": {"*": 1.0}}
    plan = modnorm.adopt(model, example, **options)
    return {w.name: w.target * len(plan) for w in plan}


class Sent(nn.Module):
    """Each token goes to one of some experts, in a loop over them, or in one product."""

    def __init__(self, count: int, sorted_first: bool) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH, bias=False)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count))
        self.sorted_first = sorted_first

    def forward(self, x: Tensor, to: Tensor) -> Tensor:
        h = self.first(x)
        if self.sorted_first:
            order = to.argsort()
            counts = to.bincount(minlength=len(self.experts)).tolist()
            parts = h[order].split(counts)
            made = [expert(part) for expert, part in zip(self.experts, parts, strict=True)]
            return torch.cat(made)[order.argsort()]
        out = torch.zeros_like(h)
        for i, expert in enumerate(self.experts):
            rows = (to == i).nonzero().squeeze(1)
            out = out.index_add(0, rows, expert(h[rows]))
        return out


@pytest.mark.parametrize("sorted_first", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_tokens_that_go_separate_ways_count_once(count: int, sorted_first: bool) -> None:
    torch.manual_seed(0)
    example = torch.randn(20, WIDTH), torch.arange(20) % count
    found = targets(Sent(count, sorted_first), example)
    assert set(found.values()) == {1.0}


class Read(nn.Module):
    """A stream whose branches read a second value too."""

    def __init__(self, branches: int) -> None:
        super().__init__()
        self.memory = nn.Linear(WIDTH, WIDTH, bias=False)
        self.keys = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(branches))
        self.norms = nn.ModuleList(
            nn.LayerNorm(WIDTH, elementwise_affine=False) for _ in range(branches + 1)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        memory = self.memory(y)
        for key, norm in zip(self.keys, self.norms, strict=False):
            query = norm(x).unsqueeze(1)
            x = x + nn.functional.scaled_dot_product_attention(
                query, key(memory).unsqueeze(1), memory.unsqueeze(1)
            ).squeeze(1)
        return self.norms[-1](x)


@pytest.mark.parametrize("branches", [1, 4])
def test_a_branch_that_reads_more_is_a_part_of_the_stream(branches: int) -> None:
    """The last sum has branches + 1 terms, of which a norm makes one."""
    torch.manual_seed(0)
    example = torch.randn(2, 5, WIDTH), torch.randn(2, 3, WIDTH)
    found = targets(Read(branches), example)
    size = 1 / WIDTH**0.5 * WIDTH  # of attention by 1/sqrt(d), as `Attention` declares it
    declared = float(Attention(scale=size).sensitivity)
    assert found[f"keys.{branches - 1}.weight"] == pytest.approx((branches + 1) / declared)


class Tied(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.table, self.factor = nn.Embedding(11, WIDTH), factor

    def forward(self, tokens: Tensor) -> Tensor:
        x = nn.functional.layer_norm(self.table(tokens), (WIDTH,))
        return nn.functional.linear(x * self.factor, self.table.weight)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_factor_before_scores_counts_for_both_uses_of_a_table(factor: float) -> None:
    found = targets(Tied(factor), torch.randint(11, (2, 5)))
    assert found["table.weight"] == pytest.approx(1 / (2 * factor))


class Mixed(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(self.a(x), self.b(x), self.by)


def test_lerp_counts_each_by_its_part() -> None:
    found = targets(Mixed(0.25), torch.randn(3, WIDTH))
    assert found == pytest.approx({"a.weight": 4 / 3, "b.weight": 4.0})
