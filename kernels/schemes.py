"""Which way to orthogonalise the matrices of a shape: a model of its cost, without torch.

n and m are the short and the long side of an n × m matrix X. A plain step forms X·Xᵀ, its square
and a polynomial of both times X: 2·n²·m + n³ multiplications and as many additions. In the Gram
form the last two steps act on X at once: one X·Xᵀ and one product with X fewer, for five n × n
products more with which X·Xᵀ and the polynomial are carried on. It pays from m = 1.5·n on, and
rounds like the plain form. (All steps on the Gram matrix would cost still less, but there rounding
in bfloat16 multiplies the norm of an update several times in bad cases.)

How many steps: six, in the weights' own type, for every shape, so that the norm of an update is one
whatever the width. Three steps cost about half of them, and on a GPU far less since they are taken
in bfloat16, but updates then have norms of up to 1.41: that is for those who ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


# modnorm: begin
class Scheme(NamedTuple):
    """How `polar` orthogonalises the matrices of one shape."""

    form: str  # "plain" or "gram": the last two steps by way of n × n matrices
    steps: int  # 3 to 6
    tiles: Any = None  # on a GPU: the bytes of an entry, and the tiles of the products


# Between which numbers singular values end, by steps; for 6, those of condition numbers to 1000.
BANDS = {3: (0.592, 1.406), 4: (0.748, 1.242), 5: (0.807, 1.160), 6: (0.907, 1.041)}
ACCURATE = 6  # as many steps are computed in the state's type, fewer in `fast_type`


BATCH = 1 << 22  # entries of matrices that are mapped at once


def sides(shape: Sequence[int]) -> tuple[int, int]:
    """The short and the long side of the matrices that a weight consists of.

    They are the last two axes of (out, in) and (groups, out, in), and the first two of a
    convolution's (out, in, k, k) or (out, in, groups, taps).
    """
    one, other = shape[:2] if len(shape) == 4 else shape[-2:]
    return min(one, other), max(one, other)


def flops(n: int, m: int, scheme: Scheme) -> int:
    """Multiplications and additions for one n × m matrix."""
    squares = scheme.steps - (scheme.steps == 3)  # the last of three steps forms none
    plain = scheme.steps * 4 * n * n * m + squares * 2 * n**3
    return plain if scheme.form == "plain" else plain - 4 * n * n * m + 6 * n**3


def choose(shape: Sequence[int], steps: int = ACCURATE) -> Scheme:
    """The scheme for weights of this shape."""
    n, m = sides(shape)
    forms = Scheme("plain", steps), Scheme("gram", steps)
    return min(forms, key=lambda scheme: flops(n, m, scheme))


# modnorm: end
MATRICES = ("spectral", "spectral_taps", "spectral_groups")
"""The norms, as plans name them, of weights that are matrices or stacks of them."""
