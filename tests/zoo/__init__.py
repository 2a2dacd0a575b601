"""Models as people write them, and for each parameter what it is, read in the model's source.

`ZOO` has an `Entry` for each: `build()` makes a small one in train mode, without dropout and
caches; `example()` is a call of it, positional and named arguments; `loss(output)` a scalar to
train on; `needs` the package that it comes from, beside torch. All are seeded. Sizes differ where
the model allows it: 97 tokens, a width of 48, 80 in MLPs, 4 heads, 7 classes.

`expected` maps patterns of parameter names (`fnmatch`; `*` also takes dots) to `Expected`. Every
parameter has exactly one pattern; `Entry.named` gives the table by name. Its `role` is one of

    matrix   a Linear weight, (out, in)
    readout  the matrix, or kernel of size 1, whose output is the model's
    table    rows picked by integers: tokens, positions, types, relative positions
    tied     a table that is the readout too
    router   the matrix that scores experts
    experts  a stack of matrices, (experts, out, in)
    conv     a convolution kernel, (out, in, …)
    taps     a depthwise convolution kernel, (channels, 1, …)
    bias     what is added to features
    gain     what features are multiplied by: of norms, layer scale, learned scalars
    vector   what is there without an input: a class token, positions added whole or sliced
    opaque   anything else

`transposed` says that `in` comes before `out`. `pieces` names the logical weights of a parameter
that holds several, each with the indices of its output features along `Expected.axis`, in the order
of the storage; without pieces it is one weight. The bias of a fused layer has its matrix's pieces.
Names of pieces are the literature's: q, k, v; gate and up of act(gate)·up; value and gate of
value·sigmoid(gate); i, f, g, o of LSTM and r, z, n of GRU; x, z, and dt, B, C of Mamba; those of
adaLN-Zero.

`unused` has patterns of the parameters that get no gradient: frozen, or with no part in this call.
"""

from __future__ import annotations

from tests.zoo.entry import Entry, Expected
from tests.zoo.language import LANGUAGE
from tests.zoo.plain import PLAIN
from tests.zoo.vision import VISION

__all__ = ["ZOO", "Entry", "Expected"]

ZOO: dict[str, Entry] = LANGUAGE | VISION | PLAIN
