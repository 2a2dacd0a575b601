"""Small hand-written modules with the interface of a generated file, for the examples' tests."""

from __future__ import annotations

COMMON = """
import math
from typing import NamedTuple
import torch
from torch import nn
import torch.nn.functional as F

class Input(NamedTuple):
    name: str
    dtype: str
    shape: tuple
    bound: int | None

class Weight(NamedTuple):
    name: str
    atom: str
    shape: tuple
    norm: str
    mass: float
    target: float

class NormedAdam(torch.optim.Optimizer):
    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        params = [p for _, p in params]
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p, entry in zip(group["params"], PLAN):
                s = self.state[p]
                if not s:
                    s.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                    s["x"] = torch.randn(p.shape[1], dtype=p.dtype)
                s["step"] += 1
                s["m"].lerp_(p.grad, 1 - b1)
                s["v"].lerp_(p.grad ** 2, 1 - b2)
                u = s["m"] / (1 - b1 ** s["step"])
                u = u / ((s["v"] / (1 - b2 ** s["step"])).sqrt() + 1e-12)
                y = u @ s["x"]
                y /= y.norm() + 1e-12
                s["x"] = u.T @ y
                t = group["lr"] * entry.target
                norm = math.sqrt(p.shape[1] / p.shape[0]) * s["x"].norm()
                p.mul_(1 - t * group["weight_decay"]).sub_(t * u / (norm + 1e-12))

class NormedSGD(torch.optim.SGD):
    def __init__(self, params, lr, momentum=0.9):
        super().__init__([p for _, p in params], lr=lr, momentum=momentum)
"""

TEXT = (
    COMMON
    + """
MODEL, PLAN_HASH = "Tiny", "a" * 64
INPUTS = (Input("tokens", "int", ("batch", "seq"), 5),)
PLAN = (
    Weight("token.weight", "Embed", (5, 8), "row", 1.0, 0.2),
    Weight("place.weight", "Embed", (16, 8), "row", 1.0, 0.2),
    Weight("out.weight", "Linear", (5, 8), "spectral", 1.0, 0.5),
)

class Tiny(nn.Module):
    def __init__(self, device=None, dtype=None, generator=None):
        super().__init__()
        self.token, self.place = nn.Embedding(5, 8), nn.Embedding(16, 8)
        self.out = nn.Linear(8, 5, bias=False)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(generator=generator)
        self.to(device=device, dtype=dtype)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.out(torch.tanh(self.token(tokens) + self.place(places)))
"""
)

IMAGES = (
    COMMON
    + """
MODEL, PLAN_HASH = "Flat", "b" * 64
INPUTS = (Input("images", "float", ("batch", 1, 4, 4), None),)
PLAN = (Weight("out.weight", "Linear", (3, 16), "spectral", 1.0, 1.0),)

class Flat(nn.Module):
    def __init__(self, device=None, dtype=None, generator=None):
        super().__init__()
        self.out = nn.Linear(16, 3, bias=False)
        with torch.no_grad():
            self.out.weight.normal_(generator=generator)
        self.to(device=device, dtype=dtype)

    def forward(self, images):
        return self.out(images.flatten(1))
"""
)
