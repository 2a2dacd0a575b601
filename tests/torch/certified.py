"""Measures a program where its certificate speaks: inputs and weights in their unit balls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from checks import Case
from interpreter import Run
from op_samples import leaves
from torch.func import jvp

from modnorm.codegen.plan import records
from modnorm.ops.edges import ONE_HOT
from modnorm.pipeline import analyse_text
from tests.plain import unroll

TINY = 1e-30


def case_of(text: str) -> Case:
    """A program given as text, compiled."""
    program = analyse_text(text).program
    tree = unroll(program.tree)
    return Case(text, program, tree, tree, [])


class Measured:
    """A compiled program with weights of norm 1, an update of modular norm 1, and inputs of norm 1.

    `norms` are other ones of the weights, in execution order. All are functions of free parameters,
    so that what is measured can be driven up.
    """

    def __init__(self, case: Case, seed: int, norms: Sequence[float] | None = None) -> None:
        assert case.program.certificate is not None
        self.case = case
        self.certificate = case.program.certificate
        self.generator = torch.Generator().manual_seed(seed)
        self.records = records(case.program)
        self.norms = [1.0] * len(self.records) if norms is None else norms
        shapes = [record.weight.op.weight_shape for record in self.records]
        self.weights = [self.free(shape) for shape in shapes]
        self.updates = [self.free(shape) for shape in shapes]
        self.inputs = [x.detach() for x in case.inputs()]
        self.floats = [i for i, x in enumerate(self.inputs) if x.is_floating_point()]
        for i in self.floats:
            self.inputs[i] = self.free(self.inputs[i].shape)
        self.moves = [self.free(self.inputs[i].shape) for i in self.floats]
        self.more = [self.free(shape) for shape in shapes]
        self.others = [self.free(self.inputs[i].shape) for i in self.floats]

    def free(self, shape: Any) -> torch.Tensor:
        scale = 3.0 ** torch.randint(-1, 2, (), generator=self.generator).item()
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale
        return x.requires_grad_()

    def parameters(self) -> list[torch.Tensor]:
        inputs = (self.inputs[i] for i in self.floats)
        return [*self.weights, *self.updates, *self.moves, *self.more, *self.others, *inputs]

    def named(self, tensors: list[torch.Tensor], sizes: Sequence[float]) -> dict[str, torch.Tensor]:
        """Weights of norms `sizes`, by name."""
        found = {}
        for record, tensor, size in zip(self.records, tensors, sizes, strict=True):
            norm = record.weight.op.weight_norm(tensor)
            found[record.name] = size * tensor / norm.clamp_min(TINY)
        return found

    def run(self, weights: dict[str, torch.Tensor], x: tuple[torch.Tensor, ...]) -> Any:
        return Run(lambda key: weights[str(key)])(self.case.tree, self.case.type, *x)

    def x(self) -> tuple[torch.Tensor, ...]:
        return tuple(
            x / measure.of(x).clamp_min(TINY) if i in self.floats else x
            for i, (x, measure) in enumerate(zip(self.inputs, self.certificate.inputs, strict=True))
        )

    def size(self, y: Any) -> torch.Tensor:
        """The norm of an output, in the certificate's measures."""
        pairs = zip(self.certificate.outputs, leaves(y), strict=True)
        return torch.stack([m.of(t) for m, t in pairs if m != ONE_HOT]).sum()

    def own(self) -> dict[str, torch.Tensor]:
        return self.named(self.weights, self.norms)

    def update_effect(self) -> torch.Tensor:
        """How far the output moves, to first order, for an update of modular norm 1."""
        updates = self.named(self.updates, [record.target for record in self.records])
        return self.size(jvp(lambda w: self.run(w, self.x()), (self.own(),), (updates,))[1])

    def input_effect(self) -> torch.Tensor:
        """How far the output moves when the input moves by norm 1."""
        x, weights = list(self.x()), self.own()
        measures = [self.certificate.inputs[i] for i in self.floats]
        total = torch.stack([m.of(d) for m, d in zip(measures, self.moves, strict=True)]).sum()

        def run(*floats: torch.Tensor) -> Any:
            for i, value in zip(self.floats, floats, strict=True):
                x[i] = value
            return self.run(weights, tuple(x))

        points = tuple(x[i] for i in self.floats)
        return self.size(jvp(run, points, tuple(d / total for d in self.moves))[1])

    def bend(self, first: bool, second: bool) -> torch.Tensor:
        """How far the output's derivative moves: along an update of modular norm 1 (True) or a move
        of the input by 1 (False), and along another of either."""
        targets = [record.target for record in self.records]
        measures = [self.certificate.inputs[i] for i in self.floats]

        def direction(update: bool, tensors: list[torch.Tensor], moves: list[torch.Tensor]) -> Any:
            weights = self.named(tensors, targets if update else [0.0] * len(targets))
            sizes = [m.of(d) for m, d in zip(measures, moves, strict=True)]
            total = torch.stack(sizes).sum() if sizes else 1.0
            return weights, [0 * d if update else d / total for d in moves]

        x = list(self.x())

        def run(weights: dict[str, torch.Tensor], floats: list[torch.Tensor]) -> Any:
            inputs = list(x)
            for i, value in zip(self.floats, floats, strict=True):
                inputs[i] = value
            return self.run(weights, tuple(inputs))

        one = direction(first, self.updates, self.moves)
        other = direction(second, self.more, self.others)
        at = (self.own(), [x[i] for i in self.floats])
        return self.size(jvp(lambda *p: jvp(run, p, one)[1], at, other)[1])

    def output_size(self) -> torch.Tensor:
        return self.size(self.run(self.own(), self.x()))

    def driven_up(self, what: Callable[[], torch.Tensor], steps: int) -> float:
        """The largest value met on some steps of gradient ascent."""
        best = 0.0
        optimizer = torch.optim.Adam(self.parameters(), lr=0.3, maximize=True)
        for _ in range(steps):
            value = what()
            best = max(best, float(value.detach()))
            if not value.requires_grad:
                break
            optimizer.zero_grad()
            value.backward()
            for parameter in self.parameters():
                if parameter.grad is not None:  # the root of 0 has no gradient
                    parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
            optimizer.step()
        return best
