"""`modnorm.load`: a `.mod` file as a module that runs."""

from __future__ import annotations

import gc
import html
import inspect
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch

import modnorm

NET = """\
param width = 16
param depth = 2
param out = 4
input x: float[batch, 8]
def layer = Linear(width) >> ReLU
model Net = Linear(8) >> Linear(width) >> layer ** depth >> Linear(out)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "net.mod"
    path.write_text(NET, encoding="utf-8")
    return path


def test_load_trains(path: Path) -> None:
    torch.manual_seed(0)
    net = modnorm.load(path, width=32)
    model = net.Net()
    assert [tuple(w.shape) for w in model.state_dict().values()] == [w.shape for w in net.PLAN]
    assert list(model.state_dict()) == [w.name for w in net.PLAN]
    optimizer = net.NormedAdam(model.named_parameters(), lr=0.1)
    x, y = torch.randn(64, 8), torch.randn(64, 4)
    losses = []
    for _ in range(30):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_load_and_compile_are_the_same_source(path: Path) -> None:
    net = modnorm.load(path, depth=3)
    assert inspect.getsource(net) == modnorm.compile(path, depth=3)


def test_a_program_as_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    net = modnorm.load(NET, width=12)
    assert net.__name__.startswith("modnorm_compiled_text_")
    assert net.Net()(torch.zeros(2, 8)).shape == (2, 4)
    found = modnorm.check(NET)
    assert (found.json["source"], found.json["model"]) == ("<text>", "Net")
    assert list(path.parent.iterdir()) == [path]


def test_a_check_shows_itself_in_a_notebook(path: Path) -> None:
    found = modnorm.check(path)
    shown = found._repr_html_()
    assert shown is not None
    assert shown.startswith("<iframe srcdoc=")
    page = html.unescape(shown)
    assert "Net" in page
    assert all(module["path"] in page for module in found.json["modules"] if module["path"])
    assert modnorm.check(path, format="json")._repr_html_() is None


def test_the_same_source_is_the_same_module(path: Path) -> None:
    net = modnorm.load(path)
    assert modnorm.load(str(path)) is net
    assert modnorm.load(path, width=16) is not modnorm.load(path, width=24)
    assert sys.modules[net.__name__] is net
    assert net.__name__.startswith("modnorm_compiled_net_")


def test_a_changed_file_is_another_module(path: Path) -> None:
    before = modnorm.load(path)
    path.write_text(NET.replace("ReLU", "Tanh"), encoding="utf-8")
    after = modnorm.load(path)
    assert after is not before
    assert modnorm.load(path) is after


def test_a_param_named_like_an_argument_of_compile(path: Path) -> None:
    """`output` is no argument of `load`; the folder stays as it is."""
    path.write_text(NET.replace("out", "output"), encoding="utf-8")
    net = modnorm.load(path, output=3)
    assert net.Net()(torch.zeros(1, 8)).shape == (1, 3)
    assert list(path.parent.iterdir()) == [path]


def test_models_and_optimizers_can_be_pickled(path: Path) -> None:
    net = modnorm.load(path)
    model = net.Net()
    copy = pickle.loads(pickle.dumps(model))
    assert type(copy) is net.Net
    x = torch.randn(3, 8)
    assert torch.equal(copy(x), model(x))
    assert pickle.loads(pickle.dumps(net.PLAN)) == net.PLAN
    assert pickle.loads(pickle.dumps(net.NormedAdam)) is net.NormedAdam


def test_a_pickle_is_read_elsewhere_once_the_file_is_loaded(path: Path) -> None:
    net = modnorm.load(path, depth=1)
    file = path.with_suffix(".pickle")
    file.write_bytes(pickle.dumps(net.PLAN))
    code = (
        "import modnorm, pickle, pathlib\n"
        f"net = modnorm.load({str(path)!r}, depth=1)\n"
        f"assert pickle.loads(pathlib.Path({str(file)!r}).read_bytes()) == net.PLAN\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_tracebacks_show_the_source(path: Path) -> None:
    net = modnorm.load(path)
    model = net.Net()
    shown = ""
    try:
        model(torch.zeros(2, 9))
    except RuntimeError:
        shown = traceback.format_exc()
    frame = shown.partition(f'File "<{net.__name__}>", line ')[2]
    assert frame, shown
    line = int(frame.partition(",")[0])
    source = inspect.getsource(net).splitlines()
    assert frame.splitlines()[1].strip() == source[line - 1].strip()
    gc.collect()
    assert inspect.getsource(net.Net).startswith("class Net(")
    assert inspect.getsource(net.Net.forward).lstrip().startswith("def forward(")


def test_dynamo_traces_a_loaded_module(path: Path) -> None:
    """Code that is in no file is traced as any other."""
    net = modnorm.load(path)
    model = net.Net()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    x = torch.randn(3, 8)
    assert torch.equal(torch.compile(model, backend=backend, fullgraph=True)(x), model(x))
    assert len(graphs) == 1


def test_mistakes(path: Path) -> None:
    with pytest.raises(modnorm.ModnormError, match="did you mean `width`"):
        modnorm.load(path, widht=3)
    before = set(sys.modules)
    with pytest.raises(modnorm.ModnormError, match="there is no such file"):
        modnorm.load(path.with_name("other.mod"))
    assert {n for n in set(sys.modules) - before if "compiled" in n} == set()


def test_without_torch(path: Path) -> None:
    """The reason is told, and nothing half-imported stays behind."""
    code = (
        "import sys\nsys.modules['torch'] = None\nimport modnorm\n"
        f"for _ in range(2):\n    try:\n        modnorm.load({str(path)!r})\n"
        "    except ImportError as error:\n        print(error)\n"
        "print([n for n in sys.modules if 'compiled' in n])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    *errors, left = done.stdout.splitlines()
    assert all("torch" in error for error in errors)
    assert (len(errors), left) == (2, "[]")


@pytest.mark.parametrize("name", ["my net", "1st", "naïve", "class", "a.b.c"])
def test_names_that_are_no_identifiers(path: Path, name: str) -> None:
    odd = path.with_name(f"{name}.mod")
    path.rename(odd)
    net = modnorm.load(odd)
    assert net.Net()(torch.zeros(1, 8)).shape == (1, 4)
