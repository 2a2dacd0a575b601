"""benchmarks/compare_modula.py: both halves run, and start from the same function if asked to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import compare_modula as compare  # noqa: E402

torch.set_num_threads(1)

EXACT = ROOT / "benchmarks" / "modula_gpt.mod"  # modula's GPT to the last factor


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "own.txt").write_text("To be, or not to be\n" * 100)
    return ["--data", str(tmp_path / "own.txt"), "--steps", "2", "--eval-batches", "1"]


def test_modula_runs_and_a_seed_repeats(arguments: list[str]) -> None:
    pytest.importorskip("modula")
    first, again = (
        CliRunner().invoke(compare.main, [*arguments, "--only", "modula", "--seeds", "2"])
        for _ in range(2)
    )
    assert first.exit_code == 0, first.output
    row, repeated = (
        next(line for line in result.stdout.splitlines() if line.startswith("| modula"))
        for result in (first, again)
    )
    assert "±" in row
    assert row.split("|")[2:4] == repeated.split("|")[2:4]


def test_without_modula_it_says_how_to_get_it(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "modula", None)
    result = CliRunner().invoke(compare.main, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: modula is not installed: pip install modula==")


def test_a_text_with_too_many_characters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("".join(map(chr, range(32, 132))) * 30)
    options = ["--only", "modnorm", "--data", str(tmp_path / "own.txt")]
    result = CliRunner().invoke(compare.main, options)
    assert result.exit_code == 1
    assert "at most 65 distinct characters" in result.stderr


def test_the_table_shows_both_and_their_difference() -> None:
    runs = {
        "modula": [compare.Trained(2.0, 1.5, 0.010), compare.Trained(2.2, 1.5, 0.010)],
        "ours": [compare.Trained(1.9, 1.5, 0.005), compare.Trained(2.1, 1.5, 0.005)],
    }
    assert compare.table(runs).splitlines()[2:] == [
        "| modula | 2.1000 ± 0.1414 | 1.5000 ± 0.0000 | 10.00 |",
        "| ours | 2.0000 ± 0.1414 | 1.5000 ± 0.0000 | 5.00 |",
        "| second minus first | -0.1000 ± 0.0000 | 0.0000 ± 0.0000 | × 0.50 |",
    ]


def test_both_start_from_the_same_function() -> None:
    pytest.importorskip("modula")
    module = compare.load_module(EXACT, {})
    model = getattr(module, module.MODEL)()
    compare.start_from_modula(module, model, seed=3)
    network, weights = compare.modula_network(seed=3)
    tokens = torch.randint(0, 65, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), network.forward(tokens, weights))


def test_the_example_has_modulas_sizes() -> None:
    pytest.importorskip("modula")
    module = compare.load_module(ROOT / "examples" / "gpt.mod", {})
    _, weights = compare.modula_network(seed=0)
    assert [entry.shape for entry in module.PLAN] == [tuple(weight.shape) for weight in weights]


def test_both_halves_run_on_the_same_batches(arguments: list[str]) -> None:
    pytest.importorskip("modula")
    options = [
        "--mod",
        str(EXACT),
        "--same-start",
        "--steps",
        "1",
    ]  # the training loss is that before the step
    result = CliRunner().invoke(compare.main, [*arguments, *options])
    assert result.exit_code == 0, result.output
    modula, ours, difference = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in result.stdout.splitlines()
        if line.startswith("| ")
    ][2:]
    assert (modula[0], ours[0]) == ("modula", "compiled modula_gpt.mod")
    assert difference[2].lstrip("-") == "0.0000"
    assert float(ours[1]) < float(ours[2])
    assert float(modula[1]) < float(modula[2])
