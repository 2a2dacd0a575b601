"""NormedAdam, NormedSGD and DualizedSGD: updates of a given size in the modular norm of a plan."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from .auto import automatic, automatic_step
from .norms import NORMS
from .plan import Weight
from .polar import polar_update
from .schemes import ACCURATE, BATCH, Scheme, Schemes
from .state import Item, Resumable, bare, check_options, differences, known_rate, some, wide

PLAN: tuple[Weight, ...] = ()
SCHEMES: dict[tuple[int, ...], Scheme] = Schemes()

# modnorm: begin
# The type in which an optimizer computes, for each type of parameter.
STATE_TYPES = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float32)
STATE_TYPES[torch.float64] = torch.float64
Batch = tuple[list[Item], Tensor, list[Tensor]]  # weights, memory for their u, its parts


class NormedOptimizer(Resumable):
    """w ← (1 - lr·target·weight_decay)·w - lr·target·u/‖u‖ for each weight w of the plan.

    ‖·‖ is the norm that the plan names for w (Large et al. 2024, arXiv 2405.14813); u is up to
    the subclass. It computes in float32, for float64 parameters in float64; 16-bit parameters are
    roundings of a float32 copy in the state. Options are read from the groups at every step.

    params: model.named_parameters(), or parameter groups with such pairs. ValueError unless they
        fit the plan (by default PLAN).
    nonfinite: "raise" a FloatingPointError before anything is changed if a gradient holds NaN,
        infinity or numbers too large to square; or "skip" that weight, counted in `skipped`. On a
        GPU the error comes one step late; the weights it names, or their rows, were left alone.
    missing: "raise" a ValueError if a weight has no gradient, or "skip" that weight. Weights of
        mass 0, or with requires_grad=False, need none.
    iterations: steps of power iteration a step, 1 to 10, where the norm is estimated by them.
    lr: "auto" makes a step size anew in each step (see `automatic_step`), left in the groups'
        "step_size"; a group's or a schedule's lr is then a factor of it, 1.0 at first.
    smoothness: for that, the loss's name in SMOOTHNESS, by default "cross_entropy", or its λ.
    """

    moments: tuple[str, ...] = ("momentum",)  # the parts of a state that have the weight's shape
    dual = False  # is the update the image of u under the duality map?
    launches: Any = None  # what moves weights on a GPU, if there is one

    def __init__(self, params: Any, plan: Iterable[Weight] | None, **options: Any) -> None:
        self.plan = PLAN if plan is None else tuple(Weight(*record) for record in plan)
        self.skipped: dict[str, int] = {}
        self._items: list[Item] = []
        super().__init__(params, automatic(options))
        self.match()
        for _, p, w in self._items:
            if p.requires_grad and w.target:
                self.state[p] = self.fresh(p, w)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """For the constructor; afterwards all weights of the plan have a group."""
        if self._items:
            raise ValueError("no weight of the plan is left: give the constructor all groups")
        super().add_param_group(param_group)

    def match(self) -> None:
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
        self._order = {w.name: i for i, w in enumerate(self.plan)}
        self._batches: dict[torch.device, list[Batch]] = {}
        self._launched: list[Any] = []  # one for each device and type on a GPU
        self._on_gpu: set[Tensor] = set()
        self._late: list[Item] = []  # weights there for which an error is due
        self._grouped: Any = None
        self._types: dict[str, torch.dtype] = {}  # of the parameters, when states were made
        self._ones: dict[torch.device, Tensor] = {}
        self._factors: dict[str, Any] = {}  # by name, what gave the last update norm 1

    def fresh(self, p: Tensor, w: Weight) -> dict[str, Tensor]:
        """The state of a weight before its first step."""
        if not w.target:
            return {}
        dtype = STATE_TYPES[p.dtype]
        state = {name: torch.zeros(w.shape, dtype=dtype, device=p.device) for name in self.moments}
        if (norm := NORMS[w.norm]).vector and not self.dual:
            seed = torch.Generator().manual_seed(self._order[w.name])
            vector = torch.randn(norm.vector_shape(w.shape), generator=seed)
            state["vector"] = vector.to(p.device, dtype)
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
        if self._grouped != (grouping := [group.get("iterations") for group in self.param_groups]):
            self._group()
            self._grouped = grouping
        ready = self._ready()
        for launched in self._launched:
            launched.step(self)
        if "smoothness" in self.param_groups[0]:
            automatic_step(self, ready)
            return loss
        for batches in self._batches.values():
            for batch in self._chosen(batches, ready):
                self._move(*batch)
        return loss

    def _ready(self) -> set[int]:
        """The ids of the items to move now. What can fail fails here, before any change."""
        for group in self.param_groups:
            check_options(group)
        items, grads, missing, changed, large = [], [], [], [], []
        for item in self._items:
            group, p, w = item
            if w.target and p.requires_grad:
                if (grad := p.grad) is not None:
                    if known_rate(group) * w.target > torch.finfo(STATE_TYPES[p.dtype]).max:
                        large.append(f"{w.name} (target {w.target:.3g})")
                    if grad.layout != torch.strided:
                        raise ValueError(
                            "sparse gradients are not supported; sparse=False gives dense ones"
                        )
                    if p.dtype != (made := self._types[w.name]):
                        changed.append(f"{w.name} from {made} to {p.dtype}")
                    if p not in self._on_gpu:
                        items.append(item)
                        grads.append(grad)
                elif group["missing"] == "raise":
                    missing.append(w.name)
        if changed:
            raise ValueError(
                f"parameters that changed their type after their state was made: {some(changed)}. "
                "Make a new optimizer for them, or give them their type back"
            )
        if missing:
            raise ValueError(
                f"no gradient for {some(missing)}: the loss does not depend on it, or backward() "
                "was not called. Freeze it with requires_grad_(False), or pass missing='skip'"
            )
        if large:
            raise ValueError(
                f"lr times the target is more than a float can hold for {some(large)}. Nothing was "
                "changed. Lower lr, or bring the model's targets nearer to each other"
            )
        self._count_lost()
        late, self._late = self._late, []
        self._refuse(late, "The other weights, or rows, were moved")
        if not items:
            return set()
        types = [STATE_TYPES[p.dtype] for _, p, _ in items]
        norms = torch._foreach_norm(grads, 2, max(set(types), key=lambda dtype: dtype.itemsize))
        if any(norm.is_cpu for norm in norms):
            sizes = [norm.item() for norm in norms]
        else:
            sizes = torch.stack([norm.to(norms[0].device) for norm in norms]).tolist()
        limits = {dtype: math.sqrt(torch.finfo(dtype).max) for dtype in set(types)}
        lost = [x for x, n, dtype in zip(items, sizes, types, strict=True) if not n < limits[dtype]]
        self._refuse(lost, "Nothing was changed")
        return {id(x) for x in items} - {id(x) for x in lost}

    def _count_lost(self, wait: bool = False) -> None:
        """Learn what weights on a GPU were left out of steps."""
        for launched in self._launched:
            for item in launched.lost_since(wait) if not launched.capturing() else ():
                if item[0]["nonfinite"] == "raise":
                    self._late.append(item)
                else:
                    self._refuse([item], "")

    def _refuse(self, lost: list[Item], changed: str) -> None:
        """Count weights whose gradients are not finite, or raise an error that names them."""
        if names := [w.name for group, _, w in lost if group["nonfinite"] == "raise"]:
            raise FloatingPointError(
                f"gradients with NaN, infinity or numbers too large to square: {some(names)}. "
                f"{changed}. Look at the loss and at lr, unscale a scaled loss first, or pass "
                "nonfinite='skip' to leave such weights out of a step"
            )
        for _, _, w in lost:
            self.skipped[w.name] = self.skipped.get(w.name, 0) + 1

    def _group(self) -> None:
        """Make, for each device, batches of weights of one group and type, with memory for u."""
        self._types = self._types or {w.name: p.dtype for _, p, w in self._items}
        alike: dict[Any, list[Item]] = defaultdict(list)
        on_gpu: dict[Any, list[Item]] = defaultdict(list)
        for item in self._items:
            group, p, w = item
            if state := self.state.get(p):  # made before the parameter went to a device, say
                fresh = self.fresh(p, w).items()
                self.state[p] = {key: state.get(key, x).to(x) for key, x in fresh}
            if w.target and self.launches and self.launches.take(self, group, p, w):
                on_gpu[p.device, p.dtype].append(item)
            elif w.target:
                stack = (w.norm, p.shape) if self._stacks(p.device) else None
                alike[p.device, p.dtype, id(group), stack].append(item)
        batches: dict[torch.device, list[Batch]] = defaultdict(list)
        memory: dict[Any, Tensor] = {}
        largest, total = (f(p.numel() for _, p, _ in self._items) for f in (max, sum))
        for (device, dtype, _, _), like in alike.items():
            # On a CPU a batch is to stay in the second-level cache from the first pass to the
            # last; where products are most of the time, fewer and larger ones are faster.
            entries = 1 << 18 if device.type == "cpu" and not self.dual else BATCH
            if (device, dtype) not in memory:
                size, wide = max(min(entries, total), largest), STATE_TYPES[dtype]
                memory[device, dtype] = torch.zeros(size, dtype=wide, device=device)
            used = entries
            for item in like:
                shape, size = item[1].shape, item[1].numel()
                if used + size > entries:
                    batches[device].append(([], memory[device, dtype], []))
                    used = 0
                items, room, views = batches[device][-1]
                items.append(item)
                views.append(room[used : used + size].view(shape))
                used += size
        self._batches, self._room = dict(batches), dict[str, Tensor]()
        self._on_gpu = {p for like in on_gpu.values() for _, p, _ in like}
        self._launched = [self.launches(like, self.moments) for like in on_gpu.values()]
        self._factors = {k: x for run in self._launched for k, x in run.factors_by_name()}
        self._ones = {device: torch.ones((), device=device) for device in batches}

    def _stacks(self, device: torch.device) -> bool:
        """Are batches of one norm and shape, and stacked? Not where products go one by one."""
        return self.dual or device.type != "cpu"

    def _chosen(self, batches: list[Batch], ready: set[int]) -> Iterator[Batch]:
        """Those weights of a device that are ready, in their batches."""
        for items, memory, views in batches:
            if ready.issuperset(map(id, items)):
                yield items, memory, views
            elif left := [i for i, item in enumerate(items) if id(item) in ready]:
                yield [items[i] for i in left], memory, [views[i] for i in left]

    def _move(self, items: list[Item], memory: Tensor, views: list[Tensor]) -> None:
        """One step of the weights of a batch; views are the parts of its memory, one for each."""
        states, updates = self._take_in(items, memory, views)
        weights = wide(items, states, memory.dtype)
        self._apply(items, states, weights, updates, memory)
        if weights[0] is not items[0][1]:
            torch._foreach_copy_([p for _, p, _ in items], weights)

    def _take_in(self, items: list[Item], memory: Tensor, views: list[Tensor]) -> Any:
        """The states of weights, with their gradients taken in, and their updates."""
        grads = []
        for _, p, w in items:
            if not self.state[p]:
                self.state[p].update(self.fresh(p, w))
            grad: Any = p.grad
            if grad.dtype != memory.dtype or not grad.is_contiguous():
                grad = grad.to(memory.dtype).contiguous()
            grads.append(grad)
        states = [self.state[p] for _, p, _ in items]
        return states, self._update(items[0][0], states, grads, views)

    def _apply(
        self, items: list[Item], states: Any, weights: Any, updates: Any, memory: Tensor
    ) -> None:
        """Measure and apply the updates of a batch."""
        if self._stacks(memory.device):
            return self._apply_stack(items, states, weights, updates, memory)
        group = items[0][0]
        lr, decay, iterations = float(group["lr"]), group["weight_decay"], group["iterations"]
        for (_, _, w), state, p, u in zip(items, states, weights, updates, strict=True):
            factor = NORMS[w.norm].scale(u, state.get("vector"), iterations)
            self._factors[w.name] = factor
            apply(p, u, factor, lr * w.target, decay)

    def _apply_stack(
        self, items: list[Item], states: Any, weights: Any, updates: Any, memory: Tensor
    ) -> None:
        """Measure and apply the updates of a batch in one stack."""
        (group, _, w), shape = items[0], (len(items), *items[0][2].shape)
        u = memory[: math.prod(shape)].view(shape)
        views = list(u.unbind())
        torch._foreach_copy_(views, updates)
        vectors = [state["vector"] for state in states if "vector" in state]
        new = torch.stack(vectors) if vectors else None
        for _ in range(group["iterations"] if vectors else 1):
            factor, new = NORMS[w.norm].measure(u, new)
        factors = list(factor.unbind())
        if new is not None:
            torch._foreach_copy_(vectors, list(new.unbind()))
        self._factors.update(zip([w.name for _, _, w in items], factors, strict=True))
        lr, decay = float(group["lr"]), group["weight_decay"]
        if decay:
            torch._foreach_mul_(weights, [1 - lr * w.target * decay for _, _, w in items])
        torch._foreach_addcmul_(weights, views, factors, [-lr * w.target for _, _, w in items])

    def _update(self, group: Any, states: Any, grads: Any, views: list[Tensor]) -> list[Tensor]:
        """Take in the gradients; the updates, before their norm: in views, or part of the state."""
        momentum = [state["momentum"] for state in states]
        torch._foreach_lerp_(momentum, grads, 1 - group["momentum"])
        return momentum

    def _direction(self, group: Any, p: Tensor) -> Tensor:
        """The last u of a weight, made once more from its state."""
        momentum: Tensor = self.state[p]["momentum"]
        return momentum.double()

    def _scaled(self, group: Any, p: Tensor, w: Weight) -> Tensor:
        """The last update over lr·target, as a stack of one."""
        scaled: Tensor = self._direction(group, p).unsqueeze(0) * self._factors[w.name]
        return scaled

    @torch.no_grad()
    def slack(self) -> dict[str, float]:
        """By how much the last update of each matrix and kernel missed its size: ‖update‖/target.

        The norm is exact (`Norm.exact`), in float64. Power iteration bounds σ_max from below, so
        updates are too large if anything, and this is at least 1 up to rounding; it is 0 for an
        update of zeros. DualizedSGD's updates are orthogonal up to an error of the map. Left out
        are weights whose norm is exact, and those that did not move since the optimizer was made
        or loaded. Options and gradients have to be still what they were in the last step.
        """
        found = {}
        for group, p, w in self._items:
            if (norm := NORMS[w.norm]).vector and w.name in self._factors:
                found[w.name] = norm.exact(self._scaled(group, p, w)).item()
        return found

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on bit for bit, as `load_state_dict` takes it."""
        self._count_lost(wait=True)
        return super().state_dict()


class NormedAdam(NormedOptimizer):
    """u is Adam's update (Kingma & Ba 2015, arXiv 1412.6980); see NormedOptimizer.

    eps only guards 0/0; the bias corrections, one factor a weight, drop out.
    """

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, params: Any, lr: float | Tensor | str, betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-15, weight_decay: float = 0.0, nonfinite: str = "raise",
        missing: str = "raise", iterations: int = 1, plan: Iterable[Weight] | None = None,
        smoothness: float | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, plan, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
            nonfinite=nonfinite, missing=missing, iterations=iterations, smoothness=smoothness,
        )  # fmt: skip

    def _update(self, group: Any, states: Any, grads: Any, views: list[Tensor]) -> list[Tensor]:
        first, second = ([state[name] for state in states] for name in self.moments)
        # torch's fused kernel makes both moments and u in one pass: Adam with lr -1 on zeros, and
        # zeros by a decay of all that the memory held.
        fused = views[0].device.type in ("cpu", "cuda") and hasattr(torch, "_fused_adamw_")
        run: Any = torch._fused_adamw_ if fused else partial(adam, decoupled_weight_decay=True)
        one = self._ones[views[0].device]
        run(
            views, grads, first, second, [], [one if fused else one.clone()] * len(views),
            lr=-1.0, beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"],
            weight_decay=-1.0, amsgrad=False, maximize=False,
        )  # fmt: skip
        if group["eps"] < 1e-15:  # then float32 may not hold a moment that is divided by it
            for u in views:
                u.nan_to_num_(0.0, 0.0, 0.0)
        return views

    def _direction(self, group: Any, p: Tensor) -> Tensor:
        (beta1, beta2), state = group["betas"], self.state[p]
        first, second = (state[name].double() for name in self.moments)
        u: Tensor = first / (1 - beta1) / ((second / (1 - beta2)).sqrt() + group["eps"])
        return u


class NormedSGD(NormedOptimizer):
    """u is a running average of the gradients; see NormedOptimizer."""

    def __init__(
        self, params: Any, lr: float | Tensor | str, momentum: float = 0.9,
        weight_decay: float = 0.0, nonfinite: str = "raise", missing: str = "raise",
        iterations: int = 1, plan: Iterable[Weight] | None = None,
        smoothness: float | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, plan, lr=lr, momentum=momentum, weight_decay=weight_decay,
            nonfinite=nonfinite, missing=missing, iterations=iterations, smoothness=smoothness,
        )  # fmt: skip


class DualizedSGD(NormedOptimizer):
    """u/‖u‖ is the duality map of a running average of the gradients (arXiv 2410.21265).

    For matrices that is orthogonalisation, by as many steps as SCHEMES says for their shape:
    singular values end in a band around 1 that POLAR states, from [0.59, 1.41] for 3 steps to
    [0.995, 1] for 6. steps: 3 to 6 for all of them. nesterov: as in Muon, the gradient counts
    once more.
    """

    dual = True

    def __init__(
        self, params: Any, lr: float | Tensor | str, momentum: float = 0.8, nesterov: bool = True,
        weight_decay: float = 0.0, nonfinite: str = "raise", missing: str = "raise",
        steps: int | None = None, plan: Iterable[Weight] | None = None,
        smoothness: float | str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, plan, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay,
            nonfinite=nonfinite, missing=missing, steps=steps, smoothness=smoothness,
        )  # fmt: skip

    def match(self) -> None:
        super().match()
        self._work: dict[Any, Tensor] = {}

    def _update(self, group: Any, states: Any, grads: Any, views: list[Tensor]) -> list[Tensor]:
        if not group["nesterov"]:
            return super()._update(group, states, grads, views)
        for state, grad, view in zip(states, grads, views, strict=True):
            average = state["momentum"].lerp_(grad, 1 - group["momentum"])
            torch.lerp(average, grad, 1 - group["momentum"], out=view)
        return views

    def _apply_stack(
        self, items: list[Item], states: Any, weights: Any, updates: Any, memory: Tensor
    ) -> None:
        (group, _, w), shape = items[0], (len(items), *items[0][2].shape)
        u = memory[: math.prod(shape)].view(shape)
        for view, update in zip(u.unbind(), updates, strict=True):
            if view.data_ptr() != update.data_ptr():
                view.copy_(update)
        self._factors.update(dict.fromkeys((w.name for _, _, w in items), 1.0))
        if w.norm == "spectral":
            targets, factor = [w.target for _, _, w in items], math.sqrt(w.shape[-2] / w.shape[-1])
            scheme, lr, decay = self._scheme(group, w), group["lr"], group["weight_decay"]
            if polar_update(u, scheme, factor, weights, lr, decay, targets):
                return
        duals = self._dualize(group, w, u).unbind()
        for (_, _, w), p, dual in zip(items, weights, duals, strict=True):
            apply(p, dual, 1.0, float(group["lr"]) * w.target, group["weight_decay"])

    def _scheme(self, group: Any, w: Weight) -> Scheme:
        scheme = SCHEMES.get(tuple(w.shape), Scheme("plain", ACCURATE))
        return scheme if group["steps"] is None else scheme._replace(steps=group["steps"])

    def _dualize(self, group: Any, w: Weight, u: Tensor) -> Tensor:
        return NORMS[w.norm].dualize(u, self._scheme(group, w), self._work)

    def _direction(self, group: Any, p: Tensor) -> Tensor:
        u = super()._direction(group, p)
        if group["nesterov"] and p.grad is not None:
            u = u.lerp(p.grad.double(), 1 - group["momentum"])  # not in the state
        return u

    def _scaled(self, group: Any, p: Tensor, w: Weight) -> Tensor:
        u = self._direction(group, p).to(STATE_TYPES[p.dtype], copy=True)
        return self._dualize(group, w, u.unsqueeze(0)).double()


def apply(p: Tensor, u: Tensor, factor: float | Tensor, size: float, decay: float) -> None:
    """p ← (1 - size·decay)·p - size·factor·u, in one pass if factor is a number."""
    if isinstance(factor, Tensor):
        if decay:
            p.mul_(1 - size * decay)
        p.addcmul_(u, factor, value=-size)
    elif decay and factor and p.is_contiguous() and u.is_contiguous():
        torch._fused_sgd_(
            [p], [u], [], lr=size * factor, weight_decay=decay / factor, momentum=0.0,
            dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip
    else:
        if decay:
            p.mul_(1 - size * decay)
        p.add_(u, alpha=-size * factor)


# modnorm: end
