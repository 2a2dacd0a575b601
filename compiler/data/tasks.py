"""What a compiled module is trained on: batches that fit its input, and the checks that they do.

An int input [batch, seq] with a bound is next-character prediction on a text; a float input
[batch, …] is classification of images. A function of one's own feeds either, for targets of any
kind. Every mismatch is a `DataError` whose message says what to do.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from modnorm.data.fetch import DataError
from modnorm.data.functions import Function
from modnorm.data.images import Examples, Images
from modnorm.data.texts import Text

HELD_OUT_SEED = 1  # the held-out windows do not depend on a run's own seed
Batch = tuple[torch.Tensor, torch.Tensor]


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of logits [..., classes] for class numbers [...], in float32."""
    logits = output if output.dtype == torch.float64 else output.float()
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


def squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of an output [...] for numbers [...], in float32 at least."""
    values = output if output.dtype == torch.float64 else output.float()
    return F.mse_loss(values, target.to(values.dtype))


class Task(ABC):
    """Batches of inputs and targets, and the loss of a model's output on them.

    noun: what `classes` counts. labelled: whether targets are class numbers, int64; if not, they
    are numbers of the shape of the output. classes: how many there are, or None where the data do
    not say.
    """

    noun = "classes"
    labelled = True
    classes: int | None

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Has batches on that device from now on, inputs that are not integers in that dtype."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Batch:
        """One batch to train on, at random."""

    @abstractmethod
    def held_out(self) -> Iterator[Batch]:
        """The held-out set in batches, the same every time."""

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats, or the mean squared error where targets are no classes."""
        return (cross_entropy if self.labelled else squared_error)(output, target)

    def loss_in_training(
        self, forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """The loss of a model on a batch. Raises DataError where it does not train on such."""
        try:
            return self.loss(forward(x), target)
        except ValueError as error:  # an operation's own, of what the batch has too few of
            raise DataError(
                f"the model does not train on batches of shape {tuple(x.shape)}: {error}"
            ) from error

    def right(self, output: torch.Tensor, target: torch.Tensor) -> int | None:
        """For how many targets the output's largest number is at the right class."""
        return int((output.argmax(-1) == target).sum()) if self.labelled else None

    def fit(self, output: Any, target: torch.Tensor) -> None:
        """Raises DataError where a model's output is not what these targets need."""
        shape, wanted = shape_of(output), (*target.shape, self.classes or 1)
        if shape is None or shape[:-1] != wanted[:-1] or shape[-1] < wanted[-1]:
            raise DataError(
                f"the model's output is {kind_of(output)}, but the task needs "
                f"{wanted} (the data has {self.classes} {self.noun})"
            )

    @torch.no_grad()
    def measure(
        self, forward: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[float, float | None]:
        """Mean loss and accuracy (None where targets are no classes) on the held-out set.

        The model is to be in `eval()`.
        """
        loss, right, count = 0.0, 0, 0
        for x, y in self.held_out():
            output = forward(x)
            loss += float(self.loss(output, y)) * y.numel()
            right += self.right(output, y) or 0
            count += y.numel()
        return loss / count, right / count if self.labelled else None


class Sampled(Task):
    """Batches from places in data that are there, each found by a number.

    `span` is how many places there are to train on; `places` has those of the held-out set, batch
    after batch.
    """

    batch: int
    train: tuple[torch.Tensor, ...]
    rest: tuple[torch.Tensor, ...]
    span: int
    places: torch.Tensor
    dtype = torch.float32

    @abstractmethod
    def pick(self, part: tuple[torch.Tensor, ...], places: torch.Tensor) -> Batch:
        """What is at these places of `train` or of `rest`."""

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.train = tuple(t.to(device) for t in self.train)
        self.rest = tuple(t.to(device) for t in self.rest)

    def draw(self, generator: torch.Generator) -> Batch:
        places = torch.randint(self.span, (self.batch,), generator=generator)
        return self.pick(self.train, places)

    def held_out(self) -> Iterator[Batch]:
        for places in self.places.view(-1, self.batch).unbind():
            yield self.pick(self.rest, places)


class NextCharacter(Sampled):
    """Windows of `context` characters, each predicting the one after it: int64 [batch, context]."""

    noun = "characters"

    def __init__(self, text: Text, batch: int, context: int, eval_batches: int) -> None:
        held_out = text.length - text.train_length
        if min(text.train_length, held_out) <= context:
            raise DataError(
                f"{text.name} holds out {held_out:,} characters, too few for windows of "
                f"{context} and the one after: give a longer text or a smaller --context"
            )
        self.classes, self.batch, self.context = len(text.symbols), batch, context
        stored = torch.uint8 if text.width == 1 else torch.int32
        ids = torch.frombuffer(bytearray(text.ids), dtype=stored)
        self.train, self.rest = (ids[: text.train_length],), (ids[text.train_length :],)
        self.span = text.train_length - context
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        count = eval_batches * batch
        self.places = torch.randint(held_out - context, (count,), generator=generator)

    def pick(self, part: tuple[torch.Tensor, ...], places: torch.Tensor) -> Batch:
        (ids,) = part
        places = places[:, None] + torch.arange(self.context + 1)
        found = ids[places.to(ids.device)].long()
        return found[:, :-1], found[:, 1:]


class Classification(Sampled):
    """Images [batch, *shape], shifted and scaled to mean 0 and RMS 1 over the training set."""

    def __init__(
        self, images: Images, shape: tuple[int, ...], batch: int, eval_batches: int
    ) -> None:
        held_out = images.held_out.count
        if held_out < batch:
            raise DataError(
                f"{images.name} holds out {held_out:,} images, fewer than one batch: "
                f"give a --batch of at most {held_out}"
            )
        self.classes, self.batch, self.span = images.classes, batch, images.train.count
        stored = torch.uint8 if images.dtype == "uint8" else torch.float32

        def tensors(part: Examples) -> Batch:
            x = torch.frombuffer(bytearray(part.x), dtype=stored).reshape(part.count, *shape)
            return x, torch.frombuffer(bytearray(part.y), dtype=torch.int64)

        self.train, self.rest = tensors(images.train), tensors(images.held_out)
        x = self.train[0]
        if stored is torch.uint8:  # exact, and without a copy eight times the size
            counts = torch.bincount(x.flatten(), minlength=256).double()
            grid = torch.arange(256, dtype=torch.float64)
            self.mean = float((counts * grid).sum() / counts.sum())
            spread = (counts * (grid - self.mean) ** 2).sum() / counts.sum()
        else:
            self.mean, spread = float(x.double().mean()), x.double().var(correction=0)
        self.scale = 1 / (math.sqrt(float(spread)) or 1.0)
        # whole batches only, spread over the held-out set by a fixed shuffle
        count = min(eval_batches, held_out // batch) * batch
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        self.places = torch.randperm(held_out, generator=generator)[:count]

    def pick(self, part: tuple[torch.Tensor, ...], places: torch.Tensor) -> Batch:
        x, y = part
        places = places.to(x.device)
        return ((x[places].float() - self.mean) * self.scale).to(self.dtype), y[places]


class Drawn(Task):
    """What a function of one's own draws; each batch is checked against the model's input.

    The held-out set is `eval_batches` batches, drawn once. `classes` is known once `probe` has seen
    the model's output.
    """

    def __init__(self, function: Function, spec: Any, batch: int, eval_batches: int) -> None:
        self.function, self.spec, self.batch = function, spec, batch
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.classes = None
        self.kept: list[Batch] = []
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        for _ in range(eval_batches):
            self.kept.append(self.call("held_out", generator))
        for split in ("train", "held_out"):
            first, again = (
                self.call(split, torch.Generator().manual_seed(HELD_OUT_SEED)) for _ in range(2)
            )
            if not all(map(torch.equal, first, again)):
                raise DataError(
                    f"{function.name} gives other {split!r} batches for the same seed, so that no "
                    "run could be repeated: draw with the generator that it is given"
                )

    def call(self, split: str, generator: torch.Generator) -> Batch:
        """One batch of the function, on the CPU. Raises DataError where it does not fit."""
        found = self.function(split, self.batch, generator)
        name = f"{self.function.name}({split!r}, {self.batch}, generator)"
        several = found if isinstance(found, tuple | list) else []
        fits = [isinstance(t, torch.Tensor) and t.layout == torch.strided for t in several]
        if fits != [True, True]:
            of = f" of {', '.join(type(t).__name__ for t in several)}" if several else ""
            raise DataError(
                f"{name} returned {type(found).__name__}{of}, "
                "but it has to return two tensors: (input, target)"
            )
        x, y = (t.detach().cpu() for t in several)
        return self.checked_input(name, x), self.checked_target(name, y)

    def checked_target(self, name: str, y: torch.Tensor) -> torch.Tensor:
        labelled = whole(y)
        if not (labelled or y.is_floating_point()) or not y.ndim or y.shape[0] != self.batch:
            raise DataError(
                f"{name} returned a target {described(y)}, but it has to be integers (classes) or "
                f"floats of shape ({self.batch}, …)"
            )
        y = checked_values(f"{name} returned a target", y)
        if not self.kept:  # the first batch says what targets are
            self.labelled = labelled
        if labelled != self.labelled:
            kind = "integers" if self.labelled else "floats"
            raise DataError(f"{name} returned a target {described(y)}, but {kind} before")
        if self.classes is not None and int(y.max()) >= self.classes:
            raise DataError(
                f"{name} returned a target of class {int(y.max())}, "
                f"but the model's output has {self.classes} classes, from 0"
            )
        return y

    def checked_input(self, name: str, x: torch.Tensor) -> torch.Tensor:
        ints = self.spec.dtype == "int"
        wanted = (self.batch, *self.spec.shape[1:])
        if (
            not (whole(x) if ints else x.is_floating_point())
            or x.ndim != len(wanted)
            or any(isinstance(n, int) and n != m for n, m in zip(wanted, x.shape, strict=True))
        ):
            raise DataError(
                f"{name} returned an input {described(x)}, "
                f"but {written(self.spec)} takes {'integers' if ints else 'floats'} of shape "
                f"({', '.join(map(str, wanted))})"
            )
        x = checked_values(f"{name} returned an input", x)
        if ints and self.spec.bound is not None and int(x.max()) >= self.spec.bound:
            raise DataError(
                f"{name} returned the number {int(x.max())} in its input, but {written(self.spec)} "
                f"takes 0 to {self.spec.bound - 1}"
            )
        return x

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def placed(self, batch: Batch) -> Batch:
        x, y = batch[0].to(self.device), batch[1].to(self.device)
        return x.to(self.dtype) if x.is_floating_point() else x, y

    def draw(self, generator: torch.Generator) -> Batch:
        return self.placed(self.call("train", generator))

    def held_out(self) -> Iterator[Batch]:
        return map(self.placed, self.kept)

    def fit(self, output: Any, target: torch.Tensor) -> None:
        name, wanted = self.function.name, tuple(target.shape)
        if not self.labelled:
            if shape_of(output) != wanted:
                raise DataError(
                    f"the model's output is {kind_of(output)}, but a target of {name} is {wanted}: "
                    "targets that are floats have the shape of the output"
                )
            return
        self.classes = 1 + max(int(y.max()) for y in (target, *(y for _, y in self.kept)))
        super().fit(output, target)
        self.classes = output.shape[-1]


def shape_of(output: Any) -> tuple[int, ...] | None:
    return tuple(output.shape) if isinstance(output, torch.Tensor) else None


def kind_of(output: Any) -> str:
    return str(shape_of(output) or type(output).__name__)


def whole(values: torch.Tensor) -> bool:
    """Whether these are integers; bool is not."""
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def described(values: torch.Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"


def checked_values(what: str, values: torch.Tensor) -> torch.Tensor:
    """Integers as int64. Raises DataError for what is empty, no number, or an integer below 0."""
    if not values.numel():
        raise DataError(f"{what} without any number: {described(values)}")
    if not whole(values):
        if not values.isfinite().all():
            raise DataError(f"{what} with values that are not finite")
        return values
    values = values.long()
    if int(values.min()) < 0:
        raise DataError(f"{what} with the number {int(values.min())}, but integers count from 0")
    return values


def written(spec: Any) -> str:
    """An input as the language writes it."""
    bound = f" < {spec.bound}" if spec.bound is not None else ""
    return f"{spec.name}: {spec.dtype}[{', '.join(map(str, spec.shape))}]{bound}"


def only_input(module: ModuleType) -> Any:
    """The module's one input, of a kind that this trainer has data for."""
    if len(module.INPUTS) != 1:
        names = ", ".join(spec.name for spec in module.INPUTS) or "none"
        raise DataError(
            f"{module.MODEL} has {len(module.INPUTS)} inputs ({names}), but this trainer feeds "
            "exactly one: write a loop of your own for it"
        )
    spec = module.INPUTS[0]
    if (spec.dtype == "int" and len(spec.shape) == 2) or (
        spec.dtype == "float" and len(spec.shape) >= 2
    ):
        return spec
    raise DataError(
        f"the input {written(spec)} is neither int[batch, seq] (text) nor float[batch, …] "
        "(images), so there is no data for it here: write a loop of your own"
    )


def default_data(spec: Any) -> str:
    """The name of the data set that fits an input when none was asked for."""
    if spec.dtype == "int":
        return "shakespeare"
    sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
    return "digits" if math.prod(sizes) == 64 else "fashion-mnist"


def image_shape(spec: Any, images: Images) -> tuple[int, ...]:
    """The shape in which the model takes one image: the data's own, or the same values reshaped."""
    wanted = tuple(spec.shape[1:])
    if all(isinstance(size, int) for size in wanted):
        if math.prod(wanted) == math.prod(images.shape):
            return wanted
    else:  # sizes left open are taken from the data, a size 1 is put in where the model has it
        for shape in (images.shape, (1, *images.shape), (*images.shape, 1)):
            if len(shape) == len(wanted) and all(
                isinstance(want, str) or want == have
                for want, have in zip(wanted, shape, strict=True)
            ):
                return shape
    raise DataError(
        f"{images.name} has inputs of shape {' × '.join(map(str, images.shape))}, which do not "
        f"fit {written(spec)}: compile the model for that size, or give other --data"
    )


def make_task(
    spec: Any, found: Text | Images | Function, batch: int, context: int | None, eval_batches: int
) -> Task:
    """The task of feeding this data to that input. Raises DataError where the two don't fit."""
    if isinstance(spec.shape[0], int) and spec.shape[0] != batch:
        raise DataError(f"{written(spec)} fixes the batch: give --batch {spec.shape[0]}")
    if isinstance(found, Function):
        if context is not None:
            raise DataError(f"--context is for text; {found.name} makes its batches itself")
        return Drawn(found, spec, batch, eval_batches)
    if isinstance(found, Images):
        if spec.dtype == "int":
            raise DataError(
                f"{found.name} is images, but {written(spec)} takes text: give a text in UTF-8, or "
                "a function, module:function"
            )
        if context is not None:
            raise DataError("--context is for text; images have no context")
        return Classification(found, image_shape(spec, found), batch, eval_batches)
    if spec.dtype == "float":
        raise DataError(
            f"{found.name} is text, but {written(spec)} takes images: give an .npz with arrays "
            "x and y, or a function, module:function"
        )
    if spec.bound is not None and len(found.symbols) > spec.bound:
        raise DataError(
            f"{found.name} has {len(found.symbols)} distinct characters, but the model knows "
            f"{spec.bound} ({written(spec)}): compile it with that many, as in "
            f"-p vocab={len(found.symbols)}"
        )
    fixed = spec.shape[1] if isinstance(spec.shape[1], int) else None
    if fixed is not None and context not in (None, fixed):
        raise DataError(f"{written(spec)} fixes the context: give --context {fixed}")
    return NextCharacter(found, batch, fixed or context or 64, eval_batches)


def refusal(model: torch.nn.Module, x: torch.Tensor) -> Exception | None:
    """What the model raises on that input, or None."""
    try:
        with torch.no_grad():
            model(x)
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        return error
    return None


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in `eval()`, and after that as it was."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def probe(module: ModuleType, model: torch.nn.Module, task: Task) -> None:
    """Runs one example on the CPU, where a size that does not fit is an error and not a crash.

    It is run in `eval()`, so that it changes nothing.
    """
    with evaluating(model):
        x, y = task.draw(torch.Generator().manual_seed(0))
        if not isinstance(module.INPUTS[0].shape[0], int):
            x, y = x[:1], y[:1]
        error = refusal(model, x)
        if error is not None and isinstance(task, NextCharacter):
            rows = {weight.shape[0] for weight in module.PLAN if weight.atom == "Embed"}
            for size in sorted((n for n in rows if n < task.context), reverse=True):
                if refusal(model, x[:, :size]) is None:
                    raise DataError(
                        f"the model's position table holds {size} places, fewer than the context "
                        f"of {task.context}: give --context {size}, or compile a longer table"
                    )
        if error is not None:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"the model does not take an input of shape {tuple(x.shape)}: {first}")
        with torch.no_grad():
            task.fit(model(x), y)
