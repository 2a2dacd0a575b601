"""NormedAdam, NormedSGD and DualizedSGD: updates of a given size in the modular norm of a plan."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from .max_abs import MaxAbs
from .plan import Norm, Weight, plan_hash
from .rms import RMS
from .row_rms import RowRMS
from .spectral import Spectral
from .spectral_taps import SpectralTaps

PLAN: tuple[Weight, ...] = ()
NORMS: dict[str, type[Norm]] = {
    "spectral": Spectral,
    "spectral_taps": SpectralTaps,
    "row_rms": RowRMS,
    "rms": RMS,
    "max": MaxAbs,
}

# modnorm: begin
# The type in which an optimizer computes, for each type of parameter.
STATE_TYPES = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float32)
STATE_TYPES[torch.float64] = torch.float64
RANGES = {  # from what on, and below what, an option may be
    **{"lr": (0, math.inf), "weight_decay": (0, math.inf), "eps": (1e-30, math.inf)},
    **{"momentum": (0, 1), "betas": (0, 1), "nesterov": (0, 2)},
}
Item = tuple[dict[str, Any], Tensor, Weight]  # a parameter's group, the parameter, its record


class NormedOptimizer(torch.optim.Optimizer):
    """w ← (1 - lr·target·weight_decay)·w - lr·target·u/‖u‖ for each weight w of the plan.

    ‖·‖ is the norm that the plan names for w (Large et al. 2024, arXiv 2405.14813); u is up to
    the subclass. It computes in float32, for float64 parameters in float64; 16-bit parameters are
    roundings of a float32 copy in the state. Options are read from the groups at every step.

    params: model.named_parameters(), or parameter groups with such pairs. ValueError unless they
        fit the plan (by default PLAN).
    nonfinite: "raise" a FloatingPointError before anything is changed if a gradient holds NaN,
        infinity or numbers too large to square; or "skip" that weight, counted in `skipped`.
    """

    moments: tuple[str, ...] = ("momentum",)  # the parts of a state that have the weight's shape
    dual = False  # is the update the image of u under the duality map?

    def __init__(self, params: Any, plan: Iterable[Weight] | None, **options: Any) -> None:
        self.plan = PLAN if plan is None else tuple(Weight(*record) for record in plan)
        self.skipped: dict[str, int] = {}
        self._items: list[Item] = []
        super().__init__(params, options)
        self._match()
        for _, p, w in self._items:
            if p.requires_grad and w.target:
                self.state[p] = self._fresh(p, w)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """For the constructor; afterwards all weights of the plan have a group."""
        if self._items:
            raise ValueError("no weight of the plan is left: give the constructor all groups")
        super().add_param_group(param_group)

    def _match(self) -> None:
        """Find the record of every parameter by its name, or say all that does not fit."""
        records = {bare(w.name): w for w in self.plan} | {w.name: w for w in self.plan}
        given: dict[str, str] = {}
        items, seen = [], set()
        for group in self.param_groups:
            check_options(group)
            if "param_names" not in group:
                raise ValueError("parameters need their names: pass model.named_parameters()")
            for name, p in zip(group["param_names"], group["params"], strict=True):
                if w := records.get(name) or records.get(bare(name)):
                    name = w.name
                    items.append((group, p, w))
                kind = "floating" if p.dtype in STATE_TYPES else p.dtype
                twice = name in given or p in seen
                given[name] = "given twice" if twice else f"{kind} {tuple(p.shape)}"
                seen.add(p)
        if wrong := differences(given, {w.name: f"floating {tuple(w.shape)}" for w in self.plan}):
            raise ValueError(
                f"parameters that do not fit the plan of {len(self.plan)} weights: {some(wrong)}. "
                "Pass all of model.named_parameters() of the model that the plan was made for"
            )
        self._items = items
        self._batches: list[tuple[list[Item], Tensor, list[Tensor]]] = []

    def _fresh(self, p: Tensor, w: Weight) -> dict[str, Tensor]:
        """The state of a weight before its first step."""
        if not w.target:
            return {}
        dtype = STATE_TYPES[p.dtype]
        state = {name: torch.zeros(w.shape, dtype=dtype, device=p.device) for name in self.moments}
        if NORMS[w.norm].vector and not self.dual:
            seed = torch.Generator().manual_seed(self.plan.index(w))
            state["vector"] = torch.randn(w.shape[1:], generator=seed).to(p.device, dtype)
        if p.dtype != dtype:
            state["master"] = p.detach().to(dtype).contiguous()
        return state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the weights that have a gradient; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        ready = self._ready()
        for batch, u, views in self._batches or self._group():
            if items := [item for item in batch if id(item) in ready]:
                self._move(items, u[: len(items)], views[: len(items)])
        return loss

    def _ready(self) -> set[int]:
        """The ids of the items to move now. What can fail fails here, before any change."""
        for group in self.param_groups:
            check_options(group)
        items = [x for x in self._items if x[2].target and x[1].requires_grad]
        items = [x for x in items if x[1].grad is not None]
        grads = [p.grad for _, p, _ in items if p.grad is not None]
        if any(grad.layout != torch.strided for grad in grads):
            raise ValueError("sparse gradients are not supported; sparse=False gives dense ones")
        if not items:
            return set()
        types = [STATE_TYPES[p.dtype] for _, p, _ in items]
        widest = torch.float64 if torch.float64 in types else torch.float32
        norms = torch._foreach_norm(grads, 2, widest)
        sizes = torch.stack([norm.to(norms[0].device) for norm in norms]).tolist()
        limits = {dtype: math.sqrt(torch.finfo(dtype).max) for dtype in set(types)}
        lost = [x for x, n, dtype in zip(items, sizes, types, strict=True) if not n < limits[dtype]]
        if names := [w.name for group, _, w in lost if group["nonfinite"] == "raise"]:
            raise FloatingPointError(
                f"gradients with NaN, infinity or numbers too large to square: {some(names)}. "
                "Nothing was changed. Look at the loss and at lr, unscale a scaled loss first, or "
                "pass nonfinite='skip' to leave such weights out of a step"
            )
        for _, _, w in lost:
            self.skipped[w.name] = self.skipped.get(w.name, 0) + 1
        return {id(x) for x in items} - {id(x) for x in lost}

    def _group(self) -> list[tuple[list[Item], Tensor, list[Tensor]]]:
        """Batches of weights of one group, norm, shape, type and device, with memory for u."""
        alike: dict[Any, list[Item]] = defaultdict(list)
        for item in self._items:
            group, p, w = item
            if state := self.state.get(p):  # made before the parameter went to a device, say
                fresh = self._fresh(p, w).items()
                self.state[p] = {key: state.get(key, x).to(x) for key, x in fresh}
            if w.target:
                alike[id(group), w.norm, p.shape, p.dtype, p.device].append(item)
        memory: dict[Any, Tensor] = {}
        largest = max(p.numel() for _, p, _ in self._items)
        for (_, _, shape, dtype, device), like in alike.items():
            # A batch is to stay in a CPU's second-level cache from the first pass to the last.
            entries = 1 << 18 if device.type == "cpu" else 1 << 22
            if (dtype, device) not in memory:
                size, wide = max(entries, largest), STATE_TYPES[dtype]
                memory[dtype, device] = torch.empty(size, dtype=wide, device=device)
            room = max(1, entries // shape.numel())
            for part in (like[i : i + room] for i in range(0, len(like), room)):
                u = memory[dtype, device][: len(part) * shape.numel()].view(-1, *shape)
                self._batches.append((part, u, list(u.unbind())))
        return self._batches

    def _move(self, items: list[Item], u: Tensor, views: list[Tensor]) -> None:
        """One step of the weights of a batch; u is memory (k, *shape), views its parts."""
        group, norm, params = items[0][0], NORMS[items[0][2].norm], [p for _, p, _ in items]
        states = [self.state[p] for p in params]
        for state, (_, p, w) in zip(states, items, strict=True):
            if not state:
                state.update(self._fresh(p, w))
        grads: list[Any] = [p.grad for p in params]
        if not all(grad.dtype == u.dtype and grad.is_contiguous() for grad in grads):
            grads = [grad.to(u.dtype).contiguous() for grad in grads]
        self._update(group, states, grads, u, views)
        if self.dual:
            views, factors = list(norm.dualize(u).unbind()), [u.new_ones(())] * len(items)
        else:
            vectors = [state["vector"] for state in states if "vector" in state]
            factor, new = norm.measure(u, torch.stack(vectors) if vectors else None)
            factors = list(factor.unbind())
            if new is not None:
                torch._foreach_copy_(vectors, list(new.unbind()))
        weights = params
        if u.dtype != params[0].dtype:
            weights = [state["master"] for state in states]
            for p, master in zip(params, weights, strict=True):
                # Where p was changed from outside, by loading say, that counts.
                torch.where(master.to(p.dtype) == p, master, p.to(u.dtype), out=master)
        lr, decay = float(group["lr"]), group["weight_decay"]
        if decay:
            torch._foreach_mul_(weights, [1 - lr * w.target * decay for _, _, w in items])
        sizes = [-lr * w.target for _, _, w in items]
        torch._foreach_addcmul_(weights, views, factors, sizes)
        if weights is not params:
            torch._foreach_copy_(params, weights)

    def _update(self, group: Any, states: Any, grads: Any, u: Tensor, views: list[Tensor]) -> None:
        """Take in the gradients and write the updates, before their norm, into u."""
        momentum = [state["momentum"] for state in states]
        torch._foreach_lerp_(momentum, grads, 1 - group["momentum"])
        torch._foreach_copy_(views, momentum)

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
            i: self._fresh(p, w) if found["state"].get(bare(w.name)) else {}
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
        self._match()


class NormedAdam(NormedOptimizer):
    """u is Adam's update (Kingma & Ba 2015, arXiv 1412.6980); see NormedOptimizer.

    eps only guards 0/0; the bias corrections, one factor a weight, drop out.
    """

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, params: Any, lr: float | Tensor, betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-15, weight_decay: float = 0.0, nonfinite: str = "raise",
        plan: Iterable[Weight] | None = None,
    ) -> None:  # fmt: skip
        options = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "nonfinite": nonfinite}
        super().__init__(params, plan, lr=lr, **options)

    def _update(self, group: Any, states: Any, grads: Any, u: Tensor, views: list[Tensor]) -> None:
        first, second = ([state[name] for state in states] for name in self.moments)
        # Adam on zeros with lr -1; torch's fused kernel makes both moments and u in one pass.
        fused = u.device.type in ("cpu", "cuda") and hasattr(torch, "_fused_adam_")
        run: Any = torch._fused_adam_ if fused else adam
        u.zero_()
        run(
            views, grads, first, second, [], [torch.ones((), device=u.device)] * len(views),
            lr=-1.0, beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"],
            weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip


class NormedSGD(NormedOptimizer):
    """u is a running average of the gradients; see NormedOptimizer."""

    def __init__(
        self, params: Any, lr: float | Tensor, momentum: float = 0.9, weight_decay: float = 0.0,
        nonfinite: str = "raise", plan: Iterable[Weight] | None = None,
    ) -> None:  # fmt: skip
        options = {"momentum": momentum, "weight_decay": weight_decay, "nonfinite": nonfinite}
        super().__init__(params, plan, lr=lr, **options)


class DualizedSGD(NormedOptimizer):
    """u/‖u‖ is the duality map of a running average of the gradients (arXiv 2410.21265).

    For matrices that is orthogonalisation, within 0.5 % for all singular values above 0.003 of
    the largest. nesterov: as in Muon, the gradient counts once more.
    """

    dual = True

    def __init__(
        self, params: Any, lr: float | Tensor, momentum: float = 0.95, nesterov: bool = True,
        weight_decay: float = 0.0, nonfinite: str = "raise", plan: Iterable[Weight] | None = None,
    ) -> None:  # fmt: skip
        options = {"nesterov": nesterov, "weight_decay": weight_decay, "nonfinite": nonfinite}
        super().__init__(params, plan, lr=lr, momentum=momentum, **options)

    def _update(self, group: Any, states: Any, grads: Any, u: Tensor, views: list[Tensor]) -> None:
        super()._update(group, states, grads, u, views)
        if group["nesterov"]:  # g + momentum·(u - g)
            torch._foreach_lerp_(views, grads, 1 - group["momentum"])


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
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        numbers = value if pair else [value]
        if key == "lr" and isinstance(value, Tensor) and value.numel() == 1:
            numbers = [float(value)]
        good = all(isinstance(x, (int, float)) and low <= x < below for x in numbers)
        if not good or pair != (key == "betas"):
            raise ValueError(f"{key} must be at least {low} and below {below}, not {value!r}")
    if group["nonfinite"] not in ("raise", "skip"):
        raise ValueError(f"nonfinite must be 'raise' or 'skip', not {group['nonfinite']!r}")


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


# modnorm: end
