"""The JSON report: its keys, its values against known ones, and that it is what `json` reads."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from report_models import GPT, MLP, ODD, ORACLES, RESMLP, TIED, analysed

from modnorm.codegen.plan import records
from modnorm.report.as_json import dumps, report

KEYS = [
    "model",
    "source",
    "params",
    "mass",
    "sensitivity",
    "certified_sensitivity",
    "kappa",
    "sharpness",
    "certified_sharpness",
    "weights",
    "loss",
    "outputs",
    "assumptions",
    "certificate",
    "atoms",
    "tree",
    "diagnostics",
]
CERTIFICATE = ["kappa", "sensitivity", "input_norm", "output_norm", "reasons", "weights"]
ATOM = [
    "path",
    "op",
    "weight",
    "shape",
    "mass",
    "share",
    "downstream_sensitivity",
    "target",
    "norm",
    "line",
]


def strictly(text: str) -> Any:
    """The value of a JSON text that keeps to the standard."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(inner for child in node["children"] for inner in nodes(child))]


@pytest.mark.parametrize("program", [GPT, MLP, ODD, TIED, RESMLP])
def test_keys_and_types(program: str) -> None:
    found = report(analysed(program))
    assert list(found) == KEYS
    assert isinstance(found["weights"], int)
    for atom in found["atoms"]:
        assert list(atom) == ATOM
        for key in ("mass", "share", "downstream_sensitivity", "target"):
            assert type(atom[key]) is float
        assert all(type(size) is int for size in atom["shape"])
    for node in nodes(found["tree"]):
        assert ("name" in node) + ("op" in node) <= 1
        assert {"kind", "path", "mass", "sensitivity", "line", "children"} <= set(node)
        assert ("count" in node) or node["kind"] != "repeat"
        assert node["norm"]["low"] >= 0
    assert strictly(dumps(found)) == found
    certificate = found["certificate"]
    assert list(certificate) == CERTIFICATE
    assert certificate["kappa"] == found["kappa"]
    assert (found["kappa"] is None) == bool(certificate["reasons"])
    for reason in certificate["reasons"]:
        assert {"path", "op", "message", "line", "column"} <= set(reason)
    copies = sum(weight["copies"] for weight in certificate["weights"])
    assert copies == len(found["atoms"])
    if found["kappa"] is not None:
        kappas = math.fsum(weight["kappa"] for weight in certificate["weights"])
        assert kappas == pytest.approx(found["kappa"])


def test_outputs_and_their_names() -> None:
    one, x = {"name": None, "type": "float[batch, 10]"}, "input x: float[batch, 8]\n"
    assert report(analysed(f"{x}model M = Linear(10)\n"))["outputs"] == [one]
    two = report(analysed(f"{x}model M = (a = Linear(10), b = (x, (c = x,)))\n"))["outputs"]
    assert [entry["name"] for entry in two] == ["a", "b"]
    assert two[0] == one | {"name": "a"}
    value = {"name": None, "type": "float[batch, 8]"}
    pair = {"name": None, "type": "(c = float[batch, 8])", "members": [value | {"name": "c"}]}
    assert two[1]["members"] == [value, pair]


@pytest.mark.parametrize("name", ORACLES)
def test_values_of_the_reference_implementation(name: str) -> None:
    program, mass, sensitivity, targets = ORACLES[name]
    found = report(analysed(program))
    assert found["model"] == name
    assert found["mass"] == mass
    assert found["sensitivity"] == pytest.approx(sensitivity, rel=1e-15)
    assert [atom["target"] for atom in found["atoms"]] == pytest.approx(targets, rel=1e-14)
    assert math.fsum(atom["share"] for atom in found["atoms"]) == pytest.approx(1, rel=1e-12)
    whole = math.fsum(a["target"] * a["downstream_sensitivity"] for a in found["atoms"])
    assert whole == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("blocks_mass", [1, 5, 12])
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_gpt_targets_depend_on_the_blocks_mass_only(blocks: int, blocks_mass: int) -> None:
    found = report(analysed(GPT, blocks=blocks, blocks_mass=blocks_mass))
    b = blocks_mass
    for atom in found["atoms"][2:-1]:
        wide = any(f".{name}." in atom["path"] for name in "qkv")
        expected = b / (b + 2) if wide else b / (3 * (b + 2))
        assert atom["target"] == pytest.approx(expected, rel=1e-12), atom["path"]


def test_header() -> None:
    found = report(analysed(GPT, "gpt.mod", d_embed=64, blocks=2))
    assert (found["model"], found["source"]) == ("GPT", "gpt.mod")
    assert found["params"] == {
        "d_embed": 64,
        "heads": 4,
        "blocks": 2,
        "blocks_mass": 5,
        "vocab": 65,
        "context": 64,
    }
    # 12 d² a block, embeddings and readout
    assert found["weights"] == 2 * 12 * 64**2 + (65 + 64 + 65) * 64
    assert found["kappa"] is None
    assert found["certified_sensitivity"] is None  # RMSDivide has no bound
    assert set(found["sharpness"]) == {"alpha", "beta", "gamma"}


def test_params_keep_their_kinds() -> None:
    program = (
        'param a = 1/3  param b = true  param c = "gelu"  param d = sqrt(2)  param e = 4/2\n'
        "input x: float[batch, 8]\n"
        'model M = a * d * Linear(8 * e) if b and c == "gelu" else Linear(8)\n'
    )
    params = report(analysed(program))["params"]
    assert params == {"a": 1 / 3, "b": True, "c": "gelu", "d": math.sqrt(2), "e": 2}
    assert type(params["e"]) is int


def test_a_certified_bound_and_no_sharpness() -> None:
    found = report(analysed(MLP))
    assert found["certified_sensitivity"] == 1.0
    assert found["sharpness"] is None  # ReLU is not smooth


def test_atoms_are_the_plan() -> None:
    for program in (GPT, ODD, TIED):
        analysis = analysed(program)
        atoms = report(analysis)["atoms"]
        plan = list(records(analysis.program, planned=False))
        assert [atom["weight"] for atom in atoms] == [record.name for record in plan]
        assert [atom["target"] for atom in atoms] == [record.target for record in plan]
        assert len({atom["path"] for atom in atoms}) == len(atoms)


def test_a_shared_weight_inside_a_repetition_stands_where_it_is_first_used() -> None:
    text = """
    input x: float[batch, 4]
    shared cell = Linear(4)
    def body = Linear(4) @ cell @ Linear(4)
    model M = body ** 2
    """
    atoms = [atom["path"] for atom in report(analysed(text))["atoms"]]
    (cell,) = [i for i, path in enumerate(atoms) if "cell" in path]
    assert cell == 1, atoms  # between the first copy's own two
    assert len(atoms) == 5


def test_a_repetition_is_one_node() -> None:
    few, many = (report(analysed(GPT, blocks=blocks)) for blocks in (3, 1000))
    assert len(many["atoms"]) == 6003
    assert len(nodes(few["tree"])) == len(nodes(many["tree"]))
    (repeat,) = [node for node in nodes(many["tree"]) if node["kind"] == "repeat"]
    assert (repeat["path"], repeat["count"]) == ("body.block", 1000)
    assert repeat["mass"] == 5.0
    (block,) = repeat["children"]
    assert (block["name"], block["path"]) == ("block", "body.block.{0}")
    assert block["mass"] == pytest.approx(5 / 1000)


def test_runs_of_a_repetition() -> None:
    tree = report(analysed(ODD))["tree"]
    (repeat,) = [n for n in nodes(tree) if n["kind"] == "repeat" and n["path"] == "f"]
    assert repeat["count"] == 4
    assert [child["count"] for child in repeat["children"]] == [2, 1, 1]
    assert [child["path"] for child in repeat["children"]] == ["f.{0}", "f.{2}", "f.{3}"]


def test_masses_and_sensitivities_of_the_tree() -> None:
    """Masses add up, sensitivities multiply or add up, down to every leaf."""
    for program in (GPT, MLP, ODD, TIED, RESMLP):
        for node in nodes(report(analysed(program))["tree"]):
            inner = node["children"]
            if not inner:
                continue
            counts = [child.get("count", 1) for child in inner]
            if node["kind"] == "repeat" and len(inner) == 1:
                counts = [node["count"]]
            elif any(child["kind"] == "repeat" for child in inner):
                counts = [1] * len(inner)  # a repetition's own numbers are those of all copies
            mass = sum(child["mass"] * n for child, n in zip(inner, counts, strict=True))
            assert mass == pytest.approx(node["mass"], rel=1e-12), node
            factors = [child["sensitivity"] ** n for child, n in zip(inner, counts, strict=True)]
            join = sum if node["kind"] == "tuple" else math.prod
            assert join(factors) == pytest.approx(node["sensitivity"], rel=1e-12), node


def test_a_shared_module_has_its_mass_once() -> None:
    found = report(analysed(TIED))
    (shared,) = [node for node in nodes(found["tree"]) if node["kind"] == "shared"]
    assert (shared["name"], shared["path"], shared["mass"]) == ("embed", "embed", 3.0)
    embed = found["atoms"][0]
    assert embed["weight"] == "embed.embed.weight"
    assert embed["target"] == 0.75
    readers = [n for n in nodes(found["tree"]) if n.get("op") == "Unembed"]
    assert [(n["kind"], n["mass"]) for n in readers] == [("bond", 0.0)]

    cells = [n for n in nodes(report(analysed(ODD))["tree"]) if n["kind"] == "shared"]
    assert sorted(n["mass"] for n in cells) == [0.0, 2.0]
    assert sorted(len(n["children"]) for n in cells) == [0, 1]


def test_diagnostics_and_lines() -> None:
    found = report(analysed(ODD, "odd.mod"))
    codes = [d["code"] for d in found["diagnostics"]]
    assert {"W602", "W604"} <= set(codes)
    for diagnostic in found["diagnostics"]:
        assert diagnostic["severity"] == "warning"
        assert diagnostic["message"]
        assert diagnostic["line"] > 1
        assert diagnostic["column"] >= 1
    lines = ODD.splitlines()
    for atom in found["atoms"]:
        line = lines[atom["line"] - 1]
        assert atom["op"] in line, (atom["path"], line)


def test_a_line_of_another_file_says_so() -> None:
    program = "import std.nn\ninput x: float[batch, 8]\nmodel M = Linear(4) >> nn.mlp(4, 2, 3)\n"
    first, *others = report(analysed(program))["atoms"]
    assert (first["line"], "file" in first) == (3, False)
    assert {atom["file"] for atom in others} == {"std.nn"}


def test_a_model_without_weights() -> None:
    found = report(analysed("input x: float[batch, 8]\nmodel M = ReLU\n"))
    assert (found["atoms"], found["mass"], found["weights"]) == ([], 0.0, 0)
    assert strictly(dumps(found)) == found


def test_numbers_that_no_float_holds() -> None:
    """A certified bound may be infinite where the declared value is not: JSON has no infinity."""
    program = "input x: float[b, 8]\nmodel M = (1.4142135623730951 * ReLU >> Linear(8)) ** 9000\n"
    found = report(analysed(program))
    assert found["sensitivity"] == pytest.approx(1)
    assert found["certified_sensitivity"] is None
    assert strictly(dumps(found)) == found


def test_nesting_deeper_than_python_recurses() -> None:
    program = "input x: float[batch, 8]\nmodel M = " + "Identity + (" * 190
    program += "Linear(8)" + ")" * 190
    found = report(analysed(program))
    text = dumps(found)
    assert text.count("[") == text.count("]")
    assert text.count('"op": "Linear"') == 2  # among the atoms, and in the tree
    depth, node = 0, found["tree"]
    while node["children"]:
        depth, node = depth + 1, max(node["children"], key=lambda n: n["mass"])
    assert depth > 300
