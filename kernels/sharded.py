"""Steps of weights that ranks of torch.distributed share: DTensors, of fully_shard and the like.

What a rule does to entries one by one, every rank does to its own. Norms are measured from parts
(`parts`): what all weights ask for at once is sent as one, by the ranks among which they are split.
The duality map of a matrix needs all of it: each has an owner among these ranks, who gets the parts
of the update, maps it, and sends them back. All collectives are in `add_up` and `exchange`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, distributed

from .blocks import Block, held
from .optimizer import STATE_TYPES, NormedOptimizer, apply
from .parts import Ask, Measure, Stack, entries, spectral, unit_of
from .plan import NORMS, Norm
from .schemes import BATCH, flops, sides
from .spectral import Spectral
from .state import Item, local, narrow, some, wide
from .weight import Weight


class Ranks:
    """Those among which a DTensor is split, not those that have copies of the same part."""

    def __init__(self, p: Any, dims: Sequence[int]) -> None:
        mesh, self.dims = p.device_mesh, dims
        self.device = torch.device(mesh.device_type)  # where parts have to be to be sent
        self.group: Any = None
        self.ranks = [distributed.get_rank()]
        if len(dims) == 1:
            self.group = mesh.get_group(dims[0])
        elif dims:
            names = [mesh.mesh_dim_names[dim] for dim in dims]
            own = mesh if len(dims) == mesh.ndim else mesh[tuple(names)]
            self.group = own._flatten().get_group()
        if dims:
            self.ranks = distributed.get_process_group_ranks(self.group)
        self.me = self.ranks.index(distributed.get_rank())
        self.coordinates = [(mesh.mesh == rank).nonzero()[0].tolist() for rank in self.ranks]


def add_up(asks: Iterable[tuple[Ranks, Ask]]) -> None:
    """Put in each part's place the sum or the largest over its ranks: one message of each kind."""
    alike = defaultdict[Any, list[Tensor]](list)
    for ranks, ask in asks:
        if ranks.group is not None:
            alike[ranks, ask.largest, ask.parts.dtype].append(ask.parts)
    for (ranks, largest, _), parts in alike.items():
        flat = torch.cat([part.flatten() for part in parts]).to(ranks.device)
        operation = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
        distributed.all_reduce(flat, operation, ranks.group)
        for part, new in zip(parts, torch.split(flat, [x.numel() for x in parts]), strict=True):
            part.copy_(new.view_as(part))


def exchange(
    ranks: Ranks, pieces: list[list[Tensor]], shapes: list[list[Any]], like: Tensor
) -> list[list[Tensor]]:
    """Send each rank its pieces, in one message; what each has sent, of the shapes that it has."""
    flat = torch.cat([like.new_zeros(0), *(x.flatten() for own in pieces for x in own)])
    sizes = [[math.prod(shape) for shape in own] for own in shapes]
    new = flat.new_empty(sum(map(sum, sizes)), device=ranks.device)
    distributed.all_to_all_single(
        new, flat.to(ranks.device), [*map(sum, sizes)],
        [sum(x.numel() for x in own) for own in pieces], group=ranks.group,
    )  # fmt: skip
    found = iter(torch.split(new.to(like.device), [size for own in sizes for size in own]))
    return [[next(found).view(shape) for shape in own] for own in shapes]


class Part(NamedTuple):
    """A weight of a sharded parameter."""

    w: Weight
    block: Block
    stack: Stack | None  # its matrices, where its norm is one of matrices
    owners: dict[int, int]  # of each matrix, the rank that maps it; none where it need not be sent


class Shared(NamedTuple):
    """A sharded parameter."""

    item: Item
    ranks: Ranks
    parts: list[Part]


@dataclass(eq=False)
class Move:
    """A weight in a step."""

    shared: Shared
    part: Part
    whole: Tensor  # what this rank has of the parameter, in the type of the state
    value: Tensor  # the block of that
    u: Tensor  # and of the update
    told: Tensor  # the largest entry of u, and whether there is a gradient: on all ranks
    factor: Any = 0.0  # what brings u to size

    @property
    def item(self) -> Item:
        return (*self.shared.item[:2], self.part.w)


class Taken(NamedTuple):
    """A parameter in a step, behind the rule."""

    shared: Shared
    item: Item  # with what this rank has of the parameter
    whole: Tensor  # that in the type of the state
    unsound: Tensor  # is anything in the weight or its moments no number, on any rank?
    moves: list[Move]


def fault(p: Any, norms: list[type[Norm]]) -> str:
    """Why a DTensor's weights, of these norms, can't be moved; "" if they can."""
    cut = [dim for dim, x in enumerate(p.placements) if hasattr(x, "dim")]
    if p.device_mesh.get_coordinate() is None:
        return "over a mesh that this rank is not in: give it only weights that it has a part of"
    if any(x.is_partial() for x in p.placements):
        return "as partial sums: redistribute it to Shard or Replicate first"
    if len(cut) > 1 and not p.device_mesh.mesh_dim_names:
        return "over a mesh whose axes have no names: give init_device_mesh mesh_dim_names"
    if tuple(map(len, held(p, p.device_mesh.get_coordinate()))) != tuple(local(p).shape):
        return f"and what this rank holds is not what {p.placements} say: use Shard and Replicate"
    for norm in norms:
        if norm.order is None and not issubclass(norm, Spectral):
            return (
                f"and its norm {norm.name} does not say how it is measured from parts: give it an "
                "order, or leave the parameter whole"
            )
    return ""


def run(jobs: list[tuple[Ranks, Measure]]) -> list[Any]:
    """What measures return, after as many rounds of messages as the longest one asks for."""
    found: dict[int, Any] = {}
    while len(found) < len(jobs):
        asks = list[tuple[Ranks, Ask]]()
        for i, (ranks, measure) in enumerate(jobs):
            if i not in found:
                try:
                    asks.append((ranks, next(measure)))
                except StopIteration as end:
                    found[i] = end.value
        add_up(asks)
    return [found[i] for i in range(len(jobs))]


class Shards:
    """The sharded parameters of an optimizer."""

    def __init__(self, optimizer: Any, items: list[Item]) -> None:
        self.shared, ranks = list[Shared](), dict[Any, Ranks]()
        self.sizes = dict[Tensor, float]()  # by parameter, the norm of its gradient in this step
        self.room = dict[Any, Tensor]()  # memory for updates
        for item in items:
            p: Any = item[1]
            counts = p.device_mesh.shape
            split = tuple(
                dim
                for dim, (count, placement) in enumerate(zip(counts, p.placements, strict=True))
                if hasattr(placement, "dim") and count > 1
            )
            if (key := (p.device_mesh, split)) not in ranks:
                ranks[key] = Ranks(p, split)
            parts = list[Part]()
            for w in optimizer.plan.held(item[2]):
                if w.target:
                    at, norm = p.device_mesh.get_coordinate(), NORMS[w.norm]
                    block = self._block(p, w, ranks[key], at)
                    stack = Stack(norm, block, w.shape) if issubclass(norm, Spectral) else None
                    parts.append(Part(w, block, stack, {}))
            self.shared.append(Shared(item, ranks[key], parts))
        if optimizer.dual:
            self._share_out(optimizer)

    @staticmethod
    def check(optimizer: Any, shared: list[tuple[Any, Weight]]) -> None:
        """ValueError for sharded weights that can't be moved as they are."""
        if "smoothness" in optimizer.defaults:
            raise ValueError("lr='auto' is not for sharded parameters (DTensor): give lr a number")
        for p, w in shared:
            if wrong := fault(p, [NORMS[x.norm] for x in optimizer.plan.held(w) if x.target]):
                raise ValueError(f"{w.name} is sharded (DTensor), {wrong}")

    @staticmethod
    def _block(p: Any, w: Weight, ranks: Ranks, at: Sequence[int]) -> Block:
        """What the rank at a coordinate of the mesh holds of a weight."""
        return Block(w, held(p, at), {p.placements[dim].dim for dim in ranks.dims})

    def _share_out(self, optimizer: Any) -> None:
        """Give each matrix an owner: the most costly ones first, to who has the least to do."""
        matrices = defaultdict[Ranks, list[tuple[int, Part, int]]](list)
        self.theirs = dict[str, list[Stack]]()  # of weights of which this rank owns some, by rank
        for (group, _, _), ranks, parts in self.shared:
            for part in parts:
                if part.stack and not part.stack.apart:
                    cost = flops(*sides(part.w.shape), optimizer._scheme(group, part.w))
                    matrices[ranks] += [(cost, part, i) for i in range(part.stack.count)]
        for ranks, found in matrices.items():
            load = [0] * len(ranks.ranks)
            for cost, part, i in sorted(found, key=lambda x: -x[0]):
                owner = part.owners[i] = load.index(min(load))
                load[owner] += cost
        for (_, p, _), ranks, parts in self.shared:
            for w, _, stack, owners in parts:
                if stack and ranks.me in owners.values():
                    blocks = [self._block(p, w, ranks, at) for at in ranks.coordinates]
                    self.theirs[w.name] = [Stack(stack.norm, block, w.shape) for block in blocks]

    def look(self) -> None:
        """Measure the gradients of all ranks, placed as the weights are.

        Raises ValueError, on all of them, if only some have one.
        """
        asks = list[tuple[Ranks, Ask]]()
        for (_, p, _), ranks, _ in self.shared:
            grad, like = (cast(Any, x) for x in (p.grad, p))
            told = torch.zeros(2, dtype=torch.float64, device=p.device)
            if grad is not None:
                if grad.placements != like.placements:
                    p.grad = grad = grad.redistribute(like.device_mesh, like.placements)
                kind = STATE_TYPES[p.dtype]
                told[0] = torch.linalg.vector_norm(local(grad), dtype=kind).double().square()
                told[1] = 1.0
            asks.append((ranks, Ask(told)))
        add_up(asks)
        found, lacking = torch.stack([ask.parts for _, ask in asks]).tolist(), list[str]()
        for (item, ranks, _), (square, count) in zip(self.shared, found, strict=True):
            self.sizes[item[1]] = math.sqrt(square)
            if count not in (0, len(ranks.ranks)):
                lacking.append(item[2].name)
        if lacking:
            raise ValueError(
                f"a gradient on some ranks only, for {some(lacking)}: all ranks that share one "
                "have to call backward() of losses that depend on it"
            )

    def step(self, optimizer: Any, ready: set[int]) -> None:
        """Move those that are ready, all at once."""
        alike = defaultdict[Any, list[Shared]](list)
        for shared in self.shared:
            group, p, _ = shared.item
            if id(shared.item) in ready:
                alike[id(group), p.dtype, p.device].append(shared)
        found = [self._take_in(optimizer, like) for like in alike.values()]
        each = [x for own in found for x in own]
        told = [(x, told) for x in each for told in (x.unsound, *(move.told for move in x.moves))]
        add_up((x.shared.ranks, Ask(one, largest=True)) for x, one in told)
        optimizer._spoiled += [x.shared.item for x in each if x.unsound.item()]
        batches = list[tuple[list[Taken], list[Tensor]]]()
        for own in found:
            if sound := [x for x in own if not x.unsound.item()]:
                items, lr = [x.item for x in sound], float(sound[0].item[0]["lr"])
                before = optimizer._before(items, [x.whole for x in sound], lr)
                if before is not None:
                    batches.append((sound, before))
        moves = [move for own, _ in batches for x in own for move in x.moves]
        optimizer._spoiled += [move.item for move in moves if not move.told[0] < math.inf]
        moves = [move for move in moves if move.told[0] < math.inf]
        dual = [optimizer.dual and self._has_map(move) for move in moves]
        self._measure(optimizer, [x for x, own in zip(moves, dual, strict=True) if not own])
        self._map(optimizer, [x for x, own in zip(moves, dual, strict=True) if own])
        for move in moves:
            group, _, w = move.item
            size, decay = float(group["lr"]) * w.target, group["weight_decay"]
            apply(move.value, move.u, move.factor, size, decay)
            move.part.block.put(move.value, move.whole)
        self._settle(optimizer, batches)

    @staticmethod
    def _has_map(move: Move) -> bool:
        """Is its image under the duality map more than a multiple of an update?"""
        return move.part.stack is not None or NORMS[move.part.w.norm].order == math.inf

    def _take_in(self, optimizer: Any, like: list[Shared]) -> list[Taken]:
        """Take in gradients, of one group, type and device."""
        group, dtype = like[0].item[0], STATE_TYPES[like[0].item[1].dtype]
        items: list[Item] = [(group, local(p), w) for (_, p, w), _, _ in like]
        full = [optimizer.complete(p, w) for (_, p, w), _, _ in like]
        states = [{key: local(x) for key, x in state.items()} for state in full]
        grads = [local(p.grad).to(dtype).contiguous() for (_, p, _), _, _ in like]
        sizes = [grad.numel() for grad in grads]
        room = self.room.get((dtype, id(group)))
        if room is None or room.numel() != sum(sizes):
            room = self.room[dtype, id(group)] = grads[0].new_zeros(sum(sizes))
        views = [x.view_as(grad) for x, grad in zip(room.split(sizes), grads, strict=True)]
        updates = optimizer.rule.update(group, states, grads, views)
        wholes = wide(items, states, dtype)
        bad, found = optimizer._unsound(items, states, wholes), list[Taken]()
        for i, shared in enumerate(like):
            moves = list[Move]()
            for part in shared.parts:
                value, u, grad = map(part.block.cut, (wholes[i], updates[i], grads[i]))
                top = torch.linalg.vector_norm(u, math.inf) if u.numel() else u.new_zeros(())
                told = torch.stack([top.nan_to_num(math.inf, math.inf), grad.any()]).double()
                moves.append(Move(shared, part, wholes[i], value, u, told))
            unsound = grads[i].new_tensor([i in bad], dtype=torch.float64)
            found.append(Taken(shared, items[i], wholes[i], unsound, moves))
        return found

    def _measure(self, optimizer: Any, moves: list[Move]) -> None:
        """Find the factors that bring updates to size."""
        jobs, own = list[tuple[Ranks, Measure]](), list[Any]()
        for move in moves:
            (group, p, w), (top, _) = move.item, move.told.tolist()
            stack, unit, x, vectors = move.part.stack, unit_of(top, move.u.dtype), None, None
            u, start = move.u if unit == 1.0 else move.u * unit, len(jobs)
            new = w.name in optimizer._new_vectors
            if stack and top:
                x = optimizer._vectors(p, move.shared.item[2])[w.name]
                often = optimizer._iterations(group, {"vector": x}, w)
                vectors = stack.vectors(x)
                found = spectral(stack, u, vectors, often)
                jobs += [(move.shared.ranks, measure) for measure in found]
            elif top:
                measure = entries(NORMS[w.norm], u, move.part.block, w.shape)
                jobs.append((move.shared.ranks, measure))
            own.append((unit, start, len(jobs), x, vectors, new))
        results = run(jobs)
        for move, (unit, start, end, x, vectors, new) in zip(moves, own, strict=True):
            (_, p, w), (top, some_gradient) = move.item, move.told.tolist()
            stack, moved = move.part.stack, top >= torch.finfo(move.u.dtype).tiny
            if stack and x is not None:
                stack.keep(vectors, x)
                whole = stack.factor(results[start:end], move.u, unit)
                optimizer._factors[w.name], move.factor = whole, stack.own(whole)
                moved = bool(whole.any()) if isinstance(whole, Tensor) else whole > 0
                if new and not moved:  # it has seen nothing
                    x.zero_()
                    optimizer._new_vectors.add(w.name)
            elif top:
                factor = results[start] * unit
                move.factor = torch.where(factor.isfinite(), factor, 0.0)
            if not moved and some_gradient:
                optimizer._tiny.append(w.name)

    def _map(self, optimizer: Any, moves: list[Move]) -> None:
        """Put the images of updates under the duality map in their places."""
        sent = defaultdict[Any, list[Move]](list)
        for move in moves:
            (_, _, w), (top, some_gradient), stack = move.item, move.told.tolist(), move.part.stack
            if not top and some_gradient:
                optimizer._tiny.append(w.name)
            optimizer._factors[w.name] = move.factor = 1.0
            move.u = move.u * unit_of(top, move.u.dtype)  # a copy: it may be a moment
            if stack is None:
                norm = NORMS[w.norm]
                share = norm.gain(move.part.block.shape) / norm.gain(w.shape)
                move.u = norm.dualize(move.u.unsqueeze(0))[0] * share
            elif stack.apart and not move.u.numel():
                continue  # all of its matrices are others'
            elif stack.apart:
                move.u = stack.put(self._images(optimizer, move, stack.matrices(move.u)))
            else:
                sent[move.shared.ranks, move.u.dtype].append(move)
        for (ranks, _), own in sent.items():
            self._send(optimizer, ranks, own)

    def _send(self, optimizer: Any, ranks: Ranks, moves: list[Move]) -> None:
        """Send the parts of matrices to their owners, and their images back."""
        every = range(len(ranks.ranks))
        stacks = [cast(Stack, move.part.stack) for move in moves]
        parts = [stack.matrices(move.u) for stack, move in zip(stacks, moves, strict=True)]
        each = [(k, i, owner) for k, x in enumerate(moves) for i, owner in x.part.owners.items()]
        mine = [(k, i, self.theirs[moves[k].part.w.name]) for k, i, to in each if to == ranks.me]
        out = [[stacks[k].one(i, parts[k]) for k, i, to in each if to == rank] for rank in every]
        came = exchange(
            ranks, out, [[x[rank].sides(i) for _, i, x in mine] for rank in every], moves[0].u
        )
        wholes, alike = list[Tensor](), defaultdict[Any, list[int]](list)
        for at, (k, i, theirs) in enumerate(mine):
            whole = parts[k].new_zeros(stacks[k].high, stacks[k].wide)
            for rank in every:
                if i in theirs[rank].where:
                    whole[theirs[rank].box] += came[rank][at]
            wholes.append(whole)
            group, _, w = moves[k].item
            alike[id(group), w.norm, w.shape].append(at)
        for own in alike.values():
            k, size = mine[own[0]][0], max(1, BATCH // wholes[own[0]].numel())
            for some_own in (own[j : j + size] for j in range(0, len(own), size)):
                images = self._images(
                    optimizer, moves[k], torch.stack([wholes[j] for j in some_own])
                )
                for j, image in zip(some_own, images, strict=True):
                    wholes[j] = image
        back = [
            [theirs[rank].cut(i, whole) for whole, (_, i, theirs) in zip(wholes, mine, strict=True)]
            for rank in every
        ]
        own_sides = [[stacks[k].sides(i) for k, i, to in each if to == rank] for rank in every]
        found = [iter(own) for own in exchange(ranks, back, own_sides, moves[0].u)]
        for k, i, owner in each:
            image = next(found[owner])
            if i in stacks[k].where:
                parts[k][stacks[k].where[i]] = image
        for stack, move, part in zip(stacks, moves, parts, strict=True):
            move.u = stack.put(part)

    @staticmethod
    def _images(optimizer: Any, move: Move, matrices: Tensor) -> Tensor:
        """The images of some matrices of a weight, as the whole weight's map has them."""
        (group, _, w), stack = move.item, cast(Stack, move.part.stack)
        shape = [1] * len(w.shape)
        shape[stack.out], shape[stack.in_] = matrices.shape[1:]
        images = optimizer._dualize(group, w, matrices.reshape(-1, *shape)).reshape(matrices.shape)
        share = stack.norm.meeting(tuple(shape)) / stack.norm.meeting(w.shape)
        found: Tensor = images * share
        return found

    def _settle(self, optimizer: Any, batches: list[tuple[list[Taken], list[Tensor]]]) -> None:
        """End the step: what it would have spoiled stays as it was, on all ranks."""
        doubtful = list[tuple[Taken, Tensor, Ask]]()
        for taken, before in batches:
            for x, old in zip(taken, before or [x.item[1] for x in taken], strict=True):
                half = x.item[1].dtype == torch.float16
                if before or half:  # bfloat16 has float32's range
                    most = torch.finfo(torch.float16 if half else x.whole.dtype).max
                    bad = ~(x.whole.abs() <= most).all()
                    doubtful.append((x, old, Ask(bad.float().view(1), largest=True)))
        add_up((x.shared.ranks, ask) for x, _, ask in doubtful)
        for x, old, ask in doubtful:
            if ask.parts.item():
                x.whole.copy_(old)
                optimizer._spoiled.append(x.shared.item)
        for taken, _ in batches:
            narrow([x.item for x in taken], [x.whole for x in taken])


NormedOptimizer.shards = Shards
