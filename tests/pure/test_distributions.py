"""What is published: a source distribution, the wheel made from it, and what it does installed.

The environments that it is installed into have what pip would bring with it and nothing else: links
to those packages of the running environment.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import modnorm

pytest.importorskip("build", reason="build is not installed")
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"compiler": "modnorm", "kernels": "modnorm/kernels", "grammar": "modnorm/grammar"}
"""The folders of the package, and where the wheel has them."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALLED = (".py", ".lark", ".mod", ".typed", ".html", ".css", ".js")

sys.path.insert(0, str(ROOT / "tools"))

import docs  # noqa: E402


@dataclass(frozen=True)
class Made:
    """The two distributions."""

    source: Path
    wheel: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Both, the wheel from the source distribution, as `python -m build` makes them."""
    folder = tmp_path_factory.mktemp("made")
    project = folder / "project"
    project.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, project)
    # the environment of the build is the running one, since another needs the network
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, project, cwd=folder)
    (source,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Made(source, wheel)


@pytest.fixture(scope="module")
def bare(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment after `pip install modnorm`."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install")
    run(*pip, "--quiet", "--no-index", "--no-deps", "--no-compile", made.wheel, cwd=folder)
    link(folder, *PROJECT["dependencies"])
    return folder / "bin"


@pytest.fixture(scope="module")
def full(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `pip install "modnorm[torch]"`: it sees the other's packages, and torch."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("full")
    venv.create(folder, symlinks=True)
    (packages(folder) / "bare.pth").write_text(str(packages(bare.parent)), encoding="utf-8")
    link(folder, *PROJECT["optional-dependencies"]["torch"])
    return folder / "bin"


def packages(environment: Path) -> Path:
    (folder,) = environment.glob("lib/python*/site-packages")
    return folder


def link(environment: Path, *requirements: str) -> None:
    """Give an environment what satisfies requirements here."""
    for distribution in satisfying(*requirements):
        for name in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            place = packages(environment) / name
            if not (name.endswith(".pth") or place.exists()):
                place.symlink_to(str(distribution.locate_file(name)))


def satisfying(*requirements: str) -> list[importlib.metadata.Distribution]:
    """What is installed here of requirements, and of theirs, without extras."""
    todo = [Requirement(text) for text in requirements]
    found: dict[str, importlib.metadata.Distribution] = {}
    while todo:
        wanted = todo.pop()
        if wanted.name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found[wanted.name] = importlib.metadata.distribution(wanted.name)
        todo += [Requirement(text) for text in found[wanted.name].requires or []]
    return list(found.values())


def run(*words: str | Path, cwd: Path, code: int = 0) -> str:
    """What a command prints, where nothing tells Python of the repository."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "MYPYPATH", "VIRTUAL_ENV")
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_tiny(folder: Path) -> None:
    """The example of README.md: a model, and twenty steps."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in docs.blocks(page):
        if block.word in ("tiny.mod", "step.py"):
            (folder / block.word).write_text(block.text, encoding="utf-8")


# --- what they hold -------------------------------------------------------------------------


def expected(place: dict[str, str]) -> set[str]:
    """What a distribution must hold of the folders, under the names that it has there."""
    return {
        f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, prefix in place.items()
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in INSTALLED and "__pycache__" not in path.parts
    }


def test_the_wheel_is_whole(made: Made) -> None:
    with zipfile.ZipFile(made.wheel) as wheel:
        names = set(wheel.namelist())
    wanted = expected(FOLDERS) | {
        f"modnorm-{modnorm.__version__}.dist-info/licenses/LICENSE",
        "modnorm/py.typed",
    }
    assert wanted <= names, sorted(wanted - names)
    for suffix in INSTALLED:
        assert any(name.endswith(suffix) for name in wanted), suffix
    assert any("/std/" in name for name in wanted)
    foreign = {n for n in names if not n.startswith("modnorm/") and ".dist-info/" not in n}
    assert not foreign, "the wheel installs something outside of its own package"


def test_the_source_distribution_is_whole(made: Made) -> None:
    with tarfile.open(made.source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = expected({folder: folder for folder in FOLDERS})
    wanted |= {"pyproject.toml", "README.md", "LICENSE"}
    assert wanted <= names, sorted(wanted - names)


# --- what is said ---------------------------------------------------------------------------


def test_the_version_stands_in_one_place(made: Made) -> None:
    source = (ROOT / "compiler" / "__init__.py").read_text(encoding="utf-8")
    assert source.count(f'"{modnorm.__version__}"') == 1
    assert modnorm.__version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for path in (made.source, made.wheel):
        assert path.name.startswith(f"modnorm-{modnorm.__version__}")


def test_every_extra_that_is_named_can_be_installed() -> None:
    """Quoted, since zsh takes brackets for a pattern."""
    named: set[str] = set()
    for path in (path for top in (*FOLDERS, "docs", "tools") for path in (ROOT / top).rglob("*")):
        if path.suffix in (".py", ".md"):
            text = path.read_text(encoding="utf-8")
            named |= set(re.findall(r"pip install (\S?modnorm\[\w+\]\S?)", text))
    assert '"modnorm[torch]"' in named
    assert named <= {f'"modnorm[{extra}]"' for extra in PROJECT["optional-dependencies"]}


# --- what they do ---------------------------------------------------------------------------


def test_installed_it_needs_no_repository(bare: Path, tmp_path: Path) -> None:
    code = "import sys, modnorm.kernels as k; print(modnorm.__file__, k.__file__, *sys.path)"
    printed = run(bare / "python", "-c", f"import modnorm; {code}", cwd=tmp_path)
    assert str(ROOT) not in printed
    assert printed.count(str(packages(bare.parent) / "modnorm")) == 2
    assert run(bare / "modnorm", "--version", cwd=tmp_path) == f"modnorm {modnorm.__version__}\n"


def test_installed_it_compiles_and_reports_without_torch(bare: Path, tmp_path: Path) -> None:
    command = bare / "modnorm"
    write_tiny(tmp_path)
    run(command, "compile", "tiny.mod", cwd=tmp_path)
    generated = (tmp_path / "tiny.py").read_text(encoding="utf-8")
    wanted = modnorm.compile(str(tmp_path / "tiny.mod"))
    assert generated.partition("\nPLAN")[2] == wanted.partition("\nPLAN")[2] != ""
    run(command, "report", "tiny.mod", "-o", "tiny.html", cwd=tmp_path)
    page = (tmp_path / "tiny.html").read_text(encoding="utf-8")
    assert "<style>" in page
    assert "<script>" in page
    assert "target" in run(command, "explain", "tiny.mod", "q.linear", cwd=tmp_path)
    refused = run(command, "check", "tiny.mod", cwd=tmp_path, code=1)
    assert refused.endswith('`pip install "modnorm[torch]"`\n')


def test_installed_with_torch_alone_it_trains(bare: Path, full: Path, tmp_path: Path) -> None:
    """torch does not bring numpy."""
    write_tiny(tmp_path)
    run(bare / "modnorm", "compile", "tiny.mod", cwd=tmp_path)
    code = "import step, modnorm; print(modnorm.load('tiny.mod').PLAN[0])"
    printed = run(full / "python", "-c", code, cwd=tmp_path)
    assert "learned the alphabet: True" in printed
    assert printed.count("Weight(name='embedding.token.embed.weight'") == 2
    run(full / "python", "-c", "import numpy", cwd=tmp_path, code=1)


NO_CACHE = "--cache-dir=/dev/null"
CLIENT = """
import modnorm

source: str = modnorm.compile("tiny.mod", blocks=4)
masses: int = modnorm.report(3)
"""


def test_installed_its_types_are_seen(bare: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "client.py").write_text(CLIENT, encoding="utf-8")
    words = (NO_CACHE, "--strict", "--python-executable", bare / "python", "client.py")
    printed = run(sys.executable, "-m", "mypy", *words, cwd=tmp_path, code=1)
    wrong = re.findall(r"^client.py:(\d+): .*\[([\w-]+)\]$", printed, re.MULTILINE)
    assert wrong == [("5", "call-overload")]


def test_generated_files_have_sound_types(full: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    modnorm.compile(ROOT / "examples" / "gpt.mod", output=tmp_path / "gpt.py")
    words = (NO_CACHE, "--python-executable", full / "python", "gpt.py")
    assert "Success" in run(sys.executable, "-m", "mypy", *words, cwd=tmp_path)
