"""Every fault of tests/faults.py is found where it is, and none where none is."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from modnorm.adopting.audit import audit  # noqa: E402
from modnorm.adopting.audited import Audit  # noqa: E402
from modnorm.adopting.interface import adopt  # noqa: E402
from modnorm.adopting.problems import FAULTS as CODES  # noqa: E402
from modnorm.adopting.problems import AuditError  # noqa: E402
from tests import published  # noqa: E402
from tests.faults import FAULTS, Call, Model, parted, tokens, without  # noqa: E402
from tests.zoo import ZOO, Entry, Expected  # noqa: E402

HERE = {"not-moved", "vector-as-matrix", "tied-as-matrix"}
"""Codes whose cases are in this file, beside those of tests/faults.py."""


def audited(call: Call) -> Audit:
    return audit(call.model, call.optimizer, call.example, **call.named)


def found(audit: Audit) -> set[tuple[str, str]]:
    return {(one.parameter, one.fault) for one in audit.findings}


def expected(model: nn.Module, patterns: dict[str, str]) -> set[tuple[str, str]]:
    names = [name for name, _ in model.named_parameters()]
    every = {(n, code) for one, code in patterns.items() for n in names if fnmatchcase(n, one)}
    assert {code for _, code in every} == set(patterns.values())
    return every


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_found_where_it_is(name: str) -> None:
    call = FAULTS[name].wrong()
    assert found(audited(call)) == expected(call.model, FAULTS[name].found)


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_found_in_what_is_mended(name: str) -> None:
    assert audited(FAULTS[name].mended()).findings == ()


def test_every_code_has_a_case() -> None:
    codes = {code for fault in FAULTS.values() for code in fault.found.values()}
    assert codes | HERE == set(CODES)


def test_a_tied_table_is_no_hidden_matrix() -> None:
    model = Model(tied=True)
    hidden, rest = parted(model, without("wpe"))
    made = [torch.optim.Muon(hidden), torch.optim.AdamW(rest)]
    assert found(audit(model, made, tokens())) == {("wte.weight", "tied-as-matrix")}


def test_what_a_step_passes_over() -> None:
    class Matrices(published.Muon):
        def mapped(self, p: Any, u: Any) -> Any:
            return super().mapped(p, u) if p.ndim > 1 else 0 * u

    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU())
    done = audit(model, Matrices(model.parameters()), torch.randn(2, 8))
    assert {one for one in found(done) if one[1] == "not-moved"} == {
        ("0.bias", "not-moved"), ("2.bias", "not-moved"),
    }  # fmt: skip


def test_positions_that_are_added_whole() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(8, 12))
            self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(2))

        def forward(self, x: Any) -> Any:
            x = x + self.positions
            for layer in self.layers:
                x = x + torch.relu(layer(x))
            return x

    model = Added()
    hidden, rest = parted(model, without())
    made = [torch.optim.Muon(hidden), torch.optim.AdamW(rest)]
    done = audit(model, made, torch.randn(2, 8, 12))
    assert found(done) == {("positions", "vector-as-matrix")}


def test_what_it_says() -> None:
    """The whole of one finding, with the line at which the parameter is used."""
    model = nn.Sequential(nn.Embedding(30, 12), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 5))
    made = [torch.optim.Muon([model[0].weight, model[1].weight]),
            torch.optim.AdamW([model[1].bias, *model[3].parameters()])]  # fmt: skip
    done = audit(model, made, torch.arange(4))
    (one,) = done.findings
    assert one.to_json() == {
        "parameter": "0.weight",
        "fault": "table-as-matrix",
        "is": "orthogonalised as one matrix of 30 × 12, by Muon, group 0, like a hidden matrix",
        "should": "treated as a table, whose rows are looked up",
        "message": one.message,
    }
    assert one.message.startswith("`0.weight`, used in 0 (")
    assert "move it to AdamW" in one.message
    assert done.json["parameters"][0] == {
        "name": "0.weight", "role": "table",
        "treatment": "orthogonalised as one matrix of 30 × 12, by Muon, group 0",
    }  # fmt: skip


def test_what_this_run_does_not_use_is_told() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    model.forward = lambda x: model["used"](x)  # type: ignore[method-assign]
    done = audit(model, torch.optim.AdamW(model.parameters()), torch.randn(2, 4))
    assert done.findings == ()
    assert "other.weight" in done.notes[0]
    given = audit(model, torch.optim.AdamW(model["used"].parameters()), torch.randn(2, 4))
    assert found(given) == {("other.weight", "never-given"), ("other.bias", "never-given")}


def test_a_model_that_cannot_run() -> None:
    model = nn.Linear(4, 4)
    with pytest.raises(AuditError, match=r"^the model cannot be run on the example: RuntimeError"):
        audit(model, torch.optim.AdamW(model.parameters()), torch.randn(2, 5))


# --- models of others -----------------------------------------------------------------------


@pytest.fixture(params=ZOO, scope="module")
def entry(request: pytest.FixtureRequest) -> Entry:
    one: Entry = ZOO[request.param]
    if one.needs is not None:
        pytest.importorskip(one.needs)
    return one


@pytest.mark.filterwarnings("ignore:this run does not use", "ignore:what .* does is not understood")
def test_adopted_models_have_none(entry: Entry) -> None:
    model = entry.build()
    made = adopt(model, entry.example(), sensitivity="declared")
    assert audit(model, made, entry.example()).findings == ()


def test_one_rule_for_all_has_none(entry: Entry) -> None:
    model = entry.build()
    made = published.Lion(model.parameters(), lr=1e-3)
    assert audit(model, made, entry.example()).findings == ()


def is_plain(what: Expected) -> bool:
    return what.role == "matrix" and not what.pieces


def split(entry: Entry, model: nn.Module, matrix: Any, **options: Any) -> Any:
    named = entry.named([name for name, _ in model.named_parameters()])
    hidden, rest = parted(
        model, lambda name, p: "lora_" not in name and matrix(p, named[name])
    )  # of LoRA's factors none is a matrix by itself
    muon = [torch.optim.Muon(hidden, lr=0.02, **options)] if hidden else []
    return [*muon, torch.optim.AdamW(rest, lr=3e-4)]


def test_muon_where_it_belongs_has_none(entry: Entry) -> None:
    """That is: on hidden matrices that hold one weight each, at a scale that is the same for a
    matrix and its transpose, with AdamW at a rate of its own for all else: tables, readouts,
    kernels, experts, fused matrices, biases and gains."""
    model = entry.build()
    made = split(entry, model, lambda p, what: is_plain(what), adjust_lr_fn="match_rms_adamw")
    assert audit(model, made, entry.example()).findings == ()


@pytest.mark.parametrize("width", [48, 96])
def test_gpt2_done_properly_has_none(width: int) -> None:
    """Muon on the hidden matrices of one weight each (out of attention, and the MLP's two); its
    scale from the larger side, since they are stored as (in, out); AdamW on the tied table, the
    positions, biases and gains, and on c_attn, which Muon would take for one matrix."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=61, n_positions=16, n_embd=width, n_layer=2, n_head=4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    hidden, rest = parted(model, lambda name, p: p.ndim == 2 and ".c_" in name
                          and "c_attn" not in name)  # fmt: skip
    muon = torch.optim.Muon(hidden, lr=0.02, adjust_lr_fn="match_rms_adamw")
    made = [muon, torch.optim.AdamW(rest, lr=3e-4)]
    example = {"input_ids": tokens()}
    assert audit(model, made, example).findings == ()
    swapped = [torch.optim.Muon(hidden, lr=0.02), torch.optim.AdamW(rest, lr=3e-4)]
    assert {code for _, code in found(audit(model, swapped, example))} == {"fan-swapped"}


ALWAYS = {"table": "table-as-matrix", "tied": "tied-as-matrix", "vector": "vector-as-matrix",
          "gain": "vector-as-matrix"}  # fmt: skip
BESIDE = {"router": "router-as-matrix", "readout": "readout-as-matrix"}
"""What is wrong in a group with hidden matrices."""


def test_muon_on_everything_with_two_axes_is_caught(entry: Entry) -> None:
    """At a scale that is the same for a matrix and its transpose; as far as roles are seen."""
    model = entry.build()
    own = dict(model.named_parameters())
    named = entry.named(list(own))
    made = split(entry, model, lambda p, what: p.ndim == 2, adjust_lr_fn="match_rms_adamw")
    done = audit(model, made, entry.example())
    seen = {one.name for one in done.parameters if one.role == named[one.name].role
            and own[one.name].ndim == 2 and "lora_" not in one.name}  # fmt: skip
    beside = any(named[name].role == "matrix" for name in seen)
    codes = ALWAYS | (BESIDE if beside else {})
    wrong = {(name, codes[role]) for name in seen if (role := named[name].role) in codes}
    wrong |= {(name, "fused-as-one") for name in seen
              if named[name].role == "matrix" and named[name].pieces}  # fmt: skip
    assert {one for one in found(done) if one[0] in seen} == wrong
