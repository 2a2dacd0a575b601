"""The sweeps by name: what `modnorm transfer` is asked for."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """about: what it is for. text: the arguments of `modnorm transfer`."""

    about: str
    text: str

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.text)


DUAL = "dualized_sgd:momentum=0.8"
GPT = (
    "examples/gpt.mod -p heads=4 -p context=32 -p d_embed=64 -p blocks=2 --data shakespeare "
    "--context 32 --star --vary d_embed=32,64,128,256 --seeds 3"
)
NANO = "benchmarks/nanogpt.mod -p blocks_mass=32 --data shakespeare --context 32 --seeds 3"
MLP = (
    "examples/resmlp.mod -p width=64 -p blocks=2 --data fashion-mnist --batch 64 "
    "--star --vary width=32,64,128,256 --vary blocks=2,4,8,16 --seeds 3"
)
CNN = (
    "examples/rescnn.mod -p width=8 -p blocks=2 --data fashion-mnist --batch 16 --steps 150 "
    "--star --vary width=4,8,16,32 --vary blocks=2,4,8 --seeds 2"
)
VARIANTS = (
    "benchmarks/transfer/gpt_variants.mod -p heads=4 -p context=32 -p blocks=2 "
    "--data shakespeare --vary d_embed=64,128 --seeds 2"
)
TRIED = [
    *(f"dualized_sgd:momentum={m}" for m in ("0.5", "0.7", "0.8", "0.85", "0.9", "0.95")),
    f"{DUAL}:nesterov=false",
    *(f"{DUAL}:steps={n}" for n in (3, 4, 5, 6)),
    f"{DUAL}:weight_decay=0.1",
    "variants:rows:momentum=0.8",
    "variants:project:momentum=0.8",
    "variants:project:momentum=0.8:radius=2",
    "variants:parts:momentum=0.8:first=0.25",
    "variants:parts:momentum=0.8:last=0.5",
    "variants:parts:momentum=0.8:last=2",
    *(f"muon:momentum={m}" for m in ("0.8", "0.9", "0.95")),
]

SWEEPS = {
    "gpt": Sweep(
        "GPT on text: widths × 8, depths × 8",
        f"{GPT} --vary blocks=2,4,8,16 -p blocks_mass=5 "
        f"--optimizer normed_adam,adam,muon,{DUAL} "
        "--lr normed_adam=2^-3..2^0 --lr adam=2^-8..2^-4 --lr muon=2^-4..2^-1 "
        f"--lr {DUAL}=2^-3..2^0",
    ),
    "gpt_mass_10": Sweep(
        "the same with masses 1 : 10 : 1 instead of 1 : 5 : 1",
        f"{GPT} --vary blocks=2,4,8,16 -p blocks_mass=10 --optimizer normed_adam,{DUAL} "
        "--lr 2^-3..2^0",
    ),
    "gpt_more": Sweep(
        "the same with modula's own Adam, NormedSGD, SGD and muP's rules",
        f"{GPT} --vary blocks=2,4,8 -p blocks_mass=5 "
        "--optimizer modula_rules:gpt,normed_sgd,sgd,mup_rules:adam "
        "--lr modula_rules:gpt=2^-3..2^0 --lr normed_sgd=2^-2..2^1 "
        "--lr sgd=2^-1..2^2 --lr mup_rules:adam=2^-7..2^-4",
    ),
    "nanogpt": Sweep(
        "nanoGPT in its usual form, x + f(norm(x)): depths × 8",
        f"{NANO} --vary blocks=2,4,8,16 --optimizer {DUAL} --lr 2^2..2^5",
    ),
    "nanogpt_mean": Sweep(
        "the same written as a running mean",
        f"{NANO} -p mean=true --vary blocks=2,8 --optimizer {DUAL} --lr 2^2..2^5",
    ),
    "mlp": Sweep(
        "residual MLP on images: widths × 8, depths × 8",
        f"{MLP} -p blocks_mass=1 "
        f"--optimizer normed_adam,adam,muon,{DUAL},normed_sgd,sgd,mup_rules:adam "
        "--lr normed_adam=2^-4..2^1 --lr adam=2^-12..2^-6 --lr muon=2^-7..2^-2 "
        f"--lr {DUAL}=2^-5..2^0 --lr normed_sgd=2^-4..2^1 --lr sgd=2^-4..2^2 "
        "--lr mup_rules:adam=2^-10..2^-5",
    ),
    "mlp_more": Sweep(
        "the same with modula's own Adam, and DualizedSGD at other momenta",
        f"{MLP} -p blocks_mass=1 "
        "--optimizer modula_rules:mlp,dualized_sgd:momentum=0.9,dualized_sgd:momentum=0.95 "
        "--lr modula_rules:mlp=2^-4..2^1 --lr 2^-5..2^-1",
    ),
    "mlp_mass": Sweep(
        "masses 1 : m : 1 of the residual MLP, at two depths",
        "examples/resmlp.mod -p width=64 --data fashion-mnist --batch 64 --seeds 3 "
        f"--vary mass=0.25,0.5,1,2,5 --vary blocks=2,16 --optimizer normed_adam,{DUAL} "
        f"--lr normed_adam=2^-3..2^0 --lr {DUAL}=2^-4..2^-1",
    ),
    "mlp_mass_half": Sweep(
        "the residual MLP with masses 1 : 1/2 : 1",
        f"{MLP} -p blocks_mass=1/2 --optimizer normed_adam,{DUAL} "
        f"--lr normed_adam=2^-3..2^0 --lr {DUAL}=2^-4..2^-1",
    ),
    "mlp_mass_quarter": Sweep(
        "the residual MLP with masses 1 : 1/4 : 1",
        f"{MLP} -p blocks_mass=1/4 --optimizer normed_adam,{DUAL} "
        f"--lr normed_adam=2^-3..2^0 --lr {DUAL}=2^-4..2^-1",
    ),
    "cnn": Sweep(
        "residual convolutional network on images: widths × 8, depths × 4",
        f"{CNN} --optimizer normed_adam,adam,{DUAL} "
        f"--lr normed_adam=2^-3..2^1 --lr adam=2^-9..2^-5 --lr {DUAL}=2^-3..2^1",
    ),
    "context": Sweep(
        "GPT on text: contexts × 8",
        "benchmarks/transfer/gpt_variants.mod -p heads=4 -p d_embed=64 -p blocks=2 "
        f"--data shakespeare --vary context=16,32,64,128 --seeds 3 "
        f"--optimizer normed_adam,adam,muon,{DUAL} --lr normed_adam=2^-3..2^0 "
        f"--lr adam=2^-7..2^-4 --lr muon=2^-4..2^-1 --lr {DUAL}=2^-3..2^0",
    ),
    "mass": Sweep(
        "masses 1 : m : 1 of a GPT, at two widths",
        "examples/gpt.mod -p heads=4 -p context=32 -p blocks=2 --data shakespeare --context 32 "
        "--vary mass=1,2,5,10,20 --vary d_embed=32,128 --seeds 3 "
        f"--optimizer normed_adam,{DUAL} --lr normed_adam=2^-2..2^0 --lr {DUAL}=2^-2..2^0",
    ),
    "variants": Sweep(
        "what else DualizedSGD could be, beside torch's Muon at other momenta",
        f"{VARIANTS} --lr 2^-2..2^0 --lr muon=2^-3..2^-1 --optimizer {','.join(TRIED)}",
    ),
    "per_head": Sweep(
        "a map for every head",
        f"{VARIANTS} -p per_head=true --lr 2^-2..2^0 --optimizer {DUAL}",
    ),
    "readout": Sweep(
        "a readout measured by its rows",
        f"{VARIANTS} -p readout=row --lr 2^-2..2^0 --optimizer {DUAL}",
    ),
}
