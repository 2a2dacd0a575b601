"""What a user gets to see of a model: diagnostics, the report, explanations, files.

`modnorm.report("gpt.mod")` is a function of the Python interface. This package has the same name,
so it can be called like that function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from modnorm.report.interface import report

        return report(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
