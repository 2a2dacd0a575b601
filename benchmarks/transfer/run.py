"""The sweeps behind docs/transfer.md: runs them, and keeps what they gave in results/.

    python benchmarks/transfer/run.py --list
    python benchmarks/transfer/run.py gpt mlp            # goes on where it was stopped
    python benchmarks/transfer/run.py gpt --print        # only the command

Finished runs are kept in runs/transfer/NAME.db; a sweep whose runs are all there ends at once.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
from sweeps import SWEEPS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
STORES = ROOT / "runs" / "transfer"


def command(name: str) -> list[str]:
    """The command line of a sweep, as it is run from the repository's root."""
    return [
        "modnorm", "transfer", *SWEEPS[name].arguments,
        "--store", str((STORES / f"{name}.db").relative_to(ROOT)),
        "-o", str((RESULTS / f"{name}.json").relative_to(ROOT)),
    ]  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME]...", type=click.Choice(list(SWEEPS)))
@click.option("--list", "lists", is_flag=True, help="Say what there is.")
@click.option("--print", "prints", is_flag=True, help="Print the commands instead of running them.")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at once.")
def main(names: tuple[str, ...], lists: bool, prints: bool, jobs: int | None) -> None:
    """Run sweeps by name, all of them by default."""
    if lists:
        for name, sweep in SWEEPS.items():
            click.echo(f"{name:12} {sweep.about}")
        return
    STORES.mkdir(parents=True, exist_ok=True)
    folders = [str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    for name in names or SWEEPS:
        arguments = command(name)
        click.echo(f"PYTHONPATH=benchmarks/transfer {shlex.join(arguments)}", err=not prints)
        if prints:
            continue
        more = ["--force"]  # results of earlier versions bear no mark, and git has them
        more += ["--jobs", str(jobs)] if jobs is not None else []
        modnorm = [sys.executable, "-m", "modnorm"]
        done = subprocess.run([*modnorm, *arguments[1:], *more], cwd=ROOT, env=environment)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
