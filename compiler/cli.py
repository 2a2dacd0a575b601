"""The command line: `modnorm compile`, `report`, `explain`, `check`, `transfer`, `audit`, `import`.

Everything but click is imported by the command that needs it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from modnorm import __version__
from modnorm.adopting.options import AuditOptions
from modnorm.codegen.options import CompileOptions
from modnorm.command_line import expect_only, mod_file, rates_of, takes
from modnorm.console import emit, is_colored, quiet, say, sentence, show, tell
from modnorm.importing.options import ImportOptions
from modnorm.measure.options import CheckOptions
from modnorm.options import ModelOptions, declared
from modnorm.report.options import ReportOptions
from modnorm.sweep.options import Shown, TransferOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modnorm.diagnostics import Diagnostic
    from modnorm.passes.program import Pass
    from modnorm.pipeline import Analysis
    from modnorm.report.output import Read

OF_PLANS = ("format", "output", "force")
"""Options of commands that plans have a use for."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell."""
WIDTH = 80
MAX_WIDTH = 100


class Failed(click.ClickException):
    """The input is at fault: what is wrong goes to stderr, and the exit status is 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        say(self.message)


class Commands(click.Group):
    """Commands that say what is wrong in words that a terminal shows, whatever was written."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _told():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _told():
            return super().invoke(ctx)


@contextmanager
def _told() -> Iterator[None]:
    """Turn what is wrong with the input, or with a plugin, into a message and status 1."""
    try:
        yield
    except click.UsageError as error:
        vars(error).update(message=sentence(error.message).rstrip("\n"))
        raise
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if failed := _failed(error):
            raise failed from error
        raise


def _failed(error: Exception) -> Failed | None:
    """What is said of an error that is not ours."""
    from modnorm.adopting.problems import AuditError
    from modnorm.data.fetch import DataError
    from modnorm.diagnostics import Diagnostic, InternalError, ModnormError
    from modnorm.importing.problems import ImportFailed
    from modnorm.measure.problems import CheckError
    from modnorm.report.output import CannotWrite
    from modnorm.report.unusable import Unusable

    match error:
        case ModnormError():
            return Failed(_rendered(error.diagnostics))
        case (
            AuditError() | CannotWrite() | CheckError() | DataError() | InternalError() | Unusable()
        ):
            return Failed(sentence(f"error: {error}"))
        case ImportFailed():
            first, *places = str(error).splitlines()
            return Failed("".join(map(sentence, (f"error: {first}", *places))))
        case RecursionError():
            deep = Diagnostic("E104", "the model is nested too deeply to compile")
            return Failed(_rendered([deep]))
    from modnorm.report.plugins import culprit

    plugin = culprit(error)
    if not plugin:
        return None
    return Failed(sentence(f"error: {plugin} failed: {type(error).__name__}: {error}"))


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
      modnorm audit own:model --optimizer own:optimizer   does the optimizer fit the model?
      modnorm import own:model --example own:batch -o own.mod   a PyTorch model as a .mod file
    """


@cli.command("compile", short_help="Compile a model into one Python file.")
@mod_file()
@takes(CompileOptions)
def compile_(file: str, options: CompileOptions) -> None:
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
    output = options.output
    if output is None:
        output = f"{PurePath(file).stem}.py"
    elif not _keeps_any(output, {"": file}) and PurePath(output).suffix.lower() != ".py":
        raise click.UsageError(f"'{output}' does not end in .py, as a Python file has to.")
    if options.check and options.force:
        raise click.UsageError("--check writes nothing: there is nothing for --force to replace.")
    if options.check and output == "-":
        raise click.UsageError("--check compares with a file: standard output is none.")
    from modnorm.codegen.assemble import generate
    from modnorm.diagnostics import Diagnostics
    from modnorm.pipeline import ANALYSIS
    from modnorm.report.output import IMPORTED, write
    from modnorm.report.words import plural

    analysis = _analyse(file, options, ANALYSIS)
    renamed = Diagnostics()
    text = generate(analysis.program, options.device, renamed, standalone=options.standalone)
    say(_rendered([*analysis.diagnostics, *renamed]))
    if output == "-":
        emit(text)
    elif not options.check:
        read: Read = {"": file, IMPORTED: analysis.sources}
        write(output, text, source=read, force=options.force)
    elif not _holds(output, text.encode()):
        raise Failed(f"error: `{output}` is not what `{file}` compiles to: compile it anew\n")
    if not options.quiet:
        program = analysis.program
        weights = plural(sum(weight.copies for weight in program.weights), "weight")
        size = plural(program.entries, "parameter")
        where = "standard output" if output == "-" else output
        state = "up to date: " if options.check else ""
        tell(f"{where}: {state}{program.name}, {weights}, {size}")


@cli.command(short_help="Show masses, sensitivities and targets.")
@mod_file()
@takes(ReportOptions)
def report(file: str, options: ReportOptions) -> None:
    """Show the masses, sensitivities and targets of the model in FILE.mod, or in a plan that
    `modnorm.adopt(…).plan.save` wrote.

    \b
    Examples:
      modnorm report gpt.mod
      modnorm report plan.json
      modnorm report gpt.mod -o gpt.html               a page for the browser
      modnorm report gpt.mod -p blocks=12 --format json -o gpt.json
      modnorm report gpt.mod --against gpt.mod --against-p blocks=96
    """
    from modnorm.report.formats import extras, refusal, render
    from modnorm.report.output import IMPORTED

    work = _Work(file, options, "against", "check", "monitor")
    if _is_plan(file):
        from modnorm.report import planned
        from modnorm.report.saved import read_plan

        width, color = work.look
        plan = read_plan(file)
        work.write(planned.render(plan, work.form, width=width, color=color))
        return
    beside = {name: getattr(options, name) for name in ("against", "check", "monitor")}
    if options.against is None and (options.against_params or options.against_model):
        raise click.UsageError("--against-p and --against-model need --against.")
    if refused := refusal(work.form, **beside):
        raise click.UsageError(f"{refused[:1].upper()}{refused[1:]}.")
    from modnorm.pipeline import reported

    passes = reported(options.loss)
    analysis, other = _analyse(file, options, passes), None
    if options.against is not None:
        other = _analyse(options.against, options.of_other, passes)
    work.read[IMPORTED] = analysis.sources + (other.sources if other else ())
    shown = extras(work.form, **{**beside, "against": other}, program=analysis.program)
    width, color = work.look
    work.write(render(analysis, work.form, shown, width=width, color=color))


@cli.command(short_help="Show how a weight's target comes about.")
@mod_file()
@click.argument("path")
@takes(ModelOptions)
def explain(file: str, path: str, options: ModelOptions) -> None:
    """Show how the target of one weight of FILE.mod, or of a saved plan, comes about, factor by
    factor.

    PATH is a weight's name, with or without `.weight`, a part of it, or a pattern with `*`.

    \b
    Examples:
      modnorm explain gpt.mod head.linear.weight
      modnorm explain gpt.mod body.block.2
      modnorm explain gpt.mod '*.attention.q.*' -p blocks=12
    """
    if _is_plan(file):
        from modnorm.report import planned
        from modnorm.report.saved import read_plan

        show(planned.explanation(read_plan(file), path))
        return
    from modnorm.pipeline import CERTIFIED
    from modnorm.report.explain import explanation

    show(explanation(_analyse(file, options, CERTIFIED).program, path))


@cli.command(short_help="Run the model, and measure what is declared and certified.")
@mod_file()
@takes(CheckOptions)
def check(file: str, options: CheckOptions) -> None:
    """Build the model in FILE.mod, run it and measure it: how far each part stretches its input,
    how large inputs and weights are, how far an update moves the output; against what is declared
    and certified. Exits with status 1 where a certificate is violated.

    \b
    Examples:
      modnorm check gpt.mod
      modnorm check gpt.mod --checkpoint gpt.pt --data plays.txt --size seq=64
      modnorm check gpt.mod --vary d_embed=32,64,128 --plot widths.png
    """
    if options.plot is not None and not options.vary:
        raise click.UsageError("--plot draws the coordinate check: give --vary NAME=V1,V2,… too.")
    work = _Work(file, options, "data", "checkpoint")
    gc.enable()
    from modnorm.measure.interface import measured, rendered
    from modnorm.pipeline import CERTIFIED

    work.expect_writable()
    found = measured(
        lambda changed: work.analyse(CERTIFIED, changed),
        options,
        progress=not options.quiet and _is_terminal(),
    )
    picture = found.plot(work.picture) if work.picture is not None else b""
    work.write(rendered(found.findings, work.form, *work.look), picture)
    if found.violations:
        raise Failed("".join(sentence(f"error: {said}") for said in found.violations))


@cli.command(short_help="Find the best learning rate at several sizes, and how it drifts.")
@mod_file(required=False)
@takes(TransferOptions)
def transfer(file: str | None, options: TransferOptions) -> None:
    """Train the model in FILE.mod at several sizes and learning rates, find the best one at each
    size, and say by how much it drifts. Finished runs are kept: a sweep that was stopped goes on
    where it was.

    \b
    Examples:
      modnorm transfer gpt.mod --vary d_embed=32,64 --optimizer adam,muon
      modnorm transfer gpt.mod --vary d_embed=32,64 --vary blocks=2,4 -o a.json
      modnorm transfer --from a.json -o a.html
    """
    from modnorm.sweep import default_store

    if (file is None) == (options.finished is None):
        raise click.UsageError("Give FILE.mod to sweep, or --from a finished sweep's JSON.")
    if file is None:
        expect_only(Shown, click.get_current_context())
    store = None if file is None else options.store or default_store(file)
    for name in filter(None, (options.plot, options.output)):
        if store is not None and os.path.realpath(name) == os.path.realpath(store):
            raise click.UsageError(f"'{name}' is the --store: its runs would be lost.")
    work = _Work(file, options, "data", "finished")
    gc.enable()
    if options.dry_run:  # which writes nothing
        work.plot = work.output = None
        work.form = "text"
    rates = rates_of(options)
    from modnorm.pipeline import ANALYSIS
    from modnorm.sweep.interface import transferred

    work.expect_writable()
    text, picture = transferred(
        file,
        options.but(store=store, force=options.force and options.store is not None),
        rates,
        variation=lambda changed: work.analyse(ANALYSIS, changed),
        form=work.form,
        picture=work.picture,
        show=not options.quiet and _is_terminal(),
        look=work.look,
    )
    work.write(text, picture)


@cli.command(short_help="Find parameters that an optimizer takes for what they are not.")
@click.argument("model", metavar="MODULE:FACTORY")
@takes(AuditOptions)
def audit(model: str, options: AuditOptions) -> None:
    """Run a model that is written in PyTorch, step its optimizer on made-up gradients, and find
    parameters that it treats in another way than their use implies: tables that are orthogonalised,
    fused matrices taken for one, parameters never given. Exits with status 1 where there are some.

    FACTORY, a function of a module that is here or installed, returns the model.

    \b
    Examples:
      modnorm audit own:model --optimizer own:optimizer --example own:batch
      modnorm audit own:model --optimizer own:optimizer -o audit.html
      modnorm audit own:model --example own:batch --fix torch  what would be right
    """
    if options.optimizer is None and options.fix is None:
        raise click.UsageError("Give --optimizer MODULE:FUNCTION to audit one, or --fix.")
    if options.fix == "mup" and options.other is None:
        raise click.UsageError("--fix mup tells from --other, a second width, which axes grow.")
    if options.fix is not None and (options.format, options.output) != (None, None):
        raise click.UsageError("--fix prints a file of its own kind: no --format, no --output.")
    from modnorm.adopting.command import audited, mended_file

    gc.enable()
    if options.fix is not None:
        emit(mended_file(model, options))
        return
    work = _Work(None, options)
    work.expect_writable()
    found = audited(model, options)
    from modnorm.adopting.audited import rendered
    from modnorm.report.words import plural

    work.write(rendered(found, work.form, *work.look))
    if found.findings:
        raise Failed(sentence(f"error: {plural(len(found.findings), 'finding')}"))


@cli.command("import", short_help="Write the .mod file of a model that is written in PyTorch.")
@click.argument("model", metavar="MODULE:FACTORY")
@takes(ImportOptions)
def import_(model: str, options: ImportOptions) -> None:
    """Run a model that is written in PyTorch once, and write it down in the language of .mod files:
    what it computes, and by `rename` which tensors of its checkpoint are its weights. What is
    written is compiled and compared with the model before it is kept. Exits with status 1, and a
    list of the places, where parts of the model have no words in the language.

    FACTORY, a function of a module that is here or installed, returns the model; hf:CONFIG.json is
    a configuration of a family that transformers has.

    \b
    Examples:
      modnorm import own:model --example own:batch -o own.mod
      modnorm import hf:config.json -o gpt.mod
    """
    from modnorm.importing.command import imported
    from modnorm.report.output import expect_writable

    gc.enable()
    output = None if options.output == "-" else options.output
    if output is not None:
        expect_writable(output, source={}, force=options.force)
    text = imported(model, options)
    if output is None:
        emit(text)
        return
    from modnorm.codegen.signature import signed
    from modnorm.report.output import write_all

    write_all({output: signed(text, "python")}, source={}, force=options.force)
    tell(f"{output}: gives what {model} gives, to 1e-5 of the largest output")


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


def _is_plan(file: str) -> bool:
    """Whether a file is a plan.

    Raises:
        UsageError: if an option is given that is for programs.
    """
    from modnorm.report.formats import is_plan

    if not is_plan(file):
        return False
    context = click.get_current_context()
    for option in context.command.get_params(context):
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and isinstance(option, click.Option) and option.name not in OF_PLANS:
            raise click.UsageError(
                f"{option.opts[-1]} is for programs, and '{file}' is a plan: leave it out."
            )
    return True


def _analyse(file: str, options: ModelOptions, passes: tuple[Pass, ...]) -> Analysis:
    from modnorm.pipeline import analyse

    return analyse(file, options.params, options.model, passes=passes, root=options.root)


_Options = AuditOptions | CheckOptions | ReportOptions | TransferOptions


class _Work:
    """What a command reads, and what it writes: a text in a format, and maybe a picture.

    `reads` names the options of files that are read.
    """

    def __init__(self, file: str | None, options: _Options, *reads: str) -> None:
        self.file, self.options, known = file or "", options, declared(type(options))
        named = {known[name].names(name)[-1]: getattr(options, name) for name in reads}
        self.read: dict[str, Any] = {"": file, **named}
        self.plot: str | None = getattr(options, "plot", None)
        self.picture = _picture(self.plot, options.output)
        self.form = self._form(known["format"].choices)
        self.output: str | None = None if options.output == "-" else options.output

    def _form(self, forms: Sequence[str]) -> str:
        """The format to write."""
        from modnorm.report.formats import BadEnding, chosen

        output = self.options.output
        try:
            return chosen(output, self.options.format, forms)
        except BadEnding as error:
            if output is not None and _keeps_any(output, self.read):
                return self.options.format or "text"
            raise click.UsageError(str(error)) from None

    @property
    def look(self) -> tuple[int, bool]:
        """How wide a text may be, and whether it has colours."""
        if self.output is not None:
            return WIDTH, False
        try:
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
        except (AttributeError, OSError, ValueError):  # no terminal
            columns = 0
        return min(columns or WIDTH, MAX_WIDTH), is_colored(sys.stdout)

    def expect_writable(self) -> None:
        """Refuse what cannot be written, before the work whose result it shall hold."""
        from modnorm.report.output import expect_writable

        for path in (self.plot, self.output):
            if path is not None:
                expect_writable(path, source=self.read, force=self.options.force)

    def analyse(self, passes: tuple[Pass, ...], changed: Mapping[str, Any]) -> Analysis:
        """The analysis with some params changed; what the file imports is not written over."""
        from modnorm.report.output import IMPORTED

        assert isinstance(self.options, ModelOptions)
        analysis = _analyse(self.file, self.options.varied(changed), passes)
        if IMPORTED not in self.read:
            self.read[IMPORTED] = analysis.sources
            self.expect_writable()
        return analysis

    def write(self, text: str, picture: bytes = b"") -> None:
        """Write what goes to files, all or none of it; then what goes to standard output."""
        from modnorm.codegen.signature import signed
        from modnorm.report.output import write_all

        made = (self.plot, self.picture or "", picture), (self.output, self.form, text)
        contents = {path: signed(one, form) for path, form, one in made if path is not None}
        write_all(contents, source=self.read, force=self.options.force)
        if self.output is None:
            (show if self.form == "text" else emit)(text)


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


def _rendered(diagnostics: Iterable[Diagnostic]) -> str:
    from modnorm.report.diagnostics import render

    return render(diagnostics, color=is_colored(sys.stderr))


def _is_terminal() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


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
