"""Generated source as a module, without a file."""

from __future__ import annotations

import sys
from importlib.abc import InspectLoader
from importlib.util import module_from_spec, spec_from_loader
from types import CodeType, ModuleType


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


def import_source(source: str, stem: str) -> ModuleType:
    """The module with that source, its name made of `stem` and a checksum; the same once more.

    Raises:
        ImportError: if torch is not installed.
    """
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
