"""A compiled module in training: loading it, one step of it, and a checkpoint bit for bit.

Every failure that the user can mend is a `Trouble` (exit 1) or a click.UsageError (exit 2).
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import torch
from checkpoint import Trouble, differences, read, write

import modnorm
from modnorm.data.fetch import DataError
from modnorm.data.tasks import Task, evaluating, probe
from modnorm.sweep.axes import NORMED
from modnorm.train import train

SCHEDULE = ("base_lrs", "last_epoch", "_last_lr")
"""What a schedule goes on from."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@contextlib.contextmanager
def data_troubles() -> Iterator[None]:
    """Turns a DataError into a Trouble with the same message."""
    try:
        yield
    except DataError as error:
        raise Trouble(str(error)) from error


@dataclass(frozen=True)
class Settings:
    """What a run's weights depend on; a checkpoint is resumed only under the same."""

    model: str
    optimizer: str
    lr: float
    weight_decay: float
    steps: int
    batch: int
    context: int | None
    seed: int
    data: str
    data_sha256: str
    device: str
    dtype: str
    compile: bool


def constants_of(texts: Iterable[str]) -> dict[str, object]:
    """Constants by name, of which none may be given twice."""
    found: dict[str, object] = {}
    for name, value in map(constant, texts):
        if name in found:
            raise click.BadParameter(f"{name} is given twice", param_hint="-p")
        found[name] = value
    return found


def constant(text: str) -> tuple[str, object]:
    """NAME=VALUE with VALUE a number (exact: 1/3, 0.1), true, false or a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="-p")
    for kind in (int, Fraction):
        with contextlib.suppress(ValueError, ZeroDivisionError):
            return name.strip(), kind(value)
    return name.strip(), {"true": True, "false": False}.get(value.strip().lower(), value)


def load_module(path: Path, constants: Mapping[str, object]) -> ModuleType:
    """The module that `modnorm compile` wrote, or a .mod file compiled in memory."""
    if path.suffix == ".mod":
        try:
            compiled: ModuleType = modnorm.load(path, **constants)
            return compiled
        except modnorm.ModnormError as error:
            raise Trouble(str(error), as_it_is=True) from error
    if constants:
        raise click.UsageError(
            f"-p works on a .mod file; the constants of {path.name} were fixed when it was compiled"
        )
    spec = importlib.util.spec_from_file_location("compiled_model", path)
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise Trouble(f"{path} is neither a .py that modnorm compile wrote nor a .mod file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["compiled_model"] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a stranger's file raises when it is run
        raise Trouble(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    missing = [
        name for name in ("MODEL", "INPUTS", "PLAN", "PLAN_HASH") if not hasattr(module, name)
    ]
    if missing:
        raise Trouble(
            f"{path} has no {', '.join(missing)}: it is not a file that modnorm compile wrote"
        )
    return module


def has_weight_decay(module: ModuleType, name: str) -> bool:
    """Whether that optimizer of the module takes a weight decay."""
    made = getattr(module, NORMED[name], None)
    return made is not None and "weight_decay" in inspect.signature(made).parameters


def build_optimizer(
    module: ModuleType, model: torch.nn.Module, name: str, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """One of the module's own optimizers. Raises Trouble where it refuses its settings."""
    made = getattr(module, NORMED[name], None)
    if made is None:
        raise Trouble(f"the module has no {NORMED[name]}: compile it anew with this modnorm")
    options: dict[str, float] = {"lr": lr}
    if has_weight_decay(module, name):
        options["weight_decay"] = weight_decay
    elif weight_decay:
        raise Trouble(f"{NORMED[name]} has no weight decay: give --weight-decay 0")
    try:
        optimizer: torch.optim.Optimizer = made(model.named_parameters(), **options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise Trouble(f"{NORMED[name]}: {error}") from error
    return optimizer


class Run:
    """A model in training: everything that a checkpoint has to hold to go on bit for bit."""

    def __init__(self, module: ModuleType, task: Task, settings: Settings) -> None:
        self.module, self.task, self.settings = module, task, settings
        device, dtype = torch.device(settings.device), DTYPES[settings.dtype]
        torch.manual_seed(settings.seed)
        # made on the CPU, so that a seed gives the same weights on every device
        self.model = getattr(module, module.MODEL)(
            device="cpu", dtype=dtype, generator=torch.Generator().manual_seed(settings.seed)
        )
        task.to(torch.device("cpu"), dtype)
        probe(module, self.model, task)
        self.model.to(device)
        task.to(device, dtype)
        self.optimizer = build_optimizer(
            module, self.model, settings.optimizer, settings.lr, settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 1 - step / settings.steps
        )
        self.forward: Callable[[torch.Tensor], torch.Tensor] = self.model
        if settings.compile:
            self.forward = self.compiled()
        self.batches = torch.Generator().manual_seed(settings.seed)
        self.monitor: Any = None
        self.losses = train(self.objective, [self.optimizer], itertools.count(), ready=self.record)
        self.step = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.loss_count = 0

    def compiled(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The model through torch.compile, tried out both ways before anything depends on it."""
        forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(self.model)
        x, y = self.task.draw(torch.Generator().manual_seed(0))
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        try:
            self.task.loss(forward(x), y).backward()
        except Exception as error:  # the compiler's own errors have no common base
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise Trouble(
                f"torch.compile failed ({lines[0] if lines else type(error).__name__}): leave "
                "--compile out, or see that a C++ compiler is installed"
            ) from error
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return forward

    def watch(self, path: Path, every: int, force: bool = False) -> None:
        """Has the module's monitor write what steps do to the weights. Trouble if it cannot.

        With `force`, a file that it cannot go on with gives way.
        """
        made = getattr(self.module, "Monitor", None)
        if made is None:
            raise Trouble("the module has no Monitor: compile it anew with this modnorm")
        try:
            try:
                self.monitor = made(self.optimizer, path, every=every, step=self.step)
            except ValueError as error:
                if not force:
                    raise Trouble(f"{error}; or --force to replace it") from error
                path.unlink()
                self.monitor = made(self.optimizer, path, every=every, step=self.step)
        except (OSError, ValueError, TypeError) as error:
            raise Trouble(str(error)) from error

    def objective(self) -> torch.Tensor:
        """The loss of the next batch."""
        return self.task.loss_in_training(self.forward, *self.task.draw(self.batches))

    def record(self, loss: torch.Tensor) -> None:
        if self.monitor is not None:
            self.monitor.record(loss)

    def train_step(self) -> torch.Tensor:
        """One step; the training loss before it."""
        loss = next(self.losses)
        self.schedule.step()
        self.step += 1
        self.loss_sum += loss
        self.loss_count += 1
        return loss

    def mean_loss(self) -> float | None:
        """The mean training loss since this was last asked."""
        count, self.loss_count = self.loss_count, 0
        mean = float(self.loss_sum) / count if count else None
        self.loss_sum.zero_()
        return mean

    def held_out(self) -> tuple[float, float | None]:
        """Mean loss and accuracy on the held-out batches, which are the same every time."""
        with evaluating(self.model):
            return self.task.measure(self.forward)

    def state(self) -> dict[str, Any]:
        cuda = self.settings.device.startswith("cuda")
        return {
            "plan": self.module.PLAN_HASH,
            "settings": asdict(self.settings),
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "step": self.step,
            "loss_sum": float(self.loss_sum),
            "loss_count": self.loss_count,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "batches": self.batches.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if cuda else [],
        }

    def save(self, path: Path) -> None:
        """Writes the checkpoint whole or not at all, and never one with ruined weights."""
        if not all(torch.isfinite(kept).all() for kept in self.model.state_dict().values()):
            raise Trouble(
                f"weights or buffers are no longer finite at step {self.step}, so {path} was left "
                "as it was: give a smaller --lr"
            )
        write(path, self.state())

    def restore(self, path: Path, notice: Callable[[str], None]) -> None:
        """Goes on from a checkpoint. Raises Trouble, and changes nothing, where it is damaged or of
        another run."""
        found, marked = read(path)
        if not marked:
            notice(f"{path.name} has no checksum, so that damage may go unseen")
        self.expect_fitting(path, found)
        try:
            self.optimizer.load_state_dict(found["optimizer"])  # first: it may refuse
        except Exception as error:  # of whatever kind, on what is no state of an optimizer
            lines = str(error).splitlines() or [type(error).__name__]
            raise Trouble(f"{path} cannot be resumed: {lines[0]}") from error
        self.model.load_state_dict(found["model"])
        self.schedule.load_state_dict(found["schedule"])
        self.batches.set_state(found["batches"])
        torch.set_rng_state(found["rng"])
        if found["cuda_rng"]:
            torch.cuda.set_rng_state_all(found["cuda_rng"])
        self.step, self.loss_count = found["step"], found["loss_count"]
        self.loss_sum.fill_(found["loss_sum"])
        for key, value in (("torch", torch.__version__), ("threads", torch.get_num_threads())):
            if found.get(key) != value:
                notice(
                    f"{path.name} was made with {key} {found.get(key)}, this run has {value}: "
                    "it goes on, but perhaps not to the same last bit"
                )

    def expect_fitting(self, path: Path, found: Any) -> None:
        """Looks through all of a checkpoint but the optimizer's part. Raises Trouble."""
        damaged = f"{path} is damaged or no checkpoint of this program"
        if not isinstance(found, dict) or not isinstance(found.get("plan"), str):
            raise Trouble(f"{damaged}: it names no plan")
        if not isinstance(settings := found.get("settings"), dict):
            raise Trouble(f"{damaged}: it has no settings")
        plan = found["plan"]
        if plan != self.module.PLAN_HASH:
            raise Trouble(
                f"{path} belongs to another plan ({plan[:12]!r}, this model's is "
                f"{self.module.PLAN_HASH[:12]}): give the model it was made with, or another "
                "--checkpoint"
            )
        now = asdict(self.settings)
        other = [
            f"{key} {settings.get(key)!s:.80} there, {now[key]} here"
            for key in now
            if type(settings.get(key)) is not type(now[key]) or settings[key] != now[key]
        ]
        if other:
            raise Trouble(
                f"{path} was made with other settings ({'; '.join(other)}): give the same, or "
                "another --checkpoint"
            )
        wanted = {key: value for key, value in self.state().items() if key != "optimizer"}
        rest = {key: value for key, value in found.items() if key not in ("optimizer", "settings")}
        if isinstance(schedule := rest.get("schedule"), dict):  # torch's versions add to it
            wanted["schedule"] = {key: wanted["schedule"][key] for key in SCHEDULE}
            rest["schedule"] = {key: schedule[key] for key in SCHEDULE if key in schedule}
        wanted.pop("settings")
        wrong = list(differences(rest, wanted, "the checkpoint"))
        if "optimizer" not in found:
            wrong.append("the checkpoint has no optimizer")
        if not wrong and found["step"] > self.settings.steps:
            wrong.append(f"it is of step {found['step']} of {self.settings.steps}")
        for name in () if wrong else ("batches", "rng"):
            try:
                torch.Generator().set_state(found[name])
            except RuntimeError as error:
                wrong.append(f"{name} is no state of a generator: {str(error).splitlines()[0]}")
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise Trouble(f"{damaged}: {wrong[0]}{more}")
