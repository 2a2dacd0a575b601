"""`Scan` in running models: against torch.nn's recurrences, and against cells written out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import modnorm
from modnorm.codegen.assemble import generate
from modnorm.measure.interpreter import Interpreter
from modnorm.pipeline import analyse_text

HIDDEN, WIDTH = 12, 5


def loaded(text: str, tmp_path: Path) -> Any:
    path = tmp_path / "m.mod"
    path.write_text(text)
    return modnorm.load(path)


def made(text: str, tmp_path: Path, dtype: torch.dtype = torch.float64) -> Any:
    module = loaded(text, tmp_path)
    return getattr(module, module.MODEL)(dtype=dtype)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# --- torch.nn -----------------------------------------------------------------------------------

GATES = {
    "RNN": ["."],
    "GRU": ["r", "z", "n"],
    "LSTM": ["i", "f", "g", "o"],
}
"""The gates of each, in the order of torch's rows."""
PLACES = {
    "RNN": {".": ("entry", "cell")},
    "GRU": {"r": ("entry_r", "cell.n.r"), "z": ("entry_z", "cell.z"), "n": ("entry_n", "cell.n")},
    "LSTM": {
        "i": ("entries.entry_i", "cell.c.i"),
        "f": ("entries.entry_f", "cell.c.f"),
        "g": ("entries.entry_g", "cell.c.g"),
        "o": ("entries.entry_o", "cell.o"),
    },
}
"""Where the weights of each gate are: of what enters, and of the state."""


def copied(kind: str, layer: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the parameters of a compiled layer are for those of torch's."""
    result = {}
    for gate, w_x, w_h, b_x, b_h in zip(
        GATES[kind], *(p.chunk(len(GATES[kind])) for p in layer.parameters()), strict=True
    ):
        entry, cell = PLACES[kind][gate]
        result[f"{kind}.{entry}.linear.weight"] = w_x
        result[f"{kind}.{cell}.linear.weight"] = w_h
        inside = f"{kind}.{cell}.bias.weight"  # behind the reset gate both biases count
        result[f"{kind}.{entry}.bias.weight"] = b_x if inside in found else b_x + b_h
        result |= {inside: b_h} if inside in found else {}
    return result


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)
@pytest.mark.parametrize("length", ["7", "seq"])
def test_recurrences_are_torchs(
    kind: str, dtype: torch.dtype, tolerance: float, length: str, tmp_path: Path
) -> None:
    """With the same weights the same states, and the same gradients of all of them."""
    model = made(
        f"input x: float[batch, {length}, {WIDTH}]\nmodel M = {kind}({HIDDEN}, carry = 3/4)",
        tmp_path,
        dtype,
    )
    layer = getattr(nn, kind)(WIDTH, HIDDEN, batch_first=True, dtype=dtype)
    own = dict(model.named_parameters())
    theirs = copied(kind, layer, own)
    assert theirs.keys() == own.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(theirs[name])
    x = drawn(3, 7, WIDTH, dtype=dtype).requires_grad_()
    y = drawn(3, 7, WIDTH, dtype=dtype).requires_grad_()
    found, wanted = model(x), layer(y)[0]
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    weigh = drawn(3, 7, HIDDEN, seed=1, dtype=dtype)
    (found * weigh).sum().backward()
    (wanted * weigh).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=tolerance, atol=tolerance)
    gradients = [p.grad for p in layer.parameters()]
    sums = copied(kind, _Held(gradients), own)
    for name, parameter in own.items():
        expected = sums[name]
        if name.endswith("bias.weight") and "cell" not in name and kind != "GRU":
            expected = expected / 2  # each of torch's two biases has the gradient of their sum
        if name.endswith(("entry_r.bias.weight", "entry_z.bias.weight")):
            expected = expected / 2
        scale = tolerance * 10
        torch.testing.assert_close(parameter.grad, expected, rtol=scale, atol=scale)


class _Held:
    """Tensors in the place of a layer's parameters."""

    def __init__(self, tensors: list[Any]) -> None:
        self.tensors = tensors

    def parameters(self) -> list[Tensor]:
        return self.tensors


# --- cells written out --------------------------------------------------------------------------

CELL = "Tanh @ (1/2 * (u @ Select(0)) + 1/4 * (v @ Select(1)))"
SHARED = "shared u = Linear(6) >> Bias\nshared v = Linear(6, 4)\n"


def written_out(steps: int) -> str:
    """The last state of the cell above, with its `shared` modules at every step, from a zero on."""
    state = "zero"
    for step in range(steps):
        entry = f"Squeeze(1) @ Slice({step}, {step + 1}, 1) @ x"
        state = f"Tanh @ (1/2 * (u @ {state}) + 1/4 * (v @ {entry}))"
    return state


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_scan_is_its_cell_written_out(steps: int, tmp_path: Path) -> None:
    """The same output, and the same targets to the last digit: Σ over all uses of a weight."""
    given = f"input x: float[batch, {steps}, 4]\n"
    scan = f"{SHARED}{given}def cell = {CELL}\nmodel M = 1/3 * Linear(2) @ Last @ Scan(cell)"
    given += "input zero: float[batch, 6]\n"
    plain = f"{SHARED}{given}model M = 1/3 * Linear(2) @ {written_out(steps)}"
    one, other = (analyse_text(text).program for text in (scan, plain))
    found = [(w.path, w.mass, w.downstream, w.target) for w in one.weights]
    assert sorted(found) == sorted((w.path, w.mass, w.downstream, w.target) for w in other.weights)
    assert one.weights[0].downstream == sum(Fraction(1, 6) / 2**k for k in range(steps))
    model, same = made(scan, tmp_path), made(plain, tmp_path)
    same.load_state_dict(model.state_dict())
    x = drawn(3, steps, 4)
    wanted = same(x, x.new_zeros(3, 6))
    torch.testing.assert_close(model(x), wanted, rtol=1e-12, atol=1e-12)


def test_without_a_length_the_sum_has_no_end() -> None:
    text = f"{SHARED}input x: float[batch, seq, 4]\ndef cell = {CELL}\nmodel M = Scan(cell)"
    program = analyse_text(text).program
    found = {w.path: w.downstream for w in program.weights}
    assert found == {"u.linear": 1, "u.bias": 1, "v.linear": Fraction(1, 2)}
    assert program.sensitivity == Fraction(1, 2)


def test_a_scan_is_its_cell_repeated_with_shared_weights() -> None:
    """Along a sequence of which only the first entry counts, a scan is a power of the cell."""
    count, body = 6, "3/4 * (Tanh @ u)"
    start = f"input x: float[batch, {count}, 6]\nshared u = Linear(6, 6)\n"
    power = analyse_text(
        f"input x: float[batch, 6]\nshared u = Linear(6, 6)\nmodel M = ({body}) ** {count}"
    ).program
    scan = analyse_text(f"{start}model M = Scan({body} @ (Select(0) + Select(1)))").program
    assert scan.weights[0].downstream == power.weights[0].downstream
    assert scan.weights[0].target == power.weights[0].target
    assert power.weights[0].uses == count


def reference(x: Tensor, u: Tensor, b: Tensor, v: Tensor) -> Tensor:
    state, found = x.new_zeros(len(x), 6), []
    for t in range(x.shape[1]):
        y = (F.linear(state, u) + b) / 2 + F.linear(x[:, t], v) / 4
        state = torch.tanh(y)
        found.append(state)
    return torch.stack(found, 1)


def test_the_generated_loop_is_the_cell_step_by_step(tmp_path: Path) -> None:
    text = f"{SHARED}input x: float[batch, seq, 4]\ndef cell = {CELL}\nmodel M = Scan(cell)"
    model = made(text, tmp_path)
    w = dict(model.named_parameters())
    with torch.no_grad():
        w["u.bias.weight"].copy_(drawn(6, seed=3))
    x = drawn(2, 5, 4)
    wanted = reference(x, w["u.linear.weight"], w["u.bias.weight"], w["v.linear.weight"])
    torch.testing.assert_close(model(x), wanted, rtol=1e-12, atol=1e-12)
    program = analyse_text(text).program
    run = Interpreter({k: p.detach() for k, p in w.items()}, [x]).run(program.tree, x)
    torch.testing.assert_close(run, wanted.detach(), rtol=1e-12, atol=1e-12)


PLACED = {
    "in copies": "model M = (1/2 * Identity + 1/2 * Scan(cell)) ** 3\n"
    "def cell = Tanh @ (Linear(4) @ Select(0) + Select(1))",
    "a tuple of sequences": "model M = Scan(cell) @ (Sigmoid @ Linear(4), Linear(4))\n"
    "def cell = (Select(0) @ Select(1)) * Select(0) + Select(1) @ Select(1)",
    "a tuple of states": "model M = Add @ Scan(cell)\n"
    "def cell = (Linear(4) @ (Select(0) @ Select(0) + Select(1)), kept)\n"
    "def kept = Select(1) @ Select(0) + Select(1)",
    "an input by its name": "input c: float[batch, 4]\n"
    "model M = Scan(Tanh @ (Linear(4) @ Select(0) + Select(1) + Linear(4) @ c)) ** 2 @ x",
    "what is made of an input": "input c: float[batch, 4]\nshared mem = Tanh @ Linear(4) @ c\n"
    "def cell = 1/2 * Select(0) + 1/4 * (Select(1) + mem)\n"
    "model M = (1/2 * Identity + 1/2 * Scan(cell)) ** 2 @ x",
    "a stream in its cell": "model M = Scan(cell)\ndef f = Tanh @ Linear(4) @ RMSDivide(eps = 1)\n"
    "def cell = RMSDivide(eps = 1) @ (Identity + f) ** 3 @ (1/2 * Select(0) + 1/2 * Select(1))",
    "a scan in its cell": "model M = Scan(cell) @ Reshape(-1, 2, 4)\n"
    "def inner = Tanh @ (Linear(4) @ Select(0) + Select(1))\n"
    "def cell = 1/2 * Select(0) + 1/2 * (Last @ Scan(inner) @ Select(1))",
    "copies in its cell": "model M = Scan(cell)\n"
    "def cell = (1/2 * Identity + 1/2 * (Tanh @ Linear(4))) ** 3 @ (Select(0) + Select(1)) / 2",
    "a fixed state": "model M = Scan(1/2 * Select(0) + 1/2 * Select(1))",
    "matrices": "model M = Reshape(-1, 16) @ Scan(cell) @ Linear(4)\n"
    "def cell = 1/2 * Select(0) + 1/2 * (MatMul @ (Unsqueeze(-1), Unsqueeze(1)) @ Select(1))",
}
WIDE = {"a scan in its cell": 8}


@pytest.mark.parametrize("what", PLACED)
def test_a_scan_anywhere_computes_what_its_references_do(what: str, tmp_path: Path) -> None:
    """The generated model against the module tree as it was written, step by step."""
    length = 6
    text = f"input x: float[batch, {length}, {WIDE.get(what, 4)}]\n{PLACED[what]}"
    program = analyse_text(text).program
    model = made(text, tmp_path)
    inputs = [drawn(3, length, WIDE.get(what, 4))]
    inputs += [drawn(3, 4, seed=1)] if len(program.inputs) > 1 else []
    weights = {k: p.detach() for k, p in model.named_parameters()}
    x: Any = tuple(inputs) if len(inputs) > 1 else inputs[0]
    wanted = Interpreter(weights, inputs).run(program.tree, x)
    torch.testing.assert_close(model(*inputs), wanted, rtol=1e-12, atol=1e-12)
    assert sum(float(w.target) * float(w.downstream) * w.copies for w in program.weights) == (
        pytest.approx(1 if program.weights else 0)
    )


# --- training, tools ----------------------------------------------------------------------------

MODELS = {
    "RNN": "model M = Linear(2) @ Last @ RNN(16)",
    "GRU": "model M = Linear(2) @ Last @ GRU(16)",
    "LSTM": "model M = Linear(2) @ Last @ LSTM(16)",
    "own": "model M = Linear(2) @ Last @ Scan(cell)\n"
    "def cell = Tanh @ (Linear(16) @ Select(0) + Linear(16) @ Select(1))",
}


@pytest.mark.parametrize("kind", ["NormedAdam", "DualizedSGD"])
@pytest.mark.parametrize("which", MODELS)
def test_the_loss_falls(which: str, kind: str, tmp_path: Path) -> None:
    """Which half of a sequence is larger: 20 steps."""
    module = loaded(f"input x: float[batch, 8, 4]\n{MODELS[which]}", tmp_path)
    model = module.M(generator=torch.Generator().manual_seed(0))
    optimizer = getattr(module, kind)(model.named_parameters(), lr=2.0)
    x = drawn(64, 8, 4, dtype=torch.float32)
    y = (x[:, :4].sum((1, 2)) > x[:, 4:].sum((1, 2))).long()
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(x), y)
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.parametrize("which", MODELS)
def test_it_is_exported_and_runs_in_bfloat16(which: str, tmp_path: Path) -> None:
    model = made(f"input x: float[batch, 5, 4]\n{MODELS[which]}", tmp_path, torch.float32)
    x = drawn(2, 5, 4, dtype=torch.float32)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    torch.testing.assert_close(y.float(), model(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("which", ["RNN(4)", "LSTM(4)", "Last @ RNN(4)"])
def test_a_sequence_without_a_place_is_an_error(which: str, compiled: bool, tmp_path: Path) -> None:
    """As in torch.nn, whose layers raise a RuntimeError."""
    text = (
        f"input x: float[batch, seq, 3]\nmodel M = {which.replace('RNN(4', 'RNN(4, carry = 1/2')}"
    )
    model = made(text, tmp_path)
    if compiled:
        model = torch.compile(model, backend="eager")
    assert model(drawn(2, 1, 3)).shape[0] == 2
    with pytest.raises(ValueError, match="a sequence of length 0: `Scan` has no first step"):
        model(drawn(2, 0, 3))
    with pytest.raises(RuntimeError):
        nn.RNN(3, 4, batch_first=True)(torch.zeros(2, 0, 3))


def test_it_compiles_as_one_graph(tmp_path: Path) -> None:
    model = made(f"input x: float[batch, 4, 4]\n{MODELS['LSTM']}", tmp_path, torch.float32)
    x = drawn(2, 4, 4, dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_both_forms_of_the_file_have_the_same_loop(tmp_path: Path) -> None:
    program = analyse_text(f"input x: float[batch, 4, 4]\n{MODELS['GRU']}").program
    loops = [
        generate(program, "cpu", standalone=alone).split("def forward(self, x: Tensor)")[-1]
        for alone in (False, True)
    ]
    assert loops[0].split("# ----")[0] == loops[1].split("# ----")[0]
    assert ".unbind(1)" in loops[0]


# --- what is proved -----------------------------------------------------------------------------

PROVED = {
    "tanh": "Tanh @ (1/2 * (Linear(4) @ Select(0)) + 1/2 * (Linear(4) @ Select(1)))",
    "linear": "1/2 * (Linear(4) @ Select(0)) + 1/2 * Select(1)",
    "rising": "Linear(4) @ Select(0) + Linear(4) @ Select(1)",
    "gate": "(Sigmoid @ Linear(4) @ Select(0)) * (Tanh @ Linear(4) @ Select(1))",
    "pair": "(1/2 * (Tanh @ Linear(4) @ Select(1) @ Select(0)),"
    " 1/4 * Select(0) @ Select(0) + 1/2 * (Linear(4) @ Select(1)))",
}


@pytest.mark.parametrize("length", ["6", "seq"])
@pytest.mark.parametrize("which", PROVED)
def test_no_input_and_no_update_moves_a_scan_more_than_is_proved(
    which: str, length: str, tmp_path: Path
) -> None:
    """Gradient ascent over inputs in the ball, their moves, weights and updates of norm 1."""
    text = f"input x: float[batch, {length}, 4]\nmodel M = Scan(cell)\ndef cell = {PROVED[which]}"
    if which == "pair":
        text = text.replace("Scan(cell)", "Add @ Scan(cell)")
    if which == "rising" and length == "seq":
        text = text.replace("Scan(cell)", "Scan(cell, carry = 1/2)")
    program = analyse_text(text).program
    certificate = program.certificate
    assert certificate is not None
    if length == "seq" and which == "rising":
        assert certificate.kappa is None
        assert "any number of steps" in certificate.reasons[0].text
        return
    assert certificate.kappa is not None
    assert isinstance(certificate.sensitivity, float)
    best = Search(program, made(text, tmp_path), 6 if length == "6" else 12).run()
    parts = certificate.parts[program.tree.id]
    assert best["size"] <= parts.high * (1 + 1e-9)
    assert best["stretch"] <= certificate.sensitivity * (1 + 1e-9)
    assert best["update"] <= certificate.kappa * (1 + 1e-9)
    # and it is not only large
    assert best["stretch"] >= 0.2 * certificate.sensitivity


def rows(x: Tensor) -> Tensor:
    """In the norm P: every row at most of RMS 1."""
    return x / x.square().mean(-1, keepdim=True).sqrt().clamp(min=1)


def spectral(w: Tensor, to: float = 1.0) -> Tensor:
    norm = torch.linalg.matrix_norm(w, 2) * (w.shape[1] / w.shape[0]) ** 0.5
    return w * (to / norm)


class Search:
    """Looks for what moves the output most, by gradient ascent from several starts."""

    def __init__(self, program: Any, model: Any, length: int) -> None:
        self.model, self.length = model, length
        self.targets = {f"{w.path}.weight": float(w.target) for w in program.weights}
        self.names = [name for name, _ in model.named_parameters()]
        self.shapes = [p.shape for _, p in model.named_parameters()]

    def run(self) -> dict[str, float]:
        best = {"size": 0.0, "stretch": 0.0, "update": 0.0}
        for seed in range(2):
            for what in best:
                best[what] = max(best[what], self.ascend(what, seed))
        return best

    def ascend(self, what: str, seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)

        def one(shape: Any) -> Tensor:
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            return x.requires_grad_()

        x, dx = one((1, self.length, 4)), one((1, self.length, 4))
        w, dw = [one(s) for s in self.shapes], [one(s) for s in self.shapes]
        optimizer = torch.optim.Adam([x, dx, *w, *dw], lr=0.1)
        best = 0.0
        for _ in range(30):
            reach = self.reach(what, x, dx, w, dw)
            best = max(best, float(reach))
            optimizer.zero_grad()
            (-reach).backward()
            optimizer.step()
        return best

    def reach(self, what: str, x: Tensor, dx: Tensor, w: list[Tensor], dw: list[Tensor]) -> Tensor:
        weights = dict(zip(self.names, map(spectral, w), strict=True))

        def output(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.model, weights, (x,))

        if what == "size":
            y = output(rows(x), weights)
        elif what == "stretch":
            _, y = torch.func.jvp(lambda x: output(x, weights), (rows(x),), (rows(1e3 * dx),))
        else:
            moves = {
                name: spectral(d, self.targets[name])
                for name, d in zip(self.names, dw, strict=True)
            }
            _, y = torch.func.jvp(lambda w: output(rows(x), w), (weights,), (moves,))
        return y.square().mean(-1).amax().sqrt()
