"""What a compiled module is trained on: batches that fit its input, and the checks that they do.

An int input [batch, seq] with a bound is next-character prediction on a text; a float input
[batch, …] is classification of images. Every mismatch is a `Trouble` whose message says what to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import click
import torch
import torch.nn.functional as F
from data import Text
from images import Examples, Images

HELD_OUT_SEED = 1  # the held-out windows do not depend on a run's own seed
Batch = tuple[torch.Tensor, torch.Tensor]


class Trouble(click.ClickException):
    """An error that the user can mend: one line on stderr (or text as it is), exit 1."""

    def __init__(self, message: str, as_it_is: bool = False) -> None:
        super().__init__(message)
        self.as_it_is = as_it_is

    def show(self, file: Any = None) -> None:
        click.echo(self.message if self.as_it_is else f"error: {self.message}", err=True)


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of logits [..., classes] for class numbers [...], in float32."""
    logits = output if output.dtype == torch.float64 else output.float()
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


class NextCharacter:
    """Windows of `context` characters, each predicting the one after it: int64 [batch, context]."""

    noun = "characters"

    def __init__(self, text: Text, batch: int, context: int, eval_batches: int) -> None:
        held_out = text.length - text.train_length
        if min(text.train_length, held_out) <= context:
            raise Trouble(
                f"{text.name} holds out {held_out:,} characters, too few for windows of "
                f"{context} and the one after: give a longer text or a smaller --context"
            )
        self.classes = len(text.symbols)
        self.batch, self.context, self.held_out_count = batch, context, eval_batches * batch
        ids = torch.frombuffer(
            bytearray(text.ids), dtype=torch.uint8 if text.width == 1 else torch.int32
        )
        self.train, self.rest = ids[: text.train_length], ids[text.train_length :]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.train, self.rest = self.train.to(device), self.rest.to(device)

    def windows(self, ids: torch.Tensor, starts: torch.Tensor) -> Batch:
        places = starts[:, None] + torch.arange(self.context + 1)
        found = ids[places.to(ids.device)].long()
        return found[:, :-1], found[:, 1:]

    def draw(self, generator: torch.Generator) -> Batch:
        """One batch of training windows at random places."""
        starts = torch.randint(len(self.train) - self.context, (self.batch,), generator=generator)
        return self.windows(self.train, starts)

    def held_out(self) -> Iterator[Batch]:
        """The same windows of the held-out part every time, in batches."""
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        starts = torch.randint(
            len(self.rest) - self.context, (self.held_out_count,), generator=generator
        )
        for part in starts.split(self.batch):
            yield self.windows(self.rest, part)


class Classification:
    """Images [batch, *shape], shifted and scaled to mean 0 and RMS 1 over the training set."""

    noun = "classes"

    def __init__(
        self, images: Images, shape: tuple[int, ...], batch: int, eval_batches: int
    ) -> None:
        if images.held_out.count < batch:
            raise Trouble(
                f"{images.name} holds out {images.held_out.count:,} images, fewer than one batch: "
                f"give a --batch of at most {images.held_out.count}"
            )
        self.classes, self.batch = images.classes, batch
        stored = torch.uint8 if images.dtype == "uint8" else torch.float32

        def tensors(part: Examples) -> Batch:
            x = torch.frombuffer(bytearray(part.x), dtype=stored).reshape(part.count, *shape)
            return x, torch.frombuffer(bytearray(part.y), dtype=torch.int64)

        self.train, self.rest = tensors(images.train), tensors(images.held_out)
        self.dtype = torch.float32
        values = self.train[0].to(torch.float64) if stored is not torch.uint8 else None
        if values is None:  # exact, and without a copy eight times the size
            counts = torch.bincount(self.train[0].flatten(), minlength=256).double()
            grid = torch.arange(256, dtype=torch.float64)
            self.mean = float((counts * grid).sum() / counts.sum())
            spread = (counts * (grid - self.mean) ** 2).sum() / counts.sum()
        else:
            self.mean, spread = float(values.mean()), values.var(correction=0)
        self.scale = 1 / (math.sqrt(float(spread)) or 1.0)
        # whole batches only, spread over the held-out set by a fixed shuffle
        count = min(eval_batches, images.held_out.count // batch) * batch
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        self.held_out_places = torch.randperm(images.held_out.count, generator=generator)[:count]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.train = (self.train[0].to(device), self.train[1].to(device))
        self.rest = (self.rest[0].to(device), self.rest[1].to(device))

    def pick(self, part: Batch, places: torch.Tensor) -> Batch:
        places = places.to(part[0].device)
        x = (part[0][places].float() - self.mean) * self.scale
        return x.to(self.dtype), part[1][places]

    def draw(self, generator: torch.Generator) -> Batch:
        """One batch of training images at random."""
        places = torch.randint(len(self.train[1]), (self.batch,), generator=generator)
        return self.pick(self.train, places)

    def held_out(self) -> Iterator[Batch]:
        """The same held-out images every time, in batches."""
        for places in self.held_out_places.split(self.batch):
            yield self.pick(self.rest, places)


Task = NextCharacter | Classification


def written(spec: Any) -> str:
    """An input as the language writes it."""
    bound = f" < {spec.bound}" if spec.bound is not None else ""
    return f"{spec.name}: {spec.dtype}[{', '.join(map(str, spec.shape))}]{bound}"


def only_input(module: ModuleType) -> Any:
    """The module's one input, of a kind that this trainer has data for."""
    if len(module.INPUTS) != 1:
        names = ", ".join(spec.name for spec in module.INPUTS) or "none"
        raise Trouble(
            f"{module.MODEL} has {len(module.INPUTS)} inputs ({names}), but this trainer feeds "
            "exactly one: write a loop of your own for it"
        )
    spec = module.INPUTS[0]
    if (spec.dtype == "int" and len(spec.shape) == 2) or (
        spec.dtype == "float" and len(spec.shape) >= 2
    ):
        return spec
    raise Trouble(
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
    raise Trouble(
        f"{images.name} has inputs of shape {' × '.join(map(str, images.shape))}, which do not "
        f"fit {written(spec)}: compile the model for that size, or give other --data"
    )


def make_task(
    spec: Any, found: Text | Images, batch: int, context: int | None, eval_batches: int
) -> Task:
    """The task of feeding this data to that input. Raises Trouble where the two don't fit."""
    if isinstance(spec.shape[0], int) and spec.shape[0] != batch:
        raise Trouble(f"{written(spec)} fixes the batch: give --batch {spec.shape[0]}")
    if isinstance(found, Images):
        if spec.dtype == "int":
            raise Trouble(f"{found.name} is images, but {written(spec)} takes text")
        if context is not None:
            raise Trouble("--context is for text; images have no context")
        return Classification(found, image_shape(spec, found), batch, eval_batches)
    if spec.dtype == "float":
        raise Trouble(f"{found.name} is text, but {written(spec)} takes images")
    if spec.bound is not None and len(found.symbols) > spec.bound:
        raise Trouble(
            f"{found.name} has {len(found.symbols)} distinct characters, but the model knows "
            f"{spec.bound} ({written(spec)}): compile it with that many, as in "
            f"-p vocab={len(found.symbols)}"
        )
    fixed = spec.shape[1] if isinstance(spec.shape[1], int) else None
    if fixed is not None and context not in (None, fixed):
        raise Trouble(f"{written(spec)} fixes the context: give --context {fixed}")
    return NextCharacter(found, batch, fixed or context or 64, eval_batches)


def refusal(model: torch.nn.Module, x: torch.Tensor) -> Exception | None:
    """What the model raises on that input, or None."""
    try:
        with torch.no_grad():
            model(x)
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        return error
    return None


def probe(module: ModuleType, model: torch.nn.Module, task: Task) -> None:
    """Runs one example on the CPU, where a size that does not fit is an error and not a crash."""
    spec = module.INPUTS[0]
    x, y = task.draw(torch.Generator().manual_seed(0))
    if not isinstance(spec.shape[0], int):
        x, y = x[:1], y[:1]
    error = refusal(model, x)
    if error is not None and isinstance(task, NextCharacter):
        rows = {weight.shape[0] for weight in module.PLAN if weight.atom == "Embed"}
        for size in sorted((n for n in rows if n < task.context), reverse=True):
            if refusal(model, x[:, :size]) is None:
                raise Trouble(
                    f"the model's position table holds {size} places, fewer than the context of "
                    f"{task.context}: give --context {size}, or compile a longer table"
                )
    if error is not None:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Trouble(f"the model does not take an input of shape {tuple(x.shape)}: {first}")
    with torch.no_grad():
        output = model(x)
    wanted = (*y.shape, task.classes)
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else None
    if shape is None or shape[:-1] != wanted[:-1] or shape[-1] < wanted[-1]:
        raise Trouble(
            f"the model's output is {shape or type(output).__name__}, but the task needs "
            f"{wanted} (the data has {task.classes} {task.noun})"
        )
