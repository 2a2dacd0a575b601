"""What a user gets to see of a model: diagnostics, the report, explanations, files.

`modnorm.report("gpt.mod")` is a function of the Python interface. This package has the same name,
so it can be called like that function, and has its signature and its help.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["report"]


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.report(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name not in ("report", "__wrapped__"):  # the second is what signatures are read from
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        from modnorm.report.interface import report

        return report

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *__all__]


sys.modules[__name__].__class__ = _Callable
