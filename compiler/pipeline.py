"""The whole way from a `.mod` file to a program that every pass has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modnorm.diagnostics import Diagnostic, Diagnostics, ModnormError
from modnorm.graph.elaborate import elaborate
from modnorm.graph.modules import Mentions
from modnorm.passes.certify import Certify
from modnorm.passes.counts import Counts
from modnorm.passes.find_streams import FindStreams
from modnorm.passes.flow import Flow
from modnorm.passes.losses import Loss
from modnorm.passes.masses import Masses
from modnorm.passes.pixels import PixelsLeft
from modnorm.passes.program import Hook, ModelInput, Pass, Program, run_passes
from modnorm.passes.renames import Renames
from modnorm.passes.sensitivity import Sensitivities
from modnorm.passes.shapes import Shapes
from modnorm.passes.sharpness import SharpnessPass
from modnorm.passes.targets import Targets
from modnorm.passes.warnings import Warnings
from modnorm.stack import room
from modnorm.syntax.loader import Loaded, load, load_text

ANALYSIS: tuple[Pass, ...] = (
    Shapes(),
    Masses(),
    FindStreams(),
    Sensitivities(),
    Flow(),
    Targets(),
    SharpnessPass(),
    Counts(),
    Renames(),
    Warnings(),
    PixelsLeft(),
)
"""The passes that code generation needs, in order: each needs what those before it filled in."""

CERTIFIED: tuple[Pass, ...] = (*ANALYSIS, Certify())
"""Those that reports need."""


def reported(loss: str | None) -> tuple[Pass, ...]:
    """The passes of a report that also speaks of a loss, one of `LOSSES`."""
    return CERTIFIED if loss is None else (*CERTIFIED, Loss(loss))


@dataclass(frozen=True)
class Analysis:
    """A program with everything the passes found out, and the warnings on the way.

    sources: the names of the files that it was read from, its own first, the library's left out.
    """

    program: Program
    diagnostics: tuple[Diagnostic, ...]
    sources: tuple[str, ...] = ()


def analyse(
    path: str | Path,
    params: Mapping[str, object] | None = None,
    model: str | None = None,
    hook: Hook | None = None,
    passes: tuple[Pass, ...] = CERTIFIED,
    root: str | Path | None = None,
) -> Analysis:
    """Read and analyse a `.mod` file; with `root`, importing files in that folder only.

    Raises:
        ModnormError: with every mistake found in it.
    """
    diagnostics = Diagnostics()
    return _analyse(load(Path(path), diagnostics, root), params, model, diagnostics, hook, passes)


def analyse_text(
    text: str,
    name: str = "<text>",
    params: Mapping[str, object] | None = None,
    model: str | None = None,
    hook: Hook | None = None,
    passes: tuple[Pass, ...] = CERTIFIED,
    root: str | Path | None = None,
) -> Analysis:
    """Analyse a program given as text; its imports are relative to the working directory.

    Raises:
        ModnormError: with every mistake found in it.
    """
    diagnostics = Diagnostics()
    loaded = load_text(text, name, diagnostics, root=root)
    return _analyse(loaded, params, model, diagnostics, hook, passes)


def _analyse(
    loaded: Loaded | None,
    params: Mapping[str, object] | None,
    model: str | None,
    diagnostics: Diagnostics,
    hook: Hook | None,
    passes: tuple[Pass, ...],
) -> Analysis:
    if loaded is None or any(file.is_cut for file in loaded.files):
        diagnostics.check()
    assert loaded is not None
    try:
        with room():
            found = elaborate(loaded.main, loaded, params or {}, model, diagnostics)
            diagnostics.mention = Mentions(found.tree)
            program = Program(
                found.name,
                loaded.main.source,
                found.span,
                found.params,
                tuple(ModelInput(i.name, i.type, i.span) for i in found.inputs),
                found.tree,
                found.renames,
            )
            program = run_passes(program, passes, diagnostics, hook)
    except RecursionError:
        raise ModnormError(
            [Diagnostic("E104", f"{loaded.main.source.name} is nested too deeply to compile")]
        ) from None
    sources = tuple(file.source.name for file in loaded.files if not file.source.library)
    return Analysis(program, tuple(diagnostics), sources)
