"""An opt-in record of what an optimizer's steps do to each weight: JSON lines, and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import warnings
from numbers import Integral
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor

from .optimizer import NormedOptimizer
from .plan import NORMS, Norm, reciprocal
from .state import differences, is_shared, some


# modnorm: begin
class Monitor:
    """Writes, every so many steps of an optimizer, what the step did to each weight.

        with Monitor(optimizer, "run.jsonl") as monitor:
            ...  # the loop as it was; monitor.record(loss) before a step adds the loss

    The file is JSON lines. The first names the weights; each other one is a step, with arrays in
    their order, null where there is nothing to tell:

        norm    of the weight after the step, as the plan measures it: 1 at the unit ball's edge
        slack   exact norm of the update over lr·target: what power iteration has missed
        cosine  of the angle between the update and minus the gradient
        spent   share of the mass, times the norm of (weight before - after) over lr·target: the
                sum is 1 if every update has its target's size

    Weight decay is no part of an update. Only these steps take time: weights are copied before,
    and measured after them in float64 (`Norm.exact`). They stay the same to the last bit.

    path: of the file; OSError if it cannot be written. If it has steps already, `step` must say
        how many the optimizer has made: later ones are taken out, and the file goes on. ValueError
        where it is another model's, or an open monitor writes it.
    overwrite: begin anew, as where a notebook's cell runs once more: a monitor's file, whosever it
        is, loses its steps, and a monitor that writes it is closed. ValueError for other files.
    tensorboard: a SummaryWriter (anything with add_scalar), a folder for one, or True for a folder
        beside the file. ImportError without the package.

    Only rank 0 of torch.distributed measures; sharded weights (DTensor) are refused. If the file
    cannot be written later, a warning says so, the monitor stops and the training goes on.
    """

    measures = ("norm", "slack", "cosine", "spent")
    _open: ClassVar[WeakSet[Monitor]] = WeakSet()

    def __init__(
        self, optimizer: NormedOptimizer, path: str | os.PathLike[str], every: int = 50,
        step: int = 0, tensorboard: Any = None, overwrite: bool = False,
    ) -> None:  # fmt: skip
        if not isinstance(optimizer, NormedOptimizer):
            raise TypeError(f"the optimizer must be one of this file, not {type(optimizer)}")
        for key, value, least in (("every", every, 1), ("step", step, 0)):
            if not isinstance(value, Integral) or value < least:
                raise ValueError(f"{key} must be a whole number, at least {least}, not {value!r}")
        if any(is_shared(p) for _, p, _ in optimizer.weights()):
            raise ValueError(
                "the monitor measures whole weights, and these are sharded (DTensor): "
                "optimizer.slack(), called on all ranks, tells how exact their updates are"
            )
        self.optimizer, self.every, self.step = optimizer, int(every), int(step)
        self.path = os.path.abspath(path)
        total = sum(w.mass for w in optimizer.plan) or 1.0
        self._shares = {w.name: w.mass / total for w in optimizer.plan}
        self._before: dict[str, Tensor] | None = None  # weights before a step that is recorded
        self._loss: Any = None
        self._writer: Any = None
        self._hooks: list[Any] = []
        world = torch.distributed
        if world.is_available() and world.is_initialized() and world.get_rank():
            return
        for other in list(self._open):
            if os.path.realpath(path) == os.path.realpath(other.path):
                if not overwrite:
                    words = "close() that one first, or begin anew with overwrite=True"
                    raise ValueError(f"another monitor writes {self.path!r}: {words}")
                other.close()
        writer = self._tensorboard(tensorboard)
        self._start(overwrite)
        self._open.add(self)
        self._writer, self._own = writer, writer is not tensorboard
        self._hooks.append(optimizer.register_step_pre_hook(self._pre))
        self._hooks.append(optimizer.register_step_post_hook(self._post))

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop measuring. What was recorded is in the file already."""
        for hook in self._hooks:
            hook.remove()
        if self._writer is not None and self._own:
            self._writer.close()
        self._hooks, self._writer, self._before = [], None, None
        self._open.discard(self)

    def record(self, loss: float | Tensor) -> None:
        """The loss of the step that comes next; a tensor is read only where it is written.

        Of several before a step, the last counts.

        Raises:
            ValueError: for what is no number.
        """
        if isinstance(loss, Tensor):
            if loss.numel() != 1:
                raise ValueError(f"the loss must be a number, not of shape {tuple(loss.shape)}")
            loss = loss.detach()
        elif loss is not None and not hasattr(loss, "__float__"):
            raise ValueError(f"the loss must be a number, not {loss!r}")
        self._loss = loss

    def _tensorboard(self, given: Any) -> Any:
        if given is None or given is False or hasattr(given, "add_scalar"):
            return given or None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            words = "tensorboard= needs the package tensorboard: pip install tensorboard"
            raise ImportError(words) from None
        make: Any = SummaryWriter
        beside = os.path.splitext(self.path)[0] + ".tensorboard"
        return make(beside if given is True else given, purge_step=self.step + 1)

    def _start(self, overwrite: bool) -> None:
        """Write the first line, or take out what stands after this step."""
        plan = self.optimizer.plan
        header = {"modnorm": "monitor", "version": 1, "model": plan.model}
        header |= {"optimizer": type(self.optimizer).__name__, "weights": [w.name for w in plan]}
        line = json.dumps(header | {"targets": [w.target for w in plan]}).encode() + b"\n"
        try:
            if os.path.exists(self.path) and not os.path.isfile(self.path):
                raise OSError(0, "it is no ordinary file")  # a device may never end
            with open(self.path, "a+b") as file:
                file.seek(0)
                text = file.read()
                kept = 0 if line.startswith(text) else self._kept(text, line, overwrite)
                if kept < len(text):
                    file.truncate(kept)
                file.write(b"" if kept else line)
        except OSError as error:
            raise OSError(f"the monitor cannot write {self.path!r}: {error.strerror}") from None

    def _kept(self, text: bytes, line: bytes, overwrite: bool) -> int:
        """How many bytes of a file stay; without its end, the last line is a cut one."""
        lines = text.split(b"\n")[:-1]
        try:
            headers = [json.loads(x) for x in (lines[0], line)]
            if overwrite and headers[0]["modnorm"] == "monitor":
                return 0
            steps = [int(json.loads(row)["step"]) for row in lines[1:]]
            for h in headers:
                pairs = zip(h.pop("weights"), h.pop("targets"), strict=True)
                h["weight"] = dict(enumerate(pairs))
            wrong = differences(*headers)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            wrong = ["it is no monitor's file, or damaged"]
        if wrong:
            raise ValueError(f"{self.path!r} is there, for something else than this: {some(wrong)}")
        if steps and not self.step:
            raise ValueError(
                f"{self.path!r} has steps up to {steps[-1]}: to go on with it, say with step= how "
                "many this optimizer has made; or give another path, or begin anew with "
                "overwrite=True"
            )
        count = 1 + sum(step <= self.step for step in steps)
        return sum(len(x) + 1 for x in lines[:count])

    @torch.no_grad()
    def _pre(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._before = None
        if (self.step + 1) % self.every:
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return  # nothing can be read from a step that is recorded into a CUDA graph
        moving = [(p, w) for _, p, w in optimizer.weights() if w.target and p.requires_grad]
        self._before = {w.name: self._value(p, w).clone() for p, w in moving}

    @torch.no_grad()
    def _post(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.step += 1
        (before, self._before), (loss, self._loss) = (self._before, None), (self._loss, None)
        if before is None:
            return
        found = {
            w.name: (rate(group), *self._measure(group, p, w, before.pop(w.name, None)))
            for group, p, w in optimizer.weights()
        }
        # Weights that are in no group have nothing to tell, and a frozen one's lr does not count.
        nothing = (0.0, *(None for _ in self.measures))
        lrs, *columns = zip(*(found.get(w.name, nothing) for w in optimizer.plan), strict=True)
        row: dict[str, Any] = {"step": self.step, "lr": short(max(lrs))}
        if len(set(lrs)) > 1:
            row["lrs"] = [short(x) for x in lrs]
        if loss is not None:
            row["loss"] = short(float(loss))
        for key, values in zip(self.measures, columns, strict=True):
            row[key] = [short(x) for x in values]
        self._write(row)

    def _value(self, p: Tensor, w: Any) -> Tensor:
        """A weight; for 16-bit parameters, the float32 copy that they are roundings of."""
        master = self.optimizer.state.get(p, {}).get("master")
        whole = p.detach()
        if master is not None:
            whole = torch.where(master.to(p.dtype) == p, master, p.to(master.dtype))
        value: Tensor = w.cut(whole)
        return value

    def _measure(self, group: Any, p: Tensor, w: Any, old: Tensor | None) -> tuple[Any, ...]:
        """The measures of one weight, of which old is a copy from before the step."""
        norm, new, lr = NORMS[w.norm], self._value(p, w), rate(group)
        now = size(norm, new)
        if old is None or p.grad is None or torch.equal(old, new):  # it was left out of the step
            return now, None, None, 0.0 if w.target else None
        update = new.double() - (1 - lr * w.target * group["weight_decay"]) * old.double()
        moved = size(norm, update) / (lr * w.target)
        known = w.name in self.optimizer._factors  # or else it was measured exactly
        slack = size(norm, self.optimizer._scaled(group, p, w)[0]) if known else moved
        grad = w.cut(p.grad).double()
        cosine = -(update * grad).sum() / (update.norm() * grad.norm())  # NaN without a gradient
        return now, slack, cosine.item(), moved * self._shares[w.name]

    def _write(self, row: dict[str, Any]) -> None:
        try:
            with open(self.path, "ab") as file:
                file.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            warnings.warn(f"the monitor stops, since its file is lost: {error}", stacklevel=2)
            return self.close()
        names = [w.name for w in self.optimizer.plan]
        tags = {f"{k}/{x}": y for k in self.measures for x, y in zip(names, row[k], strict=True)}
        for tag, value in (tags | {key: row.get(key) for key in ("lr", "loss")}).items():
            if self._writer is not None and value is not None:
                self._writer.add_scalar(tag, value, self.step)


def size(norm: type[Norm], x: Tensor) -> float:
    """The norm of a weight or an update; NaN if it has entries that are not finite."""
    u = x.double().unsqueeze(0)
    if not u.isfinite().all():
        return math.nan
    # Norms that need no power iteration are the largest of those of the parts that they scale.
    found = norm.exact(u) if norm.vector else reciprocal(norm.measure(u, None)[0])
    return found.max().item()


def rate(group: dict[str, Any]) -> float:
    """The learning rate of the last step."""
    return float(group.get("step_size", group["lr"]))


def short(x: float | None) -> float | None:
    """A number as it is written: with seven digits, or None where it is not finite."""
    return float(f"{x:.7g}") if x is not None and math.isfinite(x) else None


# modnorm: end
