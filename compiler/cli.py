"""The command line: `modnorm compile`, `report`, `explain`, `check` and `transfer`.

Everything but click is imported by the command that needs it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

from modnorm import __version__
from modnorm.console import emit, is_colored, quiet, say, sentence, show, tell
from modnorm.kernels.tiles import DEFAULT, DEVICES
from modnorm.options import Command, check_options, force, mod_files, settings
from modnorm.report.formats import FORMATS
from modnorm.sweep_options import expect_showing, rates_of, transfer_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modnorm.diagnostics import Diagnostic
    from modnorm.pipeline import Analysis
    from modnorm.report.output import Read

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell."""
WIDTH = 80
MAX_WIDTH = 100
LOSSES = ["mse", "cross_entropy"]


class Failed(click.ClickException):
    """The input is at fault: what is wrong goes to stderr, and the exit status is 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        say(self.message)


class Commands(click.Group):
    """Commands whose usage errors hold nothing that a terminal obeys, whatever was written."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _readable():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _readable():
            return super().invoke(ctx)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        vars(error).update(message=sentence(error.message).rstrip("\n"))
        raise


# --- options ---------------------------------------------------------------------------------


def _model_options(command: Command) -> Command:
    """The options that choose and size a model."""
    for decorate in (
        click.option("--model", metavar="NAME", help="Which of the file's models to take."),
        click.option(
            "-p",
            "params",
            metavar="NAME=VALUE",
            multiple=True,
            callback=settings,
            help="Set a param of the file; may be repeated.",
        ),
        click.option(
            "--root",
            metavar="DIR",
            type=click.Path(exists=True, file_okay=False),
            help="Import no file from outside of this folder.",
        ),
    ):
        command = decorate(command)
    return command


# --- commands --------------------------------------------------------------------------------


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="modnorm", message="%(prog)s %(version)s")
def cli() -> None:
    """Compile a neural network, written as a tree of modules, into a PyTorch model
    with an optimizer that measures updates in the modular norm of that network.

    \b
    Examples:
      modnorm compile gpt.mod                      writes gpt.py
      modnorm compile gpt.mod -o small.py -p d_embed=64
      modnorm report gpt.mod                       masses, sensitivities, targets
      modnorm explain gpt.mod '*.attention.q.*'    how a weight's target comes about
      modnorm check gpt.mod                        runs the model: what is against what is said
      modnorm transfer gpt.mod --vary d_embed=32,64,128   where the best learning rate is
    """


@cli.command("compile", short_help="Compile a model into one Python file.")
@click.argument("file", metavar="FILE.mod", shell_complete=mod_files)
@click.option(
    "-o",
    "--output",
    metavar="OUT.py",
    help="Where to write; - is standard output. By default FILE.py in the current folder.",
)
@click.option("-q", "--quiet", is_flag=True, help="Do not say what was written.")
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing; exit with status 1 if OUT.py is not what would be written.",
)
@force
@click.option(
    "--device",
    type=click.Choice(["cpu", *DEVICES]),
    default=DEFAULT,
    show_default=True,
    help="The class of GPUs to choose kernels' tiles for; cpu leaves them out.",
)
@click.option(
    "--standalone", is_flag=True, help="Write what the file needs of modnorm into it, too."
)
@_model_options
def compile_(
    file: str,
    output: str | None,
    quiet: bool,
    check: bool,
    force: bool,
    device: str,
    standalone: bool,
    params: Mapping[str, str],
    model: str | None,
    root: str | None,
) -> None:
    """Compile FILE.mod into one Python file: the plan, the model, and optimizers for it.

    The file is written whole or, if something is wrong, not at all; and never over one that modnorm
    did not make, or that was changed since.

    \b
    Examples:
      modnorm compile gpt.mod
      modnorm compile gpt.mod -o models/wide.py -p d_embed=512 -p heads=8
      modnorm compile zoo.mod --model ResMLP -o - | less
      modnorm compile gpt.mod --standalone           for where modnorm is not
      modnorm compile gpt.mod --check                is gpt.py up to date?
    """
    if output is None:
        output = f"{PurePath(file).stem}.py"
    elif not _keeps_any(output, {"": file}) and PurePath(output).suffix.lower() != ".py":
        raise click.UsageError(f"'{output}' does not end in .py, as a Python file has to.")
    if check and force:
        raise click.UsageError("--check writes nothing: there is nothing for --force to replace.")
    if check and output == "-":
        raise click.UsageError("--check compares with a file: standard output is none.")
    with _failing():
        from modnorm.codegen.assemble import generate
        from modnorm.diagnostics import Diagnostics
        from modnorm.pipeline import ANALYSIS, analyse
        from modnorm.report.output import IMPORTED
        from modnorm.report.words import plural

        analysis = analyse(file, params, model, passes=ANALYSIS, root=root)
        renamed = Diagnostics()
        text = generate(analysis.program, device, renamed, standalone=standalone)
        _warn([*analysis.diagnostics, *renamed])
        if output == "-":
            emit(text)
        elif not check:
            _write({output: text}, {"": file, IMPORTED: analysis.sources}, force)
        elif not _holds(output, text.encode()):
            raise Failed(f"error: `{output}` is not what `{file}` compiles to: compile it anew\n")
        if not quiet:
            program = analysis.program
            weights = plural(sum(weight.copies for weight in program.weights), "weight")
            size = plural(program.entries, "parameter")
            where = "standard output" if output == "-" else output
            state = "up to date: " if check else ""
            tell(f"{where}: {state}{program.name}, {weights}, {size}")


@cli.command(short_help="Show masses, sensitivities and targets.")
@click.argument("file", metavar="FILE.mod", shell_complete=mod_files)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="By default what OUT's suffix stands for (.txt .json .md .html .dot), else text.",
)
@click.option("-o", "--output", metavar="OUT", help="Where to write, instead of standard output.")
@force
@_model_options
@click.option(
    "--against", metavar="OTHER.mod", help="Show what changes from FILE.mod to this file."
)
@click.option(
    "--against-p",
    "against_params",
    metavar="NAME=VALUE",
    multiple=True,
    callback=settings,
    help="Set a param of OTHER.mod; may be repeated.",
)
@click.option(
    "--against-model", metavar="NAME", help="Which of OTHER.mod's models; by default --model's."
)
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    help="Say how smooth this loss of the output is.",
)
@click.option("--check", metavar="JSON", help="Show what `modnorm check` measured (html).")
@click.option("--monitor", metavar="JSONL", help="Show what a run's monitor recorded (html).")
def report(
    file: str,
    form: str | None,
    output: str | None,
    force: bool,
    params: Mapping[str, str],
    model: str | None,
    root: str | None,
    against: str | None,
    against_params: Mapping[str, str],
    against_model: str | None,
    loss: str | None,
    check: str | None,
    monitor: str | None,
) -> None:
    """Show the masses, sensitivities and targets of the model in FILE.mod.

    \b
    Examples:
      modnorm report gpt.mod
      modnorm report gpt.mod -o gpt.html               a page for the browser
      modnorm report gpt.mod -p blocks=12 --format json -o gpt.json
      modnorm report gpt.mod --against gpt.mod --against-p blocks=96
    """
    from modnorm.report.formats import extras, refusal, render
    from modnorm.report.output import IMPORTED

    read: dict[str, Any] = {"": file, "--against": against, "--check": check, "--monitor": monitor}
    form = _form(output, form, FORMATS, read)
    if against is None and (against_params or against_model):
        raise click.UsageError("--against-p and --against-model need --against.")
    if refused := refusal(form, against=against, check=check, monitor=monitor):
        raise click.UsageError(f"{refused[:1].upper()}{refused[1:]}.")
    with _failing():
        analysis = _analyse(file, params, model, root, loss)
        other = None
        if against is not None:
            other = _analyse(against, against_params, against_model or model, root, loss)
        read[IMPORTED] = analysis.sources + (other.sources if other else ())
        beside = extras(form, against=other, check=check, monitor=monitor, program=analysis.program)
        to_stdout = output in (None, "-")
        wide, color = (_width(), is_colored(sys.stdout)) if to_stdout else (WIDTH, False)
        text = render(analysis, form, beside, width=wide, color=color)
        if output is not None and not to_stdout:
            from modnorm.codegen.signature import signed

            _write({output: signed(text, form)}, read, force)
        elif form == "text":
            show(text)
        else:
            emit(text)


@cli.command(short_help="Show how a weight's target comes about.")
@click.argument("file", metavar="FILE.mod", shell_complete=mod_files)
@click.argument("path")
@_model_options
def explain(
    file: str, path: str, params: Mapping[str, str], model: str | None, root: str | None
) -> None:
    """Show how the target of one weight of FILE.mod comes about, factor by factor.

    PATH is a weight's name, with or without `.weight`, a part of it, or a pattern with `*`.

    \b
    Examples:
      modnorm explain gpt.mod head.linear.weight
      modnorm explain gpt.mod body.block.2
      modnorm explain gpt.mod '*.attention.q.*' -p blocks=12
    """
    with _failing():
        from modnorm.report.explain import explanation

        show(explanation(_analyse(file, params, model, root).program, path))


@cli.command(short_help="Run the model, and measure what is declared and certified.")
@click.argument("file", metavar="FILE.mod", shell_complete=mod_files)
@check_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    help="Text for people, JSON for programs; by default what OUT's suffix stands for, else text.",
)
@click.option("-o", "--output", metavar="OUT", help="Where to write, instead of standard output.")
@force
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@_model_options
def check(
    file: str,
    form: str | None,
    output: str | None,
    force: bool,
    plot: str | None,
    quiet: bool,
    params: Mapping[str, str],
    model: str | None,
    root: str | None,
    **options: Any,
) -> None:
    """Build the model in FILE.mod, run it and measure it: how far each part stretches its input,
    how large inputs and weights are, how far an update moves the output; against what is declared
    and certified. Exits with status 1 where a certificate is violated.

    \b
    Examples:
      modnorm check gpt.mod
      modnorm check gpt.mod --checkpoint gpt.pt --data plays.txt --size seq=64
      modnorm check gpt.mod --vary d_embed=32,64,128 --plot widths.png
    """
    if plot is not None and not options["vary"]:
        raise click.UsageError("--plot draws the coordinate check: give --vary NAME=V1,V2,… too.")
    drawn = _picture(plot, output)
    read: dict[str, Any] = {
        "": file,
        **{f"--{name}": options[name] for name in ("data", "checkpoint")},
    }
    form = _form(output, form, ("text", "json"), read)
    if output == "-":
        output = None
    gc.enable()
    with _failing():
        from modnorm.api import imported
        from modnorm.measure.command import measured

        _expect_writable((plot, output), read, force)

        def variation(changed: Mapping[str, Any]) -> Analysis:
            analysis = _analyse(file, {**params, **changed}, model, root)
            _protect_imports((plot, output), read, analysis, force)
            return analysis

        text, picture, violations = measured(
            variation,
            options,
            importer=lambda program: imported(program, PurePath(file).stem),
            form=form,
            plot=drawn,
            progress=not quiet and _is_terminal(),
            look=(_width(), is_colored(sys.stdout)) if output is None else (WIDTH, False),
        )
        _write(_signed((plot, drawn, picture), (output, form, text)), read, force)
        if output is None and form == "json":
            emit(text)
        elif output is None:
            show(text)
        if violations:
            raise Failed("".join(sentence(f"error: {violation}") for violation in violations))


@cli.command(short_help="Find the best learning rate at several sizes, and how it drifts.")
@click.argument("file", metavar="FILE.mod", required=False, shell_complete=mod_files)
@transfer_options
@click.option("-o", "--output", metavar="OUT", help="Where to write, instead of standard output.")
@force
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@_model_options
def transfer(
    file: str | None,
    form: str | None,
    output: str | None,
    force: bool,
    plot: str | None,
    quiet: bool,
    params: Mapping[str, str],
    model: str | None,
    root: str | None,
    **options: Any,
) -> None:
    """Train the model in FILE.mod at several sizes and learning rates, find the best one at each
    size, and say by how much it drifts. Finished runs are kept: a sweep that was stopped goes on
    where it was.

    \b
    Examples:
      modnorm transfer gpt.mod --vary d_embed=32,64 --optimizer adam,muon
      modnorm transfer gpt.mod --vary d_embed=32,64 --vary blocks=2,4 -o a.json
      modnorm transfer --from a.json -o a.html
    """
    from modnorm.sweep import FORMATS as SHOWN
    from modnorm.sweep import default_store

    if (file is None) == (options["finished"] is None):
        raise click.UsageError("Give FILE.mod to sweep, or --from a finished sweep's JSON.")
    if file is None:
        expect_showing(click.get_current_context())
    drawn = _picture(plot, output)
    store = None if file is None else options["store"] or default_store(file)
    for name in filter(None, (plot, output)):
        if store is not None and os.path.realpath(name) == os.path.realpath(store):
            raise click.UsageError(f"'{name}' is the --store: its runs would be lost.")
    read: dict[str, Any] = {"": file, "--data": options["data"], "--from": options["finished"]}
    form = _form(output, form, SHOWN, read)
    if output == "-":
        output = None
    if options["dry_run"]:  # which writes nothing
        plot = output = None
    gc.enable()
    options["rates"] = rates_of(options)
    with _failing():
        from modnorm.pipeline import ANALYSIS, analyse
        from modnorm.sweep.command import transferred

        _expect_writable((plot, output), read, force)

        def variation(changed: Mapping[str, Any]) -> Analysis:
            given = {**params, **changed}
            analysis = analyse(file or "", given, model, passes=ANALYSIS, root=root)
            _protect_imports((plot, output), read, analysis, force)
            return analysis

        text, picture = transferred(
            file,
            {**options, "force": force and options["store"] is not None},
            variation=variation,
            form=form,
            picture=drawn,
            show=not quiet and _is_terminal(),
            look=(_width(), is_colored(sys.stdout)) if output is None else (WIDTH, False),
            tell=tell,
        )
        _write(_signed((plot, drawn, picture), (output, form, text)), read, force)
        if output is None:
            (show if form == "text" or options["dry_run"] else emit)(text)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 the input is at fault, 2 usage."""
    gc.disable()  # over before collecting would pay
    if hasattr(os, "fork"):  # a reader that goes away ends the program, as it ends any other
        import signal

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        status = _run()
    except OSError as error:  # of a stream: files have sentences of their own
        status = 1
        with suppress(OSError):
            say(f"error: cannot write to the terminal: {(error.strerror or str(error)).lower()}\n")
    quiet()
    sys.exit(status)


def _run() -> int:
    """Run the command line; the exit status."""
    try:
        cli.main(prog_name="modnorm", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        with suppress(OSError):  # without a terminal, the status has to say it
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return 0


# --- what the commands share -----------------------------------------------------------------


def _picture(plot: str | None, output: str | None) -> str | None:
    """The format of the picture that --plot names."""
    if plot is None:
        return None
    from modnorm.measure.interface import PICTURES

    drawn = PurePath(plot).suffix.lower().removeprefix(".")
    if drawn not in PICTURES:
        raise click.UsageError(f"--plot draws {' '.join(PICTURES)}: '{plot}' ends in none of them.")
    if output and os.path.realpath(plot) == os.path.realpath(output):
        raise click.UsageError(f"--plot and --output are both '{plot}': one would be lost.")
    return drawn


def _analyse(
    file: str,
    params: Mapping[str, str],
    model: str | None,
    root: str | None,
    loss: str | None = None,
) -> Analysis:
    from modnorm.pipeline import analyse, reported

    return analyse(file, params, model, passes=reported(loss), root=root)


@contextmanager
def _failing() -> Iterator[None]:
    """Turn what is wrong with the input, or with a plugin, into a message and status 1."""
    from modnorm.data.fetch import DataError
    from modnorm.diagnostics import Diagnostic, InternalError, ModnormError
    from modnorm.measure.problems import CheckError
    from modnorm.report.output import CannotWrite
    from modnorm.report.unusable import Unusable

    try:
        yield
    except click.ClickException:
        raise
    except ModnormError as error:
        raise Failed(_rendered(error.diagnostics)) from None
    except (CannotWrite, CheckError, DataError, InternalError, Unusable) as error:
        raise Failed(sentence(f"error: {error}")) from None
    except RecursionError:
        deep = Diagnostic("E104", "the model is nested too deeply to compile")
        raise Failed(_rendered([deep])) from None
    except Exception as error:
        from modnorm.report.plugins import culprit

        plugin = culprit(error)
        if not plugin:
            raise
        said = f"error: {plugin} failed: {type(error).__name__}: {error}"
        raise Failed(sentence(said)) from error


def _rendered(diagnostics: Iterable[Diagnostic]) -> str:
    from modnorm.report.diagnostics import render

    return render(diagnostics, color=is_colored(sys.stderr))


def _warn(diagnostics: Iterable[Diagnostic]) -> None:
    say(_rendered(diagnostics))


def _is_terminal() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def _width() -> int:
    """How wide a report on standard output may be."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (AttributeError, OSError, ValueError):  # no terminal
        return WIDTH
    return min(columns or WIDTH, MAX_WIDTH)


def _form(output: str | None, form: str | None, forms: Iterable[str], read: Read) -> str:
    """The format to write."""
    from modnorm.report.formats import BadEnding, chosen

    try:
        return chosen(output, form, forms)
    except BadEnding as error:
        if output is not None and _keeps_any(output, read):
            return form or "text"
        raise click.UsageError(str(error)) from None


def _keeps_any(output: str, read: Read) -> bool:
    """Whether a name's ending does not matter: no file is written there."""
    if output in ("", "-") or output.endswith(("/", os.sep)):
        return True
    from modnorm.report.output import is_special, reader_of

    return is_special(output) or bool(reader_of(output, read))


def _holds(path: str, content: bytes) -> bool:
    """Whether a file has just that in it."""
    try:
        with open(path, "rb") as file:
            return file.read(len(content) + 1) == content
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False


def _signed(*outputs: tuple[str | None, str | None, str | bytes]) -> dict[str, str | bytes]:
    """The contents of files by their names: what is made, in its format, with its mark."""
    from modnorm.codegen.signature import signed

    return {path: signed(made, form) for path, form, made in outputs if path and form}


def _expect_writable(paths: Iterable[str | None], read: Read, force: bool) -> None:
    """Refuse what cannot be written, before the work whose result it shall hold."""
    from modnorm.report.output import expect_writable

    for path in filter(None, paths):
        expect_writable(path, source=read, force=force)


def _protect_imports(
    paths: Iterable[str | None],
    read: dict[str, Any],
    analysis: Analysis,
    force: bool,
) -> None:
    """Add what a file imports to what is read, which is known once it has been analysed."""
    from modnorm.report.output import IMPORTED

    if IMPORTED not in read:
        read[IMPORTED] = analysis.sources
        _expect_writable(paths, read, force)


def _write(contents: Mapping[str, str | bytes], source: Read, force: bool) -> None:
    from modnorm.report.output import write_all

    write_all(contents, source=source, force=force)
