"""Programs that tests run, where they are installed."""

from __future__ import annotations

import shutil
import sysconfig

RUFF = shutil.which("ruff", path=sysconfig.get_path("scripts")) or shutil.which("ruff")
