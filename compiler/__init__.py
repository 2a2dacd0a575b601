"""modnorm: a graph compiler from a small architecture language to a normed optimizer.

    module = modnorm.load("gpt.mod", d_embed=512)   # compiled in memory, a Python module
    source = modnorm.compile("gpt.mod")             # the text of that module
    modnorm.report("gpt.mod")                       # masses, sensitivities, targets
    modnorm.explain("gpt.mod", "head.linear")       # how a weight's target comes about
    modnorm.check("gpt.mod")                        # what is declared and certified, measured
    modnorm.transfer("gpt.mod", vary={"blocks": [2, 4]})   # how the best learning rate drifts
    modnorm.adopt(model, example, lr=0.3)           # an optimizer for a model written in PyTorch
    modnorm.audit(model, optimizer, example)        # what an optimizer takes for what it is not
    modnorm.import_model(model, example)            # the `.mod` text of a model written in PyTorch

Nothing here imports torch before a model is loaded, adopted, audited or imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modnorm.adopting.audit import audit
    from modnorm.adopting.audited import Audit
    from modnorm.adopting.interface import adopt
    from modnorm.adopting.plan import load_plan
    from modnorm.adopting.problems import AuditError
    from modnorm.api import (
        Check,
        CheckError,
        DataError,
        Explained,
        ModnormError,
        MonitorError,
        Report,
        Transfer,
        analyse_text,
        check,
        compile,
        explain,
        load,
        read_monitor,
        report,
        transfer,
    )
    from modnorm.importing.interface import import_model
    from modnorm.importing.problems import ImportFailed

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "AuditError",
    "Check",
    "CheckError",
    "DataError",
    "Explained",
    "ImportFailed",
    "ModnormError",
    "MonitorError",
    "Report",
    "Transfer",
    "__version__",
    "adopt",
    "analyse_text",
    "audit",
    "check",
    "compile",
    "explain",
    "import_model",
    "load",
    "load_plan",
    "read_monitor",
    "report",
    "transfer",
]


ADOPTING = {
    "Audit": "modnorm.adopting.audited",
    "AuditError": "modnorm.adopting.problems",
    "adopt": "modnorm.adopting.interface",
    "audit": "modnorm.adopting.audit",
    "ImportFailed": "modnorm.importing.problems",
    "import_model": "modnorm.importing.interface",
    "load_plan": "modnorm.adopting.plan",
}
"""What needs torch at once, and where it is."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ADOPTING:
        return getattr(import_module(ADOPTING[name]), name)
    from modnorm import api

    # the package `modnorm.report` takes the name of the function, and can be called like it
    return globals().get(name) or getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
