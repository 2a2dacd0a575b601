"""Graphs: aggregation is a product with a dense matrix, and its gains are attained."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import op_samples as samples
import pytest
import torch
from torch import Tensor

import modnorm
from modnorm.diagnostics import ModnormError
from modnorm.ops.aggregate import HOWS, Aggregate
from modnorm.ops.edges import LARGEST, Bound, Edge, Measure
from modnorm.ops.types import Symbol, TupleType
from modnorm.ops.types import Tensor as Type
from modnorm.pipeline import analyse_text

NODES, WIDTH = 6, 4
EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 2, 2, 5, 0], [1, 0, 1, 1, 2, 2, 2, 4, 1, 1]])
"""Node 3 and 5 get nothing, node 2 has an edge to itself, and node 1 gets one from node 0 twice."""
TYPE = TupleType((Type("float", (NODES, WIDTH)), Type("int", (2, 10), NODES)))


def dense(how: str, x: Tensor, edges: Tensor) -> Tensor:
    """By matrices, as the formulas of PyTorch Geometric's layers are written."""
    into = torch.zeros(NODES, NODES, dtype=x.dtype)
    for source, target in edges.T.tolist():
        into[target, source] += 1
    degree = into.sum(1)
    if how == "sum":
        return into @ x
    if how == "mean":
        return torch.where(degree > 0, 1 / degree.clamp(min=1), 0).diag() @ into @ x
    if how == "gcn":  # self loops that are there are not added again
        into = into - into.diag().diag() + torch.eye(NODES, dtype=x.dtype)
        root = into.sum(1).pow(-0.5).diag()
        return root @ into @ root @ x
    rows = [
        x[..., into[i] > 0, :].amax(-2) if degree[i] else torch.zeros_like(x[..., 0, :])
        for i in range(NODES)
    ]
    return torch.stack(rows, -2)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("how", HOWS)
def test_aggregation_is_a_product_with_a_matrix(how: str, batch: tuple[int, ...]) -> None:
    type = TupleType((Type("float", (*batch, NODES, WIDTH)), TYPE.members[1]))
    op, _ = Aggregate(how).resolve(type)
    x = drawn(*batch, NODES, WIDTH).requires_grad_()
    expected = dense(how, x, EDGES)
    along = drawn(*batch, NODES, WIDTH, seed=1)
    for y in (op.reference((x, EDGES)), samples.emitted(op, (x, EDGES), type, None)):
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        (got,) = torch.autograd.grad(y, x, along)
        (wanted,) = torch.autograd.grad(expected, x, along, retain_graph=True)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def attacked(how: str, degree: int | None, edges: Tensor, of: Measure, to: Measure) -> float:
    """How far the output moves, for the best of many inputs and moves, as a part of the gain."""
    type = TupleType((Type("float", (NODES, WIDTH)), Type("int", tuple(edges.shape), NODES)))
    op, _ = Aggregate(how, degree).resolve(type)
    gains = op.gains((Edge(type.members[0], {}), Edge(type.members[1], {})), type)  # type: ignore[arg-type]
    assert not isinstance(gains, str), gains
    gain = gains[0, of][0, to]
    if how == "max":
        x = torch.zeros(NODES, WIDTH, dtype=torch.float64)
        moves = [drawn(NODES, WIDTH, seed=seed) for seed in range(200)] + [
            torch.eye(NODES, WIDTH).roll(1, 0)
        ]
        return max(
            float(to.of(op.reference((x + h, edges)) - op.reference((x, edges))) / of.of(h)) / gain
            for h in moves
        )
    matrix = op.reference((torch.eye(NODES, dtype=torch.float64), edges))
    return float(matrix.abs().sum(1).max()) / gain  # of all rows the same vector, or its sign


STAR = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]])
ROW = Measure((1,))


@pytest.mark.parametrize(
    ("how", "degree", "edges", "of", "tight"),
    [
        ("mean", None, EDGES, ROW, 1.0),
        ("mean", None, STAR, LARGEST, 1.0),
        ("sum", 5, EDGES, ROW, 1.0),
        ("sum", 4, STAR, LARGEST, 1.0),
        ("gcn", 4, STAR, ROW, 0.85),
        ("gcn", 5, EDGES, ROW, 0.5),
        ("max", 4, STAR, ROW, 0.9),
        ("max", None, STAR, ROW, 0.9),
        ("max", None, EDGES, LARGEST, 0.9),
    ],
)
def test_no_change_is_stretched_more_than_its_gain(
    how: str, degree: int | None, edges: Tensor, of: Measure, tight: float
) -> None:
    assert tight <= attacked(how, degree, edges, of, of) + 1e-12 <= 1 + 1e-9


def test_a_normalized_sum_is_a_contraction_where_edges_go_both_ways() -> None:
    """The declared 1: the largest singular value of D^-1/2 (A + I) D^-1/2, which is 1."""
    both = torch.cat((EDGES, EDGES.flip(0)), 1).unique(dim=1)
    op, _ = Aggregate("gcn").resolve(TYPE)
    matrix = op.reference((torch.eye(NODES, dtype=torch.float64), both))
    assert torch.linalg.matrix_norm(matrix, 2) == pytest.approx(1.0)


GCN = """
input x: float[nodes, 5]
input edges: int[2, n] < nodes
model G = Aggregate("gcn") @ (Linear(3) @ ReLU @ Aggregate("gcn") @ (Linear(8) @ x, edges), edges)
"""
BY_MATRIX = """
input x: float[nodes, 5]
input adj: float[nodes, nodes]
model G = MatMul @ (adj, Linear(3) @ ReLU @ MatMul @ (adj, Linear(8) @ x))
"""


def generated(text: str, tmp_path: Path) -> Any:
    path = tmp_path / "g.mod"
    path.write_text(text)
    return modnorm.load(path)


def test_two_layers_are_those_of_a_dense_adjacency(tmp_path: Path) -> None:
    model = generated(GCN, tmp_path).G(dtype=torch.float64)
    other = generated(BY_MATRIX, tmp_path).G(dtype=torch.float64)
    other.load_state_dict(model.state_dict())
    x = drawn(NODES, 5)
    adjacency = dense("gcn", torch.eye(NODES, dtype=torch.float64), EDGES)
    torch.testing.assert_close(model(x, EDGES), other(x, adjacency), rtol=1e-12, atol=1e-12)
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(x, EDGES), model(x, EDGES))


@pytest.mark.parametrize("how", HOWS)
def test_narrow_indices_and_numbers_are_taken(how: str, tmp_path: Path) -> None:
    text = GCN.replace('"gcn"', f'"{how}"')
    model = generated(text, tmp_path).G()
    x = drawn(NODES, 5).float()
    expected = model(x, EDGES)
    torch.testing.assert_close(model(x, EDGES.int()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x, EDGES)
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("kind", ["NormedAdam", "DualizedSGD"])
def test_training_lowers_the_loss(kind: str, tmp_path: Path) -> None:
    module = generated(GCN, tmp_path)
    model = module.G(generator=torch.Generator().manual_seed(0))
    optimizer = getattr(module, kind)(model.named_parameters(), lr=0.2)
    x, labels = drawn(NODES, 5).float(), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(x, EDGES), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert all(map(math.isfinite, losses))


def test_a_graphs_nodes_are_no_batch() -> None:
    """A size that bounds integers, or is counted along another axis, is not one of examples."""
    for text in (GCN, BY_MATRIX):
        found = analyse_text(text)
        assert "W606" not in {d.code for d in found.diagnostics}
        assert "batch" not in found.program.inputs[0].type.roles


WRONG = {
    "int[n, 2] < nodes": "Transpose(0, 1) @ edges",
    "int[2, n] < n": "int[2, n] < nodes",
    "float[2, n]": "int[2, n] < nodes",
    "int[3, n] < nodes": "int[2, n] < nodes",
}


@pytest.mark.parametrize("declared", WRONG)
def test_what_is_wrong_with_edges_is_told(declared: str) -> None:
    inputs = f"input x: float[nodes, 5]\ninput edges: {declared}"
    with pytest.raises(ModnormError) as caught:
        analyse_text(f"{inputs}\nmodel G = Aggregate @ (Linear(3) @ x, edges)")
    (found,) = caught.value.diagnostics
    assert WRONG[declared] in found.hint


def test_indices_of_no_node_are_an_error_on_a_cpu(tmp_path: Path) -> None:
    model = generated(GCN, tmp_path).G()
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        model(drawn(NODES, 5).float(), torch.tensor([[0], [NODES]]))


# -- bags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["mean", "sum"])
@pytest.mark.parametrize("padding", [None, 2])
def test_bags_are_torchs(mode: str, padding: int | None, tmp_path: Path) -> None:
    given = "" if padding is None else f", padding_idx = {padding}"
    text = f'input x: int[batch, bag] < 7\nmodel B = EmbeddingBag(7, 4, "{mode}"{given})'
    model = generated(text, tmp_path).B(dtype=torch.float64)
    theirs = torch.nn.EmbeddingBag(7, 4, mode=mode, padding_idx=padding, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.copy_(model.embedding_bag.weight)
    assert isinstance(model.embedding_bag, torch.nn.EmbeddingBag)
    x = torch.tensor([[2, 2, 2], [0, 2, 6], [1, 1, 5]])
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-12, atol=1e-12)
    model(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(model.embedding_bag.weight.grad, theirs.weight.grad)
    with pytest.raises(IndexError, match="rows 0 to 6, but its input asks for 9"):
        model(torch.tensor([[9, 0]]))


def test_bags_of_many_axes_and_their_bounds() -> None:
    op, out = samples.builtin()["EmbeddingBag"](9, 4).resolve(
        Type("int", (Symbol(("b",)), 3, 5), 9)
    )  # type: ignore[call-arg]
    assert str(out) == "float[b, 3, 4]"
    edge = Edge(Type("int", (2, 3, 5), 9), {Measure((-1,), True): Bound(1.0, 1.0)})
    assert op.pushes((edge,), edge.type) == {Measure((2,)): 1.0}


# -- targets, by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reach"),
    [('"mean"', 1), ('"max"', 1), ('"gcn"', 1), ('"gcn", 3', 1), ('"sum", 3', 3), ('"sum"', 1)],
)
def test_targets_are_the_sums_over_paths(how: str, reach: int) -> None:
    """A node's own vector and its neighbours', twice, between two matrices: docs/mathematics.md."""
    program = analyse_text(
        "input x: float[nodes, 8]\ninput edges: int[2, n] < nodes\n"
        f"def around = Aggregate({how}) @ (Identity, edges)\n"
        "def layer = 1/2 * Linear(6) + 1/3 * (Linear(6, mass = 3) @ around)\n"
        "model M = 1/5 * Linear(2) @ layer @ Tanh @ layer @ Linear(4) @ x\n"
    ).program
    third = Fraction(1, 3) * reach  # D of a layer's output, times this, comes back by the edges
    second = Fraction(1, 5)
    first = second * (Fraction(1, 2) + third)
    downstream = {
        "linear": first * (Fraction(1, 2) + third),
        "layer.linear": first / 2,
        "layer.linear_1": first / 3,
        "layer_1.linear": second / 2,
        "layer_1.linear_1": second / 3,
        "linear_1": second,
    }
    assert {w.path: w.downstream for w in program.weights} == downstream
    masses = {path: 3 if path.endswith("layer.linear_1") else 1 for path in downstream}
    masses["layer_1.linear_1"] = 3
    assert program.mass == 10
    assert {w.path: w.target for w in program.weights} == {
        path: Fraction(masses[path], 10) / value for path, value in downstream.items()
    }


def test_targets_of_layers_in_a_loop() -> None:
    """With 1/2 + 3·1/6 = 1 all layers are alike; a weight that they share has the sum of them."""
    text = (
        "input x: float[nodes, 6]\ninput edges: int[2, n] < nodes\nshared s = Linear(6)\n"
        'def around = Aggregate("sum", 3) @ (Identity, edges)\n'
        "def layer = 1/2 * s + 1/6 * (Linear(6) @ around)\nmodel M = layer ** 4 @ x\n"
    )
    downstream = {w.path: w.downstream for w in analyse_text(text).program.weights}
    assert downstream == {"s.linear": 4 * Fraction(1, 2), "layer.{0}.linear": Fraction(1, 6)}
    doubled = analyse_text(text.replace("1/6", "1/2")).program
    (one,) = (w for w in doubled.weights if w.path == "layer.{0}.linear")
    assert (one.downstream, one.levels[0].ratio) == (Fraction(1, 2), 2)
    (every,) = (w for w in doubled.weights if w.path == "s.linear")
    assert every.downstream == Fraction(1 + 2 + 4 + 8, 2)
