"""Options and saved states of the optimizers: what they have to be, and what is wrong with them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .plan import Weight, plan_hash

# modnorm: begin
Item = tuple[dict[str, Any], Tensor, Weight]  # a parameter's group, the parameter, its record
RANGES = {  # from what on, and below what, an option may be
    **{"lr": (0, math.inf), "weight_decay": (0, math.inf), "eps": (1e-30, math.inf)},
    **{"momentum": (0, 1), "betas": (0, 1), "nesterov": (0, 2), "iterations": (1, 11)},
    **{"steps": (3, 7), "smoothness": (1e-30, math.inf)},
}


def bare(name: str) -> str:
    """A parameter's name without what torch.compile and data parallelism put into it."""
    return ".".join(part for part in name.split(".") if part not in ("_orig_mod", "module"))


def some(names: list[str]) -> str:
    """The first few, and how many there are."""
    return ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")


def check_options(group: dict[str, Any]) -> None:
    """ValueError unless the options of a parameter group are in their ranges."""
    for key, (low, below) in RANGES.items():
        value = group.get(key, (low, low) if key == "betas" else low)
        if value is None and key == "steps":
            continue
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        numbers = value if pair else [value]
        if key == "lr" and isinstance(value, Tensor) and value.numel() == 1:
            numbers = [float(value)] if value.is_cpu else []  # no waiting for a device
        whole = key in ("iterations", "steps")
        kinds = int if whole else (int, float)
        good = all(isinstance(x, kinds) and low <= x < below for x in numbers)
        if not good or pair != (key == "betas"):
            kind = "a whole number, " if whole else ""
            raise ValueError(f"{key} must be {kind}at least {low} and below {below}, not {value!r}")
    for key in ("nonfinite", "missing"):
        if group[key] not in ("raise", "skip"):
            raise ValueError(f"{key} must be 'raise' or 'skip', not {group[key]!r}")


def known_rate(group: dict[str, Any]) -> float:
    """The learning rate of a group; 0 for one on a device, which is not waited for."""
    lr = group["lr"]
    return 0.0 if isinstance(lr, Tensor) and not lr.is_cpu else float(lr)


def wide(items: list[Item], states: Any, dtype: torch.dtype) -> list[Tensor]:
    """The weights of a batch in this type: themselves, or what 16-bit ones are roundings of."""
    params = weights = [p for _, p, _ in items]
    if dtype != params[0].dtype:
        weights = [state["master"] for state in states]
        for p, master in zip(params, weights, strict=True):
            # Where p was changed from outside, by loading say, that counts.
            torch.where(master.to(p.dtype) == p, master, p.to(master.dtype), out=master)
    return weights


def outline(saved: dict[str, Any]) -> dict[str, Any]:
    """What two state_dicts must have in common for one to be loaded in the other's place."""
    groups, states = saved["param_groups"], dict[str, Any]()
    for group in groups:
        check_options(group)
        for name, index in zip(group["param_names"], group["params"], strict=True):
            states[bare(name)] = {
                key: tuple(x.shape) if x.isfinite().all() else "not finite"
                for key, x in saved["state"].get(index, {}).items()
            }
    return {
        **{key: saved[key] for key in ("optimizer", "plan_hash")},
        "plan": {record[0]: Weight(*record)._asdict() for record in saved["plan"]},
        "names": [[bare(name) for name in group["param_names"]] for group in groups],
        "options": [sorted(RANGES.keys() & group.keys()) for group in groups],
        "state": states,
    }


def differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    """Where two trees of dicts differ, in words."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [] if found == wanted else [f"{path}: {found} instead of {wanted}"]
    pairs = [(x, found.get(x, "nothing"), wanted.get(x, "nothing")) for x in wanted | found]
    return [line for x, a, b in pairs for line in differences(a, b, f"{path} {x}".strip())]


class Resumable(torch.optim.Optimizer):
    """An optimizer whose saved state names its plan, and goes on bit for bit once it is loaded."""

    plan: tuple[Weight, ...]
    skipped: dict[str, int]
    _items: list[Item]

    def fresh(self, p: Tensor, w: Weight) -> dict[str, Tensor]:
        """The state of a weight before its first step."""
        raise NotImplementedError

    def match(self) -> None:
        """Find the record of every parameter by its name."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """torch's, with the plan and its hash: all that a run needs to go on bit for bit."""
        own = {"optimizer": type(self).__name__, "plan_hash": plan_hash(self.plan)}
        plan = [tuple(w) for w in self.plan]
        return super().state_dict() | own | {"plan": plan, "skipped": dict(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state. ValueError, and nothing is changed, if it does not fit."""
        try:
            found, skipped = outline(state_dict), dict(state_dict["skipped"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no state_dict of {type(self).__name__} ({error!r})") from None
        new = {
            i: self.fresh(p, w) if found["state"].get(bare(w.name)) else {}
            for i, (_, p, w) in enumerate(self._items)
        }
        if wrong := differences(found, outline(self.state_dict() | {"state": new})):
            raise ValueError(f"a state_dict of something else than this: {some(wrong)}")
        ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        for i, state in new.items():
            for key, tensor in state.items():
                tensor.copy_(state_dict["state"][ids[i]][key])
        super().load_state_dict(state_dict)  # torch's rounds the state to the parameters' type
        self.state.update({self._items[i][1]: state for i, state in new.items() if state})
        self.skipped = skipped

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"plan": self.plan, "skipped": self.skipped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.match()


# modnorm: end
