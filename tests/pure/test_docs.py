"""The documentation is true: generated sections, console blocks, links, and the worked examples."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import evidence  # noqa: E402
import reference  # noqa: E402
import signatures  # noqa: E402

import docs  # noqa: E402
from tests.tools import with_operation  # noqa: E402

PAGES = docs.pages()
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return docs.BLOCK.sub("", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_generated_sections_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert docs.sections(text) == text, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_console_blocks_print_what_they_show(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert docs.consoles(text) == text, "run `make docs`, and look at the difference"


def test_every_section_of_the_reference_is_shown_once() -> None:
    shown = [m for page in PAGES for m in docs.SECTION.findall(page.read_text(encoding="utf-8"))]
    made = [*reference.SECTIONS, *signatures.SECTIONS, *evidence.SECTIONS]
    assert sorted(name for name, _ in shown) == sorted(made)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_mentioned_targets_and_files_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?:^ {4}|`|^)(?:\w+=\S+ )?make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    folders = "compiler|kernels|grammar|examples|tests|benchmarks|docs|tools"
    for path in re.findall(rf"`((?:{folders})/[\w./*-]*)`", prose(page)):
        assert list(ROOT.glob(path.rstrip("/"))), path


def test_a_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = tmp_path / "stale.md"
    for text in (
        "<!-- begin: codes -->\nnothing\n<!-- end: codes -->\n",
        "```mod a.mod\nmodel M = Linear(1\n```\n\n```console\n$ modnorm compile a.mod\n```\n",
        "```python a.py\nprint(7)\n```\n\n```console\n$ python a.py\n8\n```\n",
    ):
        stale.write_text(text, encoding="utf-8")
        monkeypatch.setattr(docs, "ROOT", tmp_path)
        monkeypatch.setattr(docs, "pages", lambda: [stale])
        (tmp_path / "examples").mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
        assert docs.main() == 1
        monkeypatch.setattr(sys, "argv", ["docs.py"])
        assert docs.main() == 0
        assert stale.read_text(encoding="utf-8") != text
        monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
        assert docs.main() == 0


def test_what_is_longer_than_shown_is_cut_at_the_mark(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print(*range(5), sep='\\n')")
    assert docs.replay("$ python a.py\nx\ny\n…\n", tmp_path) == "$ python a.py\n0\n1\n…\n"
    assert docs.replay("$ python a.py\n", tmp_path) == "$ python a.py\n0\n1\n2\n3\n4\n"


@pytest.mark.parametrize(("name", "said"), [("softsign", "F.softsign("), ("gated", "Layout(")])
def test_the_operations_of_the_guide_work_in_the_tree(tmp_path: Path, name: str, said: str) -> None:
    """What CONTRIBUTING.md adds to `compiler/ops/` compiles once the package lists it."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = {block.word: block.text for block in docs.blocks(page) if block.word}
    (tmp_path / f"{name}.mod").write_text(files[f"{name}.mod"], "utf-8")
    command = ["-c", "from modnorm.cli import main; main()", "compile", f"{name}.mod"]
    done = with_operation(tmp_path, name, files[f"compiler/ops/{name}.py"], command)
    assert done.returncode == 0, done.stderr
    assert said in (tmp_path / f"{name}.py").read_text("utf-8")


def test_the_operation_of_the_guide_is_what_it_says() -> None:
    """Softsign's values, slope and curvature, at the edges where they are largest."""
    torch = pytest.importorskip("torch")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = next(b.text for b in docs.blocks(page) if b.word == "compiler/ops/softsign.py")
    module = ModuleType("softsign")
    exec(compile(text.replace("@register\n", ""), "softsign.py", "exec"), module.__dict__)
    op = module.Softsign()
    x = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    assert torch.allclose(op.reference(x), torch.nn.functional.softsign(x))
    slope = (op.reference(x).diff() / x.diff()).abs()
    assert 0.99 < slope.max() <= op.certified
    assert (slope.diff() / x.diff()[1:]).abs().max() <= op.sharpness.gamma
