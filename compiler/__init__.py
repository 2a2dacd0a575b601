"""modnorm: a graph compiler from a small architecture language to a normed optimizer.

    module = modnorm.load("gpt.mod", d_embed=512)   # compiled in memory, a Python module
    source = modnorm.compile("gpt.mod")             # the text of that module
    modnorm.report("gpt.mod")                       # masses, sensitivities, targets

Nothing here imports torch before a model is loaded.
"""

from __future__ import annotations

__version__ = "0.1.0"
