"""What `modnorm compile` takes: whole processes, beside an empty Python, for 4 and 1000 blocks.

    python benchmarks/compile.py [--rounds 15]

In turns; prints medians of wall and of processor time as a Markdown table.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GPT = Path(__file__).parent.parent / "examples" / "gpt.mod"


def once(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one run of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        compile_ = [sys.executable, "-m", "modnorm", "compile", "-q", str(GPT)]
        commands = {
            "an empty Python": [sys.executable, "-c", "pass"],
            "compile, 4 blocks": [*compile_, "-o", str(out / "a.py")],
            "compile, 1000 blocks": [*compile_, "-p", "blocks=1000", "-o", str(out / "b.py")],
        }
        for command in commands.values():
            once(command)
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                runs[name].append(once(command))
        lines = {
            "compile, 4 blocks": len((out / "a.py").read_text().splitlines()),
            "compile, 1000 blocks": len((out / "b.py").read_text().splitlines()),
        }
    print(f"{platform.platform()}, Python {platform.python_version()}, {rounds} rounds\n")
    print("| | wall, s | processor, s | lines of output |")
    print("| --- | --- | --- | --- |")
    for name, times in runs.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {name} | {wall:.3f} | {cpu:.3f} | {lines.get(name, '')} |")


if __name__ == "__main__":
    main()
