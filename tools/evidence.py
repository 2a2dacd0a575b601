"""The tables of docs/transfer.md and README.md, from the committed results of sweeps.

`python tools/evidence.py` draws the README's figure from them too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from reference import table

from modnorm.sweep import Metric
from modnorm.sweep.analysis import found
from modnorm.sweep.findings import Curve, Drift, Findings
from modnorm.sweep.saved import loads

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "transfer" / "results"
FIGURES = {
    "transfer": ("gpt", "gpt_mass_10"),
    "transfer-mlp": ("mlp", "mlp_mass_quarter"),
}
"""Pictures in docs/images: of the optimizers with a modular norm in the second of two sweeps, and
of the others in the first."""
OTHERS = ("adam", "muon")
NONE = "–"


@cache
def results(name: str, metric: Metric = "train") -> Findings:
    """What a sweep found."""
    return found(loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")), metric)


@cache
def beside(plain: str, normed: str) -> Findings:
    """Adam and Muon of a sweep beside the optimizers of another one with other masses.

    Masses make no difference to the first two.
    """
    one, other = results(plain).sweep, results(normed).sweep
    runs = (*other.runs, *(run for run in one.runs if run[0].optimizer in OTHERS))
    kept = {name: rates for name, rates in one.rates.items() if name in OTHERS}
    rates = {**other.rates, **kept}
    return found(replace(other, optimizers=tuple(rates), rates=rates, runs=runs))


def pm(value: float | None, error: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with its error."""
    if value is None:
        return NONE
    shown = f"{value:{'+' if sign else ''}.{digits}f}"
    return shown if error is None else f"{shown} ± {error:.{digits}f}"


def label(sizes: Sequence[tuple[str, object]]) -> str:
    return ", ".join(f"{value}" for _, value in sizes)


def drifts(*names: str) -> str:
    """Drift per doubling of each param, for each optimizer of some sweeps."""
    return drift_table({name: results(name) for name in names})


def overview(**pairs: tuple[str, str]) -> str:
    """The drifts that pictures show."""
    return drift_table({name: beside(*sweeps) for name, sweeps in pairs.items()})


def drift_table(findings: dict[str, Findings]) -> str:
    own = {name: one.drifts for name, one in findings.items()}
    axes = list(dict.fromkeys(drift.axis for one in own.values() for drift in one))
    rows = []
    for name, one in own.items():
        for optimizer in dict.fromkeys(drift.optimizer for drift in one):
            by_axis = {drift.axis: drift for drift in one if drift.optimizer == optimizer}
            cells = [cell(by_axis[axis]) if axis in by_axis else NONE for axis in axes]
            rows.append([name, f"`{optimizer}`", *cells])
    return table(["sweep", "optimizer", *(f"per doubling of `{axis}`" for axis in axes)], rows)


def cell(drift: Drift) -> str:
    return f"{pm(drift.value, drift.error, sign=True)}, {drift.verdict}"


def losses(name: str, *, held_out: bool) -> str:
    """The loss of every optimizer at its own best learning rate, and that rate, for each size."""
    findings = results(name)
    optimizers = list(dict.fromkeys(curve.optimizer for curve in findings.curves))
    sizes = list(dict.fromkeys(curve.sizes for curve in findings.curves))
    rows = []
    for at in sizes:
        row = [label(at)]
        for optimizer in optimizers:
            curve = next(c for c in findings.of(optimizer) if c.sizes == at)
            loss = curve.held_out if held_out else curve.train
            row.append(f"{pm(loss.best, loss.error, 3)} ({rate(curve)})")
        rows.append(row)
    names = ", ".join(f"`{axis}`" for axis, _ in sizes[0])
    return table([names, *(f"`{optimizer}`" for optimizer in optimizers)], rows)


def rate(curve: Curve) -> str:
    if curve.best is None:
        return {"low": "below the grid", "high": "above the grid"}.get(curve.edge or "", NONE)
    return f"{curve.best:.2f}"


def kept(*names: str) -> str:
    """Held-out loss of the largest models at the learning rate tuned on the smallest."""
    rows = []
    for name in names:
        findings = results(name, "held_out")
        for optimizer in dict.fromkeys(curve.optimizer for curve in findings.curves):
            for curve in largest(findings.of(optimizer)):
                loss = curve.held_out
                part = loss.excess
                above = NONE if part is None else f"{round(part * 100, 1) + 0.0:+.1f} %"
                rows.append(
                    [
                        f"{name}: {label(curve.sizes)}",
                        f"`{optimizer}`",
                        pm(loss.best, loss.error, 3),
                        pm(loss.at_smallest, None, 3),
                        above,
                    ]
                )
    head = ["sweep: size", "optimizer", "own best", "at the smallest model's rate", "above"]
    return table(head, rows)


def largest(curves: Sequence[Curve]) -> list[Curve]:
    """The curves at the largest value of each param."""
    found: dict[int, Curve] = {}
    for axis in range(len(curves[0].sizes)):
        if len({curve.sizes[axis][1] for curve in curves}) > 1:
            top = max(curves, key=lambda c, axis=axis: c.sizes[axis][1])  # type: ignore[misc]
            found[id(top)] = top
    return list(found.values())


def masses(name: str) -> str:
    """Loss at the best learning rate for each mass, and the mass to take."""
    findings = results(name)
    rows = []
    for optimizer in dict.fromkeys(curve.optimizer for curve in findings.curves):
        for curve in findings.of(optimizer):
            advised = [
                r for r in findings.masses
                if r.optimizer == optimizer and set(r.sizes) < set(curve.sizes)
            ]  # fmt: skip
            note = ""
            for r in advised:
                own = tuple(pair for pair in curve.sizes if pair not in r.sizes)
                note = "best" if own == r.masses else "as good" if own in r.as_good else ""
            cells = [f"{value}" for _, value in curve.sizes]
            train = pm(curve.train.best, curve.train.error, 3)
            rows.append([f"`{optimizer}`", *cells, rate(curve), train, note])
    names = [f"`{axis}`" for axis, _ in findings.curves[0].sizes]
    return table(["optimizer", *names, "best log2 lr", "training loss", ""], rows)


def variants(*names: str) -> str:
    """Training and held-out loss of each variant at its best learning rate, by size."""
    rows = []
    sizes: list[str] = []
    for name in names:
        findings = results(name)
        sizes = list(dict.fromkeys(label(curve.sizes) for curve in findings.curves))
        for optimizer in dict.fromkeys(curve.optimizer for curve in findings.curves):
            own = findings.of(optimizer)
            shown = f"`{optimizer}`" if name == "variants" else f"`{optimizer}`, {name}"
            cells = [
                f"{pm(c.train.best, c.train.error, 3)} / {pm(c.held_out.best, None, 3)} ({rate(c)})"
                for c in own
            ]
            rows.append([shown, *cells])
    return table(["variant", *(f"`d_embed` = {size}" for size in sizes)], rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "drift of the readme": partial(overview, GPT=FIGURES["transfer"], MLP=FIGURES["transfer-mlp"]),
    "drift of the gpt": partial(drifts, "gpt", "gpt_mass_10", "gpt_more"),
    "drift of the mlp": partial(drifts, "mlp", "mlp_mass_half", "mlp_mass_quarter", "mlp_more"),
    "drift with context": partial(drifts, "context"),
    "drift of the cnn": partial(drifts, "cnn"),
    "losses of the cnn": partial(losses, "cnn", held_out=False),
    "losses of the gpt": partial(losses, "gpt", held_out=False),
    "held out losses of the gpt": partial(losses, "gpt", held_out=True),
    "losses with mass ten": partial(losses, "gpt_mass_10", held_out=False),
    "drift of nanogpt": partial(drifts, "nanogpt", "nanogpt_mean"),
    "losses of nanogpt": partial(losses, "nanogpt", held_out=False),
    "losses of the running mean": partial(losses, "nanogpt_mean", held_out=False),
    "losses of the mlp": partial(losses, "mlp", held_out=False),
    "losses with mass a quarter": partial(losses, "mlp_mass_quarter", held_out=False),
    "held out losses of the mlp": partial(losses, "mlp", held_out=True),
    "rates that were kept": partial(
        kept, "gpt", "gpt_mass_10", "gpt_more", "mlp", "mlp_mass_quarter", "context"
    ),
    "masses": partial(masses, "mass"),
    "masses of the mlp": partial(masses, "mlp_mass"),
    "variants": partial(variants, "variants", "per_head", "readout"),
}


def main() -> int:
    """Draw the figures in docs/images anew."""
    from modnorm.sweep.plot import picture

    for name, sweeps in FIGURES.items():
        path = ROOT / "docs" / "images" / f"{name}.png"
        path.write_bytes(picture(beside(*sweeps), "png", kind="curves"))
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
