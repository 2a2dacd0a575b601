"""The optimizer of a plan: what a rule makes of gradients, each weight's at its target's size."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from . import column, frobenius, row, sign, spectral_groups  # noqa: F401  norms, into NORMS
from .auto import automatic, automatic_step, watch
from .plan import NORMS, Plan, level
from .rule import Rule
from .schemes import BATCH
from .state import (
    Item,
    Resumable,
    check_keys,
    check_options,
    differences,
    full,
    is_shared,
    known_rate,
    local,
    narrow,
    some,
    wide,
)
from .weight import PARTS, Weight, plan_names

# modnorm: begin
# The type in which an optimizer computes, for each type of parameter.
STATE_TYPES = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float32)
STATE_TYPES[torch.float64] = torch.float64
GRADIENTS = "gradients with NaN, infinity or numbers too large to square"
WRITTEN = "weights or moments with NaN or infinity, or a step that would make them so"
TINY = "gradients so small that nothing of them is left in an update"
LOW = 0.004  # a learning rate from here on is not taken for a habit from another optimizer
TURNS = 16  # so often, counted in steps, a weight is looked at for what no norm shows
Batch = tuple[list[Item], Tensor, list[Tensor]]  # weights, memory for their u, its parts


class NormedOptimizer(Resumable):
    """w ← (1 - lr·target·weight_decay)·w - lr·target·u/‖u‖ for each weight w of the plan.

    ‖·‖ is the norm that the plan names for w (Large et al. 2024, arXiv 2405.14813); u is up to
    the subclass. It computes in float32, for float64 parameters in float64; 16-bit parameters are
    roundings of a float32 copy in the state. Options are read from the groups at every step.
    A weight that stays as it is since its gradients are too small for any update is counted in
    `skipped` and warned of once, on a GPU one step late: there kernels square updates as they are,
    which NormedSGD's can't be below 1e-19.

    params: model.named_parameters(), or parameter groups with such pairs. ValueError unless they
        fit the plan (by default the file's PLAN). Weights of mass 0 may be left out.
    nonfinite: "raise" a FloatingPointError before anything is changed if a gradient holds NaN,
        infinity or numbers too large to square; or "skip" that weight, counted in `skipped`. On a
        GPU the error comes one step late; the weights it names, or their rows, were left alone.
        The same holds for what a step would write, but the error comes once others have moved, and
        where kernels move a weight, only those entries stay that would not be finite.
    missing: "raise" a ValueError if a weight has no gradient, or "skip" that weight. Weights of
        mass 0, or with requires_grad=False, need none. With "skip" weights may be left out of
        params: pass those that are trained, and the others stay as they are.
    iterations: steps of power iteration a step, 1 to 10, where the norm is estimated by them.
    lr: the modular norm of a step, 0.1 to 1 for most models; a far smaller one gives a warning.
        "auto" makes a step size anew in each step (see `automatic_step`), left in the groups'
        "step_size"; a group's or a schedule's lr is then a factor of it, 1.0 at first.
    smoothness: for that, the loss's name in PLAN.smoothness, by default "cross_entropy", or its λ.
    """

    rule: type[Rule]  # what makes u from gradients
    default_plan = Plan()  # a generated file's
    dual = False  # is the update the image of u under the duality map?
    _said_tiny = False
    launches: Any = None  # what moves weights on a GPU, if there is one
    shards: Any = None  # what moves DTensors: not in a file that needs torch alone
    _seen: Any = None
    _types: dict[str, torch.dtype]

    def __init__(self, params: Any, plan: Iterable[Weight] | None, **options: Any) -> None:
        self.plan = self.default_plan if plan is None else self.default_plan.of(plan)
        self.skipped: dict[str, int] = {}
        self._items, self._known, self._aside = [], {}, {}
        super().__init__(params, automatic(options, self.plan.smoothness))
        rates = [group["lr"] for group in self.param_groups]
        if low := [lr for lr in rates if isinstance(lr, Real) and 0 < float(lr) < LOW]:
            warnings.warn(
                f"lr={low[0]} is far below any that works: it is the modular norm of a step, and "
                "good ones are 0.1 to 1, whatever the model's size",
                stacklevel=3,
            )
        self.match(whole=True)
        if not any(p.requires_grad for _, p, _ in self._items):
            raise ValueError(
                "none of these parameters needs a gradient, so nothing would be trained: pass "
                "model.named_parameters(), since state_dict() has detached copies"
            )
        for _, p, w in self._items:
            if p.requires_grad:
                self.state[p] = self.fresh(p, w)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """A group more, of weights that are in none yet. ValueError, and nothing changed, else."""
        if self._items and len(self._items) == len(self.plan.stored):
            raise ValueError("no weight of the plan is left: give the constructor all groups")
        check_keys(param_group, self.defaults, type(self).__name__)
        super().add_param_group(param_group)
        if self._items:
            try:
                self.follow()
            except ValueError:
                self.param_groups.pop()
                raise

    def match(self, whole: bool = False) -> None:
        """Find the record of every parameter by its name, or say all that does not fit.

        One that is known keeps its record. With `whole`, no weight that is trained may be missing.
        """
        given, items, seen = dict[str, str](), list[Item](), set()
        records = {w.name: w for w in self.plan.stored}
        for group, name, p in self._named():
            if w := records.get(name):
                items.append((group, p, w))
            kind = "floating" if p.dtype in STATE_TYPES else p.dtype
            twice = name in given or p in seen
            given[name] = "given twice" if twice else f"{kind} {tuple(p.shape)}"
            seen.add(p)
        needed = {
            w.name for w in self.plan.stored if w.target and self.defaults["missing"] == "raise"
        }
        needed = given.keys() | (needed if whole else set())
        fit = {w.name: f"floating {tuple(w.shape)}" for w in self.plan.stored if w.name in needed}
        if wrong := differences(given, fit):
            raise ValueError(
                f"parameters that do not fit the plan of {len(self.plan)} weights: {some(wrong)}. "
                "Pass all of model.named_parameters() of the model that the plan was made for; "
                "with missing='skip' frozen ones may be left out. Others need an optimizer of "
                "their own, or a record in plan="
            )
        if shared := [(p, w) for _, p, w in items if is_shared(p)]:
            if self.shards is None:
                raise ValueError(
                    f"sharded parameters (DTensor) in a file that needs torch alone: "
                    f"{some([w.name for _, w in shared])}. What steps them is in modnorm's runtime:"
                    " compile without --standalone"
                )
            self.shards.check(self, shared)
        for group in self.param_groups:
            group.update(self._identity(), param_names=[])
            group.setdefault("skipped", ())
        for group, _, w in items:
            group["param_names"].append(w.name)
        left = self.state.keys() & self._known.keys() - seen
        self._aside = self._aside | {p: self.state.pop(p) for p in left}
        self.state.update({p: self._aside.pop(p) for p in self._aside.keys() & seen})
        self._known = self._known | {p: w for _, p, w in items}
        self._seen = self._groups()
        self._largest = max((w.target for w in self.plan), default=0.0)
        self._items = items
        self._order = {w.name: i for i, w in enumerate(self.plan.stored)}
        self._batches: dict[torch.device, list[Batch]] = {}
        self._launched: list[Any] = []  # one for each device and type on a GPU
        self._on_gpu: set[Tensor] = set()
        self._shared: Any = None  # the DTensors
        self._late: list[tuple[Item, str]] = []  # weights there for which an error is due, and why
        self._marks: list[tuple[list[Item], Tensor]] = []  # what stacks there left alone
        self._grouped: Any = None
        self._types: dict[str, torch.dtype] = {}  # of the parameters, when states were made
        self._factors: dict[str, Any] = {}  # by name, what gave the last update norm 1
        self._new_vectors: set[str] = set()  # of these weights, that have not been in a step
        self._norms: list[list[float]] | None = []
        self._tiny: list[str] = []  # whose gradient is too small for its type
        self._spoiled: list[Item] = []  # weights that a step must not write to

    def _named(self) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
        """The parameters of the groups, with their groups and the plan's names for them."""
        pairs = list[Any]()
        for group in self.param_groups:
            check_options(group)
            own = group.get("param_names", [])
            if len(own) != len(group["params"]):  # some were taken out of the group, say
                own = [None] * len(group["params"])
            pairs += zip([group] * len(own), own, group["params"], strict=True)
        strangers = [name for _, name, p in pairs if p not in self._known]
        if None in strangers:
            raise ValueError("parameters need their names: pass model.named_parameters()")
        found = iter(plan_names(strangers, self.plan.stored))
        for group, _, p in pairs:
            yield group, self._known[p].name if p in self._known else next(found), p

    def _groups(self) -> list[Any]:
        """What tells whether the groups, or the weights in them, have changed."""
        return [(id(group), *map(id, group["params"])) for group in self.param_groups]

    def follow(self) -> None:
        """Take the groups as they are now: others may be there, or fewer weights in them."""
        if self._seen != self._groups():
            self._count_lost()
            types, late = self._types, self._late
            self.match()
            self._types, self._late = types, late

    def fresh(self, p: Tensor, w: Weight) -> dict[str, Tensor]:
        """The state of a weight before its first step."""
        if not w.target:
            return {}
        dtype = STATE_TYPES[p.dtype]
        kind: Any = {"dtype": dtype, "memory_format": torch.contiguous_format}
        state = {name: torch.zeros_like(p, **kind) for name in self.moments}
        if not self.dual and (shapes := self._vector_shapes(w)):
            # Those of several weights stand one after the other.
            own = w.norm != PARTS
            shape = shapes[w.name] if own else (sum(map(math.prod, shapes.values())),)
            state["vector"] = torch.zeros(shape, dtype=dtype, device=p.device)
        if p.dtype != dtype:
            state["master"] = p.detach().to(dtype).contiguous()
        return state

    def _vector_shapes(self, w: Weight) -> dict[str, tuple[int, ...]]:
        """By name, the shapes of the vectors of the weights that a parameter holds."""
        own = [x for x in self.plan.held(w) if x.target and NORMS[x.norm].vector]
        return {x.name: NORMS[x.norm].vector_shape(x.shape) for x in own}

    def _vectors(self, p: Tensor, w: Weight) -> dict[str, Tensor]:
        """By name, those vectors, where they have been made."""
        vector, shapes = self.state.get(p, {}).get("vector"), self._vector_shapes(w)
        if vector is None:
            return {}
        sizes = list(map(math.prod, shapes.values()))
        parts = vector.flatten().split(sizes)
        return {name: x.view(shapes[name]) for name, x in zip(shapes, parts, strict=True)}

    def weights(self) -> list[Item]:
        """The weights of the plan, with the parameters that hold them and these' groups."""
        return [(group, p, x) for group, p, w in self._items for x in self.plan.held(w)]

    @torch._disable_dynamo  # type: ignore[attr-defined]
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the weights that have a gradient; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.follow()
        if self._grouped != (grouping := [group.get("iterations") for group in self.param_groups]):
            self._group()
            self._grouped = grouping
        ready = self._ready()
        for launched in self._launched:
            launched.step(self)
        if self._shared:
            self._shared.step(self, ready)
        if "smoothness" in self.defaults:
            automatic_step(self, ready)
        else:
            for batches in self._batches.values():
                for batch in self._chosen(batches, ready):
                    self._move(*batch)
        self._turn += 1
        self._count_tiny()
        spoiled, self._spoiled = self._spoiled, []
        self._refuse(spoiled, "The other weights were moved", WRITTEN)
        return loss

    def _ready(self) -> set[int]:
        """The ids of the items to move now. What can fail fails here, before any change."""
        for group in self.param_groups:
            check_options(group)
        if self._shared:
            self._shared.look()
        items, grads, missing, changed, large = [], [], [], [], []
        for item in self._items:
            group, p, w = item
            if w.target and p.requires_grad:
                if (grad := p.grad) is not None:
                    most = torch.finfo(STATE_TYPES[p.dtype]).max
                    if group["nonfinite"] == "raise" and known_rate(group) * w.target > most:
                        large.append(f"{w.name} (target {w.target:.3g})")
                    if grad.layout != torch.strided:
                        raise ValueError(
                            "sparse gradients are not supported; sparse=False gives dense ones"
                        )
                    if p.dtype != (made := self._types[w.name]):
                        changed.append(f"{w.name} from {made} to {p.dtype}")
                    if p not in self._on_gpu:
                        items.append(item)
                        grads.append(local(grad))
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
                "was not called. Freeze it with requires_grad_(False), or pass missing='skip'. "
                "Or it is no parameter of the model any more: load_state_dict(assign=True), "
                "to_empty() and fully_shard() put others in its place; make the optimizer after it"
            )
        if large:
            raise ValueError(
                f"lr times the target is more than a float can hold for {some(large)}. Nothing was "
                "changed. Lower lr, or bring the model's targets nearer to each other"
            )
        self._count_lost()
        late, self._late = self._late, []
        why = " or ".join(dict.fromkeys(what for _, what in late))
        self._refuse([item for item, _ in late], "The other weights, or rows, were moved", why)
        if not items:
            return set()
        types = [STATE_TYPES[p.dtype] for _, p, _ in items]
        norms = torch._foreach_norm(grads, 2, max(set(types), key=lambda dtype: dtype.itemsize))
        if any(norm.is_cpu for norm in norms):
            sizes = [norm.item() for norm in norms]
        else:
            sizes = torch.stack([norm.to(norms[0].device) for norm in norms]).tolist()
        if self._shared:  # those of all ranks
            known = self._shared.sizes
            sizes = [known.get(p, n) for (_, p, _), n in zip(items, sizes, strict=True)]
        limits = {dtype: math.sqrt(torch.finfo(dtype).max) for dtype in set(types)}
        lost = [x for x, n, dtype in zip(items, sizes, types, strict=True) if not n < limits[dtype]]
        self._refuse(lost, "Nothing was changed")
        if "smoothness" in self.defaults:
            self._norms = watch(self._norms, sizes)
        return {id(x) for x in items} - {id(x) for x in lost}

    def _count_lost(self, wait: bool = False) -> None:
        """Learn what weights on a GPU were left out of steps."""
        found = list[tuple[Item, str]]()
        for launched in self._launched:
            found += launched.lost_since(wait) if not launched.capturing() else ()
        marks, self._marks = self._marks, []
        for items, told in marks:
            for what, flags in zip((WRITTEN, TINY), told.tolist(), strict=True):
                found += [(item, what) for item, flag in zip(items, flags, strict=True) if flag]
        for item, what in found:
            if what == TINY:
                self._tiny.append(item[2].name)
            elif item[0]["nonfinite"] == "raise":
                self._late.append((item, what))
            else:
                self._refuse([item], "")
        self._count_tiny()

    def _count_tiny(self) -> None:
        """Count weights that did not move since all of their update is 0 in its type."""
        tiny, self._tiny = self._tiny, []
        for name in tiny:
            self.skipped[name] = self.skipped.get(name, 0) + 1
        if tiny and not self._said_tiny:
            self._said_tiny = True
            warnings.warn(
                f"{TINY}: {some(tiny)}. "
                "Multiply the loss by a constant: normed updates do not depend on its size",
                stacklevel=3,
            )

    def _refuse(self, lost: list[Item], changed: str, what: str = GRADIENTS) -> None:
        """Count weights that a step leaves out, or raise an error that names them and says why."""
        if names := [w.name for group, _, w in lost if group["nonfinite"] == "raise"]:
            raise FloatingPointError(
                f"{what}: {some(names)}. "
                f"{changed}. Look at the loss and at lr, unscale a scaled loss first, or pass "
                "nonfinite='skip' to leave such weights out of a step"
            )
        for _, _, w in lost:
            self.skipped[w.name] = self.skipped.get(w.name, 0) + 1

    def _group(self) -> None:
        """Make, for each device, batches of weights of one group and type, with memory for u."""
        self._types = {w.name: p.dtype for _, p, w in self._items} | self._types
        alike: dict[Any, list[Item]] = defaultdict(list)
        on_gpu: dict[Any, list[Item]] = defaultdict(list)
        shared = list[Item]()
        for item in self._items:
            group, p, w = item
            if state := self.state.get(p):  # made before the parameter went to a device, say
                state.update({k: state.get(k, x).to(x) for k, x in self.fresh(p, w).items()})
            if w.target and is_shared(p):
                shared.append(item)
            elif w.target and self.launches and self.launches.take(self, group, p, w):
                on_gpu[p.device, p.dtype].append(item)
            elif w.target:
                own = self.plan.held(w)
                kinds = tuple((x.norm, x.shape, x.layout and x.layout[1:]) for x in own)
                stack = kinds if self._stacks(p.device) else None
                alike[p.device, p.dtype, id(group), stack].append(item)
        batches: dict[torch.device, list[Batch]] = defaultdict(list)
        memory: dict[Any, Tensor] = {}
        self._shared = self.shards(self, shared) if shared else None
        sizes = [p.numel() for like in alike.values() for _, p, _ in like]
        largest, total = max(sizes, default=0), sum(sizes)
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
        vectors = [self._vectors(p, w) for _, p, w in self._items]
        self._new_vectors = {
            name for own in vectors for name, x in own.items() if x.is_meta or not x.any()
        }
        self._turn = 0
        self._batches, self._room = dict(batches), dict[str, Tensor]()
        self._on_gpu = {p for like in on_gpu.values() for _, p, _ in like}
        self._launched = [self.launches(like, self.rule, self.plan) for like in on_gpu.values()]
        self._factors = {k: x for run in self._launched for k, x in run.factors_by_name()}

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
        items, states, weights, updates = self._take_in(items, memory, views)
        before = self._before(items, weights, float(items[0][0]["lr"])) if items else None
        if before is not None:
            self._map(items, states, weights, updates, memory)
            self._settle(items, weights, before)

    def _take_in(self, items: list[Item], memory: Tensor, views: list[Tensor]) -> Any:
        """Take in gradients; the weights that are sound, with states, wide values and updates."""
        grads, states = [], []
        for _, p, w in items:
            states.append(self.complete(p, w))
            grad: Any = p.grad
            if grad.dtype != memory.dtype or not grad.is_contiguous():
                grad = grad.to(memory.dtype).contiguous()
            grads.append(grad)
        updates = self.rule.update(items[0][0], states, grads, views)
        found: Any = (items, states, wide(items, states, memory.dtype), updates)
        if not (bad := self._unsound(*found[:3])):
            return found
        self._spoiled += [items[i] for i in bad]
        left = [i for i in range(len(items)) if i not in bad]
        # Copies, since a stack of those left has its memory where some of these are.
        return [[x[i].clone() if x is updates else x[i] for i in left] for x in found]

    def _unsound(self, items: list[Item], states: Any, weights: list[Tensor]) -> set[int]:
        """Which of these have a weight or moments with NaN or infinity, of those looked at now.

        That is each one in the first step, and then in one of TURNS, so that it costs little time;
        always where time goes into products. Later, norms show what is in moments, but for a map.
        """
        whole = not self._turn or (self.dual and weights[0].is_cpu)
        turn, names = self._turn % TURNS, self.moments if whole or self.dual else ()
        looked = [i for i, x in enumerate(items) if whole or self._order[x[2].name] % TURNS == turn]
        parts = {i: [weights[i], *(states[i][name] for name in names)] for i in looked}
        sums = [x.sum() for i in looked for x in parts[i]]
        sizes = (
            [x.item() for x in sums]
            if weights[0].is_cpu or not sums
            else torch.stack(sums).tolist()
        )
        if all(map(math.isfinite, sizes)):
            return set()
        return {i for i in looked for x in parts[i] if not x.isfinite().all()}

    def _before(self, items: list[Item], weights: list[Tensor], lr: float) -> Any:
        """What to keep of weights that a step could take out of their type; None: don't take it."""
        decay, most = items[0][0]["weight_decay"], 1e19  # squares of it have no place in float32
        size = lr * self._largest  # of the whole plan, which nearly always will do
        if not (size < most and size * decay <= 2):
            most = torch.finfo(weights[0].dtype).max ** 0.5
            size = lr * max(w.target for _, _, w in items)
        if not (size < most and size * decay < most):
            self._spoiled += items
            return None
        return [w.clone() for w in weights] if size * decay > 2 else []  # above 2 weights grow

    def _settle(self, items: list[Item], weights: list[Tensor], before: list[Tensor]) -> None:
        """End the step of a batch: what it would have spoiled stays as it was."""
        for item, w, old in zip(items, weights, before, strict=False):
            if not w.isfinite().all():
                w.copy_(old)
                self._spoiled.append(item)
        self._spoiled += narrow(items, weights)

    def _map(
        self, items: list[Item], states: Any, weights: Any, updates: Any, memory: Tensor
    ) -> None:
        """Measure and apply the updates of a batch of parameters, for each weight in them."""
        if not any(w.norm == PARTS for _, _, w in items):
            return self._apply(items, states, weights, updates, memory)
        found: Any = []  # of each parameter its weights, each as the arguments here
        for (group, p, w), whole, u in zip(items, weights, updates, strict=True):
            vectors, own = self._vectors(p, w), self.plan.held(w)
            states = [{"vector": vectors[x.name]} if x.name in vectors else {} for x in own]
            pairs = zip(own, states, strict=True)
            found.append([((group, p, x), state, x.cut(whole), x.cut(u)) for x, state in pairs])
        stacked = self._stacks(memory.device)  # then all hold the same parts
        for batch in zip(*found, strict=True) if stacked else found:
            if moving := [x for x in batch if x[0][2].target]:
                own_items, own_states, parts, u = map(list, zip(*moving, strict=True))
                room = torch.stack(u) if stacked else memory
                self._apply(own_items, own_states, parts, u, room.flatten())
        for whole, own in zip(weights, found, strict=True):
            for (_, _, x), _, moved, _ in own:
                if (part := x.part(whole)).data_ptr() != moved.data_ptr():
                    part.copy_(moved.view(part.shape))

    def _apply(
        self, items: list[Item], states: Any, weights: Any, updates: Any, memory: Tensor
    ) -> None:
        """Measure and apply the updates of a batch of weights."""
        if self._stacks(memory.device):
            return self._apply_stack(items, states, weights, updates, memory)
        group = items[0][0]
        lr, decay = float(group["lr"]), group["weight_decay"]
        for item, state, p, u in zip(items, states, weights, updates, strict=True):
            w = item[2]
            new, often = w.name in self._new_vectors, self._iterations(group, state, w)
            factor = NORMS[w.norm].scale(u, state.get("vector"), often)
            if not (isinstance(factor, float) and factor > 0):
                if unusable(factor, u):
                    self._spoiled.append(item)
                    continue
                moves = factor if isinstance(factor, float) else bool(factor.any())
                if not moves and (grad := item[1].grad) is not None and w.part(grad).any():
                    self._tiny.append(w.name)
                if not moves and new:  # it has seen nothing
                    state["vector"].zero_()
                    self._new_vectors.add(w.name)
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
        unit, top = level(u)
        left = self._sound(u, top)
        pairs = zip(items, states, strict=True)
        often = max(self._iterations(group, state, w) for (_, _, w), state in pairs)
        vectors = [state["vector"] for state in states if "vector" in state]
        new = torch.stack(vectors) if vectors else None
        for _ in range(often):
            factor, new = NORMS[w.norm].measure(u, new)
        # What is no number once the unit is in it moves nothing.
        whole = factor * unit
        usable = whole.isfinite()
        whole, factor = torch.where(usable, whole, 0.0), torch.where(usable, factor, 0.0)
        if new is not None:
            torch._foreach_copy_(vectors, list(new.unbind()))
        self._factors.update(zip([w.name for _, _, w in items], whole.unbind(), strict=True))
        self._mark(items, top, whole.flatten(1).any(1))
        self._apply_left(left, items, weights, views, list(factor.unbind()))

    def _waits(self, device: torch.device) -> bool:
        """May a step wait for what a device finds? Of others it is known one step late."""
        return device.type == "cpu"

    def _sound(self, u: Tensor, top: Tensor) -> Tensor | None:
        """Which updates of a stack hold no NaN or infinity; None: all. The others become 0."""
        sound = top < math.inf
        if self._waits(u.device) and bool(sound.all()):
            return None
        u.masked_fill_(~sound, 0.0)
        return sound.flatten()

    def _mark(self, items: list[Item], top: Tensor, moved: Tensor) -> None:
        """Keep note of what a step of a stack left alone: not finite, or 0 though gradients aren't.

        moved: which of the weights have a factor that is not 0.
        """
        waits = self._waits(top.device)
        if waits and bool(moved.all()):
            return
        pairs: Any = [(w, p.grad) for _, p, w in items]
        grads: Any = [w.part(grad) for w, grad in pairs]
        largest: Any = torch._foreach_norm(grads, math.inf)
        sound, some_gradient = top.flatten() < math.inf, torch.stack(largest) > 0
        marks = torch.stack([~sound, sound & some_gradient & ~moved])
        if not waits:
            self._marks.append((items, marks))
            return
        spoiled, tiny = marks.tolist()
        self._spoiled += [item for item, flag in zip(items, spoiled, strict=True) if flag]
        self._tiny += [item[2].name for item, flag in zip(items, tiny, strict=True) if flag]

    def _apply_left(
        self, left: Tensor | None, items: list[Item], weights: Any, views: Any, factors: Any
    ) -> None:
        """Move the weights of a stack, but for those that `_sound` has left out."""
        group = items[0][0]
        lr, decay = float(group["lr"]), group["weight_decay"]
        sizes = [lr * w.target for _, _, w in items]
        if decay and left is None:
            torch._foreach_mul_(weights, [1 - size * decay for size in sizes])
        elif decay:
            kept: Any = left
            ones = list(kept.to(weights[0].dtype).unbind())
            torch._foreach_addcmul_(weights, weights, ones, [-size * decay for size in sizes])
        torch._foreach_addcmul_(weights, views, factors, [-size for size in sizes])

    def _iterations(self, group: Any, state: Any, w: Weight) -> int:
        """Steps of power iteration in this step: more for a vector's first, before which it is 0.

        Then it is drawn: rows alone may be singular vectors, in a matrix of signs say.
        """
        if not (norm := NORMS[w.norm]).vector:
            return 1
        often: int = group["iterations"]
        if w.name not in self._new_vectors:
            return often
        self._new_vectors.discard(w.name)
        seed, vector = torch.Generator().manual_seed(0), state["vector"]
        noise = torch.randn(vector.shape, generator=seed, device="cpu")
        vector.copy_(noise.div_(noise.norm()))
        return max(norm.most, often)

    def reach(self, group: Any, w: Weight) -> float:
        """What the norm of an update of size 1 is at most, but for errors of estimates."""
        return 1.0

    def warm(self, group: Any, p: Tensor, w: Weight) -> None:
        """Bring a new vector near its place, for kernels that iterate once in a step."""
        if w.name in self._new_vectors:
            state: Any = self.state[p]
            moments = {name: state[name].clone() for name in self.moments}
            grad: Any = p.grad
            grad = grad.to(state["vector"].dtype, memory_format=torch.contiguous_format)
            (u,) = self.rule.update(group, [moments], [grad], [torch.zeros_like(grad)])
            new = state["vector"].unsqueeze(0)
            for _ in range(self._iterations(group, state, w)):
                _, new = NORMS[w.norm].measure(u.unsqueeze(0), new)
            state["vector"].copy_(new[0])

    @property
    def moments(self) -> tuple[str, ...]:
        """The parts of a state that have the weight's shape."""
        return self.rule.moments

    def _direction(self, group: Any, p: Tensor, w: Weight) -> Tensor:
        """The last u of a weight, in float64."""
        return w.cut(full(self.rule.direction(group, self.state[p], p.grad)))

    def _scaled(self, group: Any, p: Tensor, w: Weight) -> Tensor:
        """The last update over lr·target, as a stack of one."""
        scaled: Tensor = self._direction(group, p, w).unsqueeze(0) * self._factors[w.name]
        return scaled

    @torch.no_grad()
    def slack(self) -> dict[str, float]:
        """By how much the last update of each matrix and kernel missed its size: ‖update‖/target.

        The norm is exact (`Norm.exact`), in float64. Power iteration bounds σ_max from below, so
        updates are too large if anything, and this is at least 1 up to rounding; it is 0 for an
        update of zeros, and for one so small that each entry of the weight rounds back to what it
        is. DualizedSGD's updates are orthogonal up to an error of the map. Left out are weights
        whose norm is exact, and those that got no update since the optimizer was made or loaded.
        Options and gradients have to be still what they were in the last step. Of sharded weights
        each is put together in turn: call it on all ranks.
        """
        found = {}
        for group, p, w in self.weights():
            if (norm := NORMS[w.norm]).vector and w.name in self._factors:
                scaled = self._scaled(group, p, w)
                moves = self._is_felt(group, p, w, scaled[0])
                found[w.name] = norm.exact(scaled).item() if moves else 0.0
        return found

    def _is_felt(self, group: Any, p: Tensor, w: Weight, scaled: Tensor) -> bool:
        """Does an update change any entry of a weight? One by a learning rate of 0 may have."""
        value = w.cut(full(self.state.get(p, {}).get("master", p.detach())))
        size = float(group.get("step_size", group["lr"])) * w.target
        return not size or bool((value - (size * scaled).to(value.dtype) != value).any())

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on bit for bit, as `load_state_dict` takes it."""
        self._count_lost(wait=True)
        return super().state_dict()


def unusable(factor: float | Tensor, u: Tensor) -> bool:
    """Does a factor say that its update holds NaN or infinity?"""
    if isinstance(factor, Tensor):
        return math.isnan(factor.sum().item())
    return not factor > 0 and not bool(u.isfinite().all())


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
