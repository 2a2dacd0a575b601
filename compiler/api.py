"""What `import modnorm` offers: compile, load and report on `.mod` files from Python.

Names of params may be those of the functions' own arguments; such a param can be set on the command
line only.
"""

from __future__ import annotations

import sys
from importlib.abc import InspectLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

from modnorm.codegen.assemble import generate
from modnorm.kernels import tiles
from modnorm.report.interface import (
    FilePath,
    ModnormError,
    Report,
    analyse,
    analyse_text,
    report,
)
from modnorm.report.output import write

__all__ = ["ModnormError", "Report", "analyse_text", "compile", "load", "report"]


def compile(
    path: FilePath,
    /,
    *,
    model: str | None = None,
    output: FilePath | None = None,
    device: str = tiles.DEFAULT,
    **params: object,
) -> str:
    """The source of the Python file that a `.mod` file compiles to; written to `output` if given.

    `params` are values of the file's params: numbers, bools or strings. `device` is the class of
    GPUs to choose kernels' tiles for, or "cpu" to leave the kernels out.

    Raises:
        ValueError: if there is no such class of devices.
        ModnormError: with every mistake found in the file; nothing is written then.
        OSError: if `output` cannot be written; nothing has changed then.
    """
    if device not in ("cpu", *tiles.DEVICES):
        raise ValueError(f"device must be one of {['cpu', *tiles.DEVICES]}, not {device!r}")
    source = generate(analyse(path, model, params).program, device)
    if output is not None:
        write(output, source, source=path)
    return source


def load(path: FilePath, /, *, model: str | None = None, **params: object) -> ModuleType:
    """Compile a `.mod` file in memory and import the result.

    The module has the model's class, `PLAN` and the optimizers. It stands in `sys.modules` under a
    name made from its source, so that its objects can be pickled, and the same file with the same
    params gives the same module.

    Raises:
        ModnormError: with every mistake found in the file.
        ImportError: if torch is not installed.
    """
    return _import(generate(analyse(path, model, params).program), Path(path).stem)


class _Loader(InspectLoader):
    """Gives the import system a module that is in no file; tracebacks show its source."""

    def __init__(self, source: str, filename: str) -> None:
        self.source = source
        self.filename = filename

    def get_source(self, fullname: str) -> str:
        return self.source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(_encoded(self.source), self.filename)


def _encoded(source: str) -> bytes:
    return source.encode("utf-8", "backslashreplace")


def _import(source: str, stem: str) -> ModuleType:
    import linecache
    from hashlib import sha256

    digest = sha256(_encoded(source)).hexdigest()[:16]
    name = f"modnorm_compiled_{''.join(c if c.isalnum() else '_' for c in stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    filename = f"<{name}>"
    loader = _Loader(source, filename)
    spec = spec_from_loader(name, loader, origin=filename)
    assert spec is not None
    module = module_from_spec(spec)
    module.__file__ = filename
    # no time of change: an entry that is kept though there is no such file
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
