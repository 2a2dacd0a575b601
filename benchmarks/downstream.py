"""How far the output moves with what a weight gives: as declared, and measured at initial weights.

    python benchmarks/downstream.py [FILE.mod] [--vary blocks=2,8,32] [--all]

Behind every weight, one after the other, the activations get a random perturbation; the change of
the output over its size, both in the RMS, is the measured sensitivity downstream. A factor that all
weights have in common changes no training, so what counts is how far the quotients of measured and
declared values lie apart: `spread` is the largest over the smallest. A weight that is used in
several places, such as a tied table, is left out, since its perturbations add up.
"""

from __future__ import annotations

import math
from pathlib import Path

import click
import torch
from torch import Tensor

import modnorm
from modnorm.codegen.plan import records
from modnorm.data import texts
from modnorm.data.tasks import NextCharacter
from modnorm.pipeline import ANALYSIS, analyse

HERE = Path(__file__).resolve().parent
CONTEXT = 32
SIZE = 1e-3
"""Of a perturbation: so small that the output follows in proportion."""


def measured(model: torch.nn.Module, tokens: Tensor, names: list[str]) -> dict[str, float]:
    """By the name of a module, how far the output moves with what it gives."""
    generator = torch.Generator().manual_seed(1)

    def perturb(_module: torch.nn.Module, _args: object, out: Tensor) -> Tensor:
        noise = torch.randn(out.shape, generator=generator, dtype=out.dtype)
        return out + SIZE * noise / noise.square().mean().sqrt()

    found = {}
    before = model(tokens)
    for name in names:
        handle = model.get_submodule(name).register_forward_hook(perturb)
        found[name] = ((model(tokens) - before).square().mean().sqrt() / SIZE).item()
        handle.remove()
    return found


@click.command()
@click.argument("file", default=str(HERE / "nanogpt.mod"))
@click.option("--vary", default="blocks=2,8,32", help="A param and its values.")
@click.option("--all", "every", is_flag=True, help="Show every weight.")
@torch.no_grad()
def main(file: str, vary: str, every: bool) -> None:
    """Compare declared with measured sensitivities downstream."""
    text = texts.load("shakespeare")
    assert isinstance(text, texts.Text)
    task = NextCharacter(text, 8, CONTEXT, 1)
    name, values = vary.split("=")
    print(f"{name:>8}  weights  spread  smallest target / largest")
    for value in map(int, values.split(",")):
        module = modnorm.load(file, **{name: value})
        torch.manual_seed(0)
        model = getattr(module, module.MODEL)(dtype=torch.float64).eval()
        tokens, _ = task.draw(torch.Generator().manual_seed(0))
        program = analyse(file, {name: value}, passes=ANALYSIS).program
        once = [r for r in records(program) if r.weight.uses == 1 and r.target > 0]
        found = measured(model, tokens, [record.path for record in once])
        ratios = {record.path: found[record.path] / record.downstream for record in once}
        spread = max(ratios.values()) / min(ratios.values())
        apart = min(w.target for w in module.PLAN) / max(w.target for w in module.PLAN)
        print(f"{value:>8}  {len(module.PLAN):>7}  {spread:>6.1f}  {apart:.2g}")
        mean = math.prod(r ** (1 / len(ratios)) for r in ratios.values())
        for record in once if every else ():
            path, declared = record.path, record.downstream
            print(f"    {path:<44}{declared:>10.4g}{found[path]:>10.4g}{ratios[path] / mean:>8.2f}")


if __name__ == "__main__":
    main()
