"""Options and saved states of the optimizers: what they have to be, and what is wrong with them."""

from __future__ import annotations

import copy
import difflib
import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .plan import Plan, plan_hash
from .rule import Rule
from .weight import Weight, as_weight, plain_record, plan_names

# modnorm: begin
Item = tuple[dict[str, Any], Tensor, Weight]  # a parameter's group, the parameter, its record
RANGES = {  # from what on, and below what, an option may be
    **{"lr": (0, math.inf), "weight_decay": (0, math.inf), "eps": (1e-30, math.inf)},
    **{"momentum": (0, 1), "betas": (0, 1), "nesterov": (0, 2), "iterations": (1, 11)},
    **{"steps": (3, 7), "smoothness": (1e-30, math.inf)},
}
OWN = ("exp_avg", "exp_avg_sq", "momentum", "vector", "master")  # the rest of a state is others'
POLICIES = ("nonfinite", "missing")


def some(names: list[str]) -> str:
    """The first few, and how many there are."""
    return ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")


def check_keys(group: Any, defaults: dict[str, Any], kind: str) -> None:
    """ValueError for an option that the optimizer has not, or that is misspelt.

    Other keys are others': schedulers and wrappers keep things in groups.
    """
    for key in () if not isinstance(group, dict) else group.keys() - defaults.keys():
        near = [key] if key in RANGES else difflib.get_close_matches(key, defaults, 1, 0.85)
        if near:
            known = "" if near == [key] else f": did you mean {near[0]!r}?"
            raise ValueError(f"{kind} has no option {key!r} for a group{known}")


def check_options(group: dict[str, Any]) -> None:
    """ValueError unless the options of a parameter group are in their ranges.

    Other kinds of numbers (numpy's, say) become Python's, so that they can be saved and loaded.
    """
    for key, (low, below) in RANGES.items():
        value = group.get(key, (low, low) if key == "betas" else low)
        if value is None and key == "steps":
            continue
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        numbers = value if pair else [value]
        if key == "lr" and isinstance(value, Tensor) and value.numel() == 1:
            numbers = [float(value)] if value.is_cpu else []  # no waiting for a device
        whole = key in ("iterations", "steps")
        kinds: Any = Integral if whole else Real
        good = all(isinstance(x, kinds) and low <= x < below for x in numbers)
        if not good or pair != (key == "betas"):
            kind = "a whole number, " if whole else ""
            raise ValueError(f"{key} must be {kind}at least {low} and below {below}, not {value!r}")
        if any(type(x) not in (int, float, bool) for x in numbers):
            plain = [(int if whole else float)(x) for x in numbers]
            group[key] = tuple(plain) if pair else plain[0]
    for key in POLICIES:
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


def narrow(items: list[Item], weights: list[Tensor]) -> list[Item]:
    """Round what `wide` gave into 16-bit weights; those that can't hold it stay as they were."""
    if weights[0] is items[0][1]:
        return []
    params, lost = [p for _, p, _ in items], list[bool]()
    if params[0].dtype == torch.float16:  # bfloat16 has float32's range
        most = torch.finfo(torch.float16).max
        lost = [not w.abs().amax() <= most for w in weights]
        for p, w, bad in zip(params, weights, lost, strict=True):
            if bad:
                w.copy_(p)
    torch._foreach_copy_(params, weights)
    return [item for item, bad in zip(items, lost, strict=False) if bad]


def is_shared(p: Any) -> bool:
    """Is it a DTensor, of which each rank of torch.distributed has a part?"""
    return hasattr(p, "device_mesh")


def local(x: Any) -> Any:
    """What this rank has of a DTensor; others as they are."""
    return x.to_local() if is_shared(x) else x


def full(x: Any) -> Any:
    """All of a DTensor, which its ranks have to ask for together; others as they are."""
    return x.full_tensor() if is_shared(x) else x


def described(key: str, x: Tensor) -> Any:
    """The shape of a part of a saved state, or why it is none."""
    own = local(x)
    if not own.isfinite().all():
        return "not finite"
    return "negative" if key == "exp_avg_sq" and (own < 0).any() else tuple(x.shape)


def outline(saved: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What two state_dicts must have in common for one to be loaded in the other's place."""
    groups = saved["param_groups"]
    first = groups[0] if groups else {}
    names = list[list[str]]()
    for group in groups:
        check_options(group)
        own = group["params"]  # names, where torch.distributed.checkpoint was at work
        own = own if all(isinstance(x, str) for x in own) else group["param_names"]
        if len(own) != len(group["params"]):
            raise ValueError("a group's params and param_names differ in number")
        names.append(own)
    plan_of = map(as_weight, saved.get("plan", plan))
    flat = plan_names([name for own in names for name in own], plan.stored)
    keys = [index for group in groups for index in group["params"]]
    places = [f"group {i}, place {j}" for i, own in enumerate(names) for j in range(len(own))]
    return {
        "optimizer": saved.get("optimizer", first.get("optimizer")),
        "plan": {w.name: as_weight(plain_record(w))._asdict() for w in plan_of},
        "plan_hash": saved.get("plan_hash", first.get("plan_hash")),
        "parameter": dict(zip(flat, places, strict=True)),
        "options": {
            f"of group {i}": dict.fromkeys(sorted(RANGES.keys() & group.keys()), "there")
            for i, group in enumerate(groups)
        },
        "state": {
            name: {k: described(k, x) for k, x in saved["state"].get(key, {}).items() if k in OWN}
            for name, key in zip(flat, keys, strict=True)
        },
    }


def differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    """Where two trees of dicts differ, in words."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [] if found == wanted else [f"{path}: {found} instead of {wanted}"]
    lines = []
    for key in wanted | found:
        at = f"{path} {key}".strip()
        if key in found and key in wanted:
            lines += differences(found[key], wanted[key], at)
        else:
            lines.append(f"{at}: {'unknown' if key in found else 'missing'}")
    return lines


class Resumable(torch.optim.Optimizer):
    """An optimizer whose saved state names its plan, and goes on bit for bit once it is loaded."""

    plan: Plan
    rule: type[Rule]
    skipped: dict[str, int]
    _new_vectors: set[str]
    _items: list[Item]
    _known: dict[Tensor, Weight]  # every parameter that has been in a group
    _aside: dict[Tensor, Any]  # the states of those that are in none now

    def fresh(self, p: Tensor, w: Weight) -> dict[str, Tensor]:
        """The state of a weight before its first step."""
        raise NotImplementedError

    def match(self, whole: bool = False) -> None:
        """Find the record of every parameter by its name."""
        raise NotImplementedError

    def follow(self) -> None:
        """Take the groups as they are now."""
        raise NotImplementedError

    def complete(self, p: Tensor, w: Weight) -> Any:
        """The state of a weight, in which wrappers may have put things before we did."""
        state = self.state[p]
        if self.rule.moments[-1] not in state and w.target:
            state.update(self.fresh(p, w) | state)
            self._new_vectors.update(part.name for part in self.plan.held(w))
        return state

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on bit for bit, as `load_state_dict` takes it.

        It is torch's, with the optimizer, the plan and its hash. Each group holds the first and
        the last of them too, with what was skipped: only groups and states come through
        torch.distributed.checkpoint.
        """
        self.follow()
        for group in self.param_groups:
            check_options(group)
            group["skipped"] = tuple(self.skipped.items())

        def add(_: Any, saved: dict[str, Any]) -> None:
            plan = list(map(plain_record, self.plan))
            saved.update({**self._identity(), "plan": plan, "skipped": dict(self.skipped)})

        hook = self.register_state_dict_post_hook(add, prepend=True)
        try:
            return super().state_dict()
        finally:
            hook.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state, but for `nonfinite` and `missing`, which stay as they are.

        ValueError, and nothing is changed, if it does not fit. Hooks run as for torch's: those
        before it see what was given, and those after it all that was loaded.
        """
        self.follow()
        if not isinstance(state_dict, dict):
            raise ValueError(f"no state_dict of {type(self).__name__} but {type(state_dict)}")
        fitting: list[Any] = []

        def check(_: Any, saved: dict[str, Any]) -> dict[str, Any]:
            saved, skipped, new = self._fitting(saved)
            fitting[:] = skipped, new
            return saved

        def take(_: Any) -> None:
            skipped, new = fitting
            pairs = zip(self._items, new, strict=True)
            self.state.update({p: state for (_, p, _), state in pairs if state is not None})
            self.skipped = skipped

        hooks = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(take, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _identity(self) -> dict[str, str]:
        """What a saved state must be of."""
        return {"optimizer": type(self).__name__, "plan_hash": plan_hash(self.plan)}

    def _fitting(self, saved: Any) -> tuple[dict[str, Any], dict[str, int], list[Any]]:
        """A state_dict as torch's can load it, what was skipped, and a state for each item."""
        kind = type(self).__name__
        try:
            groups, states = [dict(group) for group in saved["param_groups"]], saved["state"]
            if "plan_hash" not in {**saved, **(groups[0] if groups else {})}:
                raise ValueError("it names no plan: another optimizer's, or a wrapper's")
            for group, own in zip(groups, self.param_groups, strict=False):
                group.update({key: own[key] for key in POLICIES})
            found = outline({**saved, "param_groups": groups}, self.plan)
            counts = [pair for group in groups for pair in group.get("skipped", ())]
            skipped = dict(saved.get("skipped", counts))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            said = error if type(error) is ValueError else repr(error)
            raise ValueError(f"no state_dict of {kind}: {said}") from None
        new = list[Any]()
        for _, p, w in self._items:
            state = found["state"].get(w.name)
            new.append(self.fresh(p, w) if state else {})
        mine, count = [], 0
        for own in self.param_groups:
            count += (size := len(own["params"]))
            mine.append({**own, "params": range(count - size, count)})
        wanted = {"param_groups": mine, "state": dict(enumerate(new)), **self._identity()}
        if wrong := differences(found, outline(wanted, self.plan)):
            raise ValueError(f"a state_dict of something else than this {kind}: {some(wrong)}")
        keys = [index for group in groups for index in group["params"]]
        for state, key, (_, p, _) in zip(new, keys, self._items, strict=True):
            for name, value in states.get(key, {}).items():
                if name in state:
                    state[name].copy_(value)
                elif isinstance(value, Tensor) and value.ndim:
                    state[name] = value.detach().to(p.device, copy=True)
                else:
                    state[name] = copy.deepcopy(value)
        for group, own in zip(groups, self.param_groups, strict=True):
            group["param_names"] = own["param_names"]
        others = {key: value for key, value in states.items() if key not in keys}
        new = [state if key in states else None for state, key in zip(new, keys, strict=True)]
        return {**saved, "param_groups": groups, "state": others}, skipped, new

    def __getstate__(self) -> dict[str, Any]:
        self.follow()
        own = ("plan", "skipped", "_known", "_aside")
        return super().__getstate__() | {key: getattr(self, key) for key in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for key in ("_known", "_aside"):
            self.__dict__.setdefault(key, {})
        self.match()


# modnorm: end
