"""Programs of examples/architectures beside the same networks of others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import modnorm

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "architectures"
KINDS = ("NormedAdam", "DualizedSGD")
STEPS = 20
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}


def executed(model: nn.Module, *args: Any) -> list[Tensor]:
    """A network's parameters in the order of use, each once, with what is fused taken apart."""
    found: list[Tensor] = []
    seen: set[int] = set()

    def note(module: nn.Module, *_: Any) -> None:
        inside = isinstance(module, nn.MultiheadAttention)  # it does not call its out_proj
        own = [p for p in module.parameters(recurse=inside) if id(p) not in seen]
        seen.update(map(id, own))
        found.extend(parts(module, own))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    model(*args)  # with gradients, since without them torch has ways that call no hooks
    for hook in hooks:
        hook.remove()
    assert seen == set(map(id, model.parameters())), "a parameter that is not used"
    return found


def parts(module: nn.Module, own: list[nn.Parameter]) -> Iterator[Tensor]:
    """The weights that are stored in a module's parameters, as a program has them."""
    if isinstance(module, nn.MultiheadAttention):
        weights, biases, *out = own
        for pair in zip(weights.chunk(3), biases.chunk(3), strict=True):
            yield from pair
        yield from out
    elif type(module).__name__ == "Conv1D" and own:  # GPT-2's: a transposed Linear
        weight, bias = own
        size = weight.shape[0]
        count = weight.shape[1] // size if module.nf == 3 * module.nx else 1
        for pair in zip(weight.T.chunk(count), bias.chunk(count), strict=True):
            yield from pair
    elif isinstance(module, nn.GRU):
        entries, states, biases, own_biases = (p.chunk(3) for p in own)
        for gate in range(3):
            yield from (entries[gate], biases[gate])
        # of the two biases of a gate one is enough, but for that behind the reset gate
        yield from (states[0], states[2], own_biases[2], states[1])
    elif type(module).__name__ == "MixtralExperts":
        both, down = own
        yield from (*both.chunk(2, 1), down)
    else:
        yield from own


def loaded(name: str, **params: Any) -> tuple[ModuleType, type[nn.Module]]:
    """The generated module of a program, and the class of its model."""
    path = FOLDER / f"{name}.mod"
    written = re.search(r"^model (\w+)", path.read_text("utf-8"), re.MULTILINE)
    assert written is not None
    module = modnorm.load(path, **params)
    return module, getattr(module, written[1])


def agree(
    name: str, other: nn.Module, args: tuple[Tensor, ...], dtype: torch.dtype,
    order: Callable[[list[Tensor]], list[Tensor]] = lambda found: found, **params: Any,
) -> None:  # fmt: skip
    """The program computes what the other network does, with the same weights in both."""
    module, build = loaded(name, **params)
    model = build(dtype=dtype, generator=torch.Generator().manual_seed(0)).eval()
    other = other.to(dtype).eval()
    args = cast(args, dtype)
    weights = order(executed(other, *args))
    names = [weight.name for weight in module.PLAN]
    own = dict(model.named_parameters())
    assert len(names) == len(own)
    with torch.no_grad():
        move(model)
        for key, theirs in zip(names, weights, strict=True):
            theirs.copy_(own[key].view_as(theirs))
        for found, expected in zip(flat(model(*args)), flat(other(*args)), strict=True):
            room = TOLERANCES[dtype] * max(1.0, expected.abs().max().item())
            torch.testing.assert_close(found, expected, rtol=0, atol=room)


@torch.no_grad()
def move(model: nn.Module) -> None:
    """Take weights away from zeros and ones, which would hide a gain or a bias that is missing."""
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype), alpha=0.1)


def flat(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else [one for part in out for one in flat(part)]


def cast(args: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(arg.to(dtype) if arg.is_floating_point() else arg for arg in args)


def losses(name: str, kind: str, args: tuple[Tensor, ...], lr: float, **params: Any) -> list[float]:
    """What 20 steps on one batch of random labels make of the loss."""
    module, build = loaded(name, **params)
    model = build(generator=torch.Generator().manual_seed(0))
    optimizer = getattr(module, kind)(model.named_parameters(), lr=lr)
    found = []
    torch.manual_seed(0)
    for _ in range(STEPS):
        loss = objective(model(*args))
        found.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return found


def objective(out: Any) -> Tensor:
    """The loss against labels that are the same in every step."""
    if isinstance(out, tuple):
        return torch.stack([objective(one) for one in out]).sum()
    generator = torch.Generator().manual_seed(2)
    if out.shape[-1] > 1 and out.dim() < 4:
        labels = torch.randint(out.shape[-1], out.shape[:-1], generator=generator)
        return F.cross_entropy(out.flatten(0, -2), labels.flatten())
    return F.mse_loss(out, torch.randn(out.shape, generator=generator))
