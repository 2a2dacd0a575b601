"""Python scripts run by a process that has imported torch, which takes seconds, and forks for each.

server = Warm(limit=300)
text = server.run(["train.py", "--steps", "5"], folder, environment)
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path


class Warm:
    """A process that waits for scripts, until this one ends."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # seconds that a script may take
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
            encoding="utf-8",
        )

    def run(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> str:
        """What a script prints, errors among it."""
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.NamedTemporaryFile() as out:
            request = {"argv": arguments, "cwd": str(folder), "env": environment}
            request |= {"out": out.name, "limit": self.limit}
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n", "the process that runs scripts has ended"
            return Path(out.name).read_text(encoding="utf-8")


def serve() -> None:
    """Run what standard input asks for, a line each, one after the other."""
    import torch._dynamo  # optimizers import it

    assert torch
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            script(**json.loads(line))
        os.waitpid(child, 0)
        print("done", flush=True)


def script(argv: list[str], cwd: str, env: dict[str, str], out: str, limit: int) -> None:
    """Become the process of a script."""
    file, nothing = os.open(out, os.O_WRONLY), os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(old, new)
    signal.alarm(limit)
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv, sys.path[0] = argv, cwd
    sys.path[1:1] = env.get("PYTHONPATH", "").split(os.pathsep)
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    serve()
