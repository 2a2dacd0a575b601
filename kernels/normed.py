"""The step of a normalising optimizer on a GPU: three Triton kernels for all weights of a model.

`moments_kernel` takes the gradients into the moments. Weights whose rows are measured one by one
are moved at once; of a matrix's update U it writes Uᵀ(Ux) and lengths of rows and columns, in
parts, or ‖U‖² or max |U| where the norm is one of all entries. `reduce_kernel` adds the parts up,
always in the same order, so that a step is the same to the last bit every time. `apply_kernel`
computes U again and moves the matrices.
With four bytes a number that makes 36 bytes for each entry of a matrix and 28 for one of a row
(fused AdamW: 28).

A weight is rows × taps × columns: a matrix has one tap, a convolution (out, in, h, w) has h·w, a
vector is one row. The tables that the kernels read are described where they are made (launch.py).
"""

# mypy: disable-error-code="no-untyped-def, no-any-return, valid-type"

from __future__ import annotations

from .device import constant, jit, tl

# What is found of rows, tiles and parts; the largest counts.
#
#     0  gradients are 0
#     1  some gradient is not, and nothing moves so far
#     2  something moves
#     3  a gradient is not finite, or numbers are too large to square
#     4  a moment is not finite, or a row would not be
#
# What becomes of it stands in `lost`, four numbers a part: in how many steps it had 3, 4 and 1, and
# whether `apply_kernel` has since kept something that would not have been finite from a matrix.


# modnorm: begin
# What kernels know of a shape of weights when they are compiled: `KernelShape`, field by field.
KIND = constant(0)
TAPS = constant(1)
COLUMNS = constant(2)
BLOCK = constant(3)
TAP_LANES = constant(4)
COLUMN_LANES = constant(5)
CHUNKS = constant(6)
GAIN = constant(7)
# Its kinds: how the norm of a weight is measured.
MATRIX = constant(0)
ROWS = constant(1)
ROWS_MAX = constant(2)
WHOLE = constant(3)
WHOLE_MAX = constant(4)


@jit
def moments_kernel(
    tiles, where, targets, sums,
    SHAPES: tl.constexpr, ADAM: tl.constexpr, MASTER: tl.constexpr, P: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """One program a tile: new moments, and the tile's part of a matrix or its rows, moved."""
    tile = tiles + 5 * tl.program_id(0)
    index, shape = tl.load(tile), tl.load(tile + 1)
    start, end = tl.load(tile + 2), tl.load(tile + 3)
    row = where + 8 * index
    if tl.load(row + 2) == 0:  # no gradient
        return
    weight, state, numbers = (
        addresses(row, P, ALIGNED),
        moment(row, ALIGNED),
        options(row, targets + index),
    )
    part = sums + tl.load(tile + 4)
    x = pointer(row + 5, tl.float32, ALIGNED)
    for s in tl.static_range(len(SHAPES)):
        if shape == s:
            if SHAPES[s][KIND] == MATRIX:
                take_matrix(weight, state, numbers, x, part, start, end, SHAPES, s, ADAM)
            elif SHAPES[s][KIND] == WHOLE or SHAPES[s][KIND] == WHOLE_MAX:
                take_whole(weight, state, numbers, part, start, end, SHAPES, s, ADAM)
            else:
                take_rows(weight, state, numbers, part, start, end, SHAPES, s, ADAM, MASTER)


@jit
def take_matrix(
    weight, state, numbers, x, part, start, end,
    SHAPES: tl.constexpr, s: tl.constexpr, ADAM: tl.constexpr,
):  # fmt: skip
    """New moments of rows of a matrix, and their part of what bounds its norm.

    That is Uᵀ(Ux), the columns' squares, ‖Ux‖², the longest row's square, what was found.
    """
    SHAPE: tl.constexpr = SHAPES[s]
    B: tl.constexpr = SHAPE[BLOCK]
    T: tl.constexpr = SHAPE[TAP_LANES]
    C: tl.constexpr = SHAPE[COLUMN_LANES]
    Z: tl.constexpr = SHAPE[CHUNKS] * T * C
    squares = tl.zeros((T,), tl.float32)
    longest = tl.zeros((T,), tl.float32)
    z = tl.zeros((T, C), tl.float32)
    columns = tl.zeros((T, C), tl.float32)
    found = 0
    for row in range(start, end, B):
        if SHAPE[CHUNKS] == 1:
            at, inside = place(row, end, 0, SHAPE)
            u, largest = take_in(weight, state, numbers, at, inside, ADAM)
            y = tl.sum(u * entries(x, 0, SHAPE)[None, :, :], 2)
            lengths = tl.sum(u * u, 2)
            z += tl.sum(u * y[:, :, None], 0)
            columns += tl.sum(u * u, 0)
        else:  # a row is too wide to stay on the chip, but not for the cache
            y = tl.zeros((B, T), tl.float32)
            lengths = tl.zeros((B, T), tl.float32)
            largest = tl.zeros((B,), tl.float32)
            for chunk in range(SHAPE[CHUNKS]):
                at, inside = place(row, end, chunk * C, SHAPE)
                u, more = take_in(weight, state, numbers, at, inside, ADAM)
                largest = tl.maximum(largest, more)
                y += tl.sum(u * entries(x, chunk * C, SHAPE)[None, :, :], 2)
                lengths += tl.sum(u * u, 2)
            tl.debug_barrier()
            for chunk in range(SHAPE[CHUNKS]):
                at, inside = place(row, end, chunk * C, SHAPE)
                u = again(state, numbers, at, inside, ADAM)
                right, wide = tl.sum(u * y[:, :, None], 0), tl.sum(u * u, 0)
                if row > start:
                    right += tl.load(part + inner(chunk, SHAPE))
                    wide += tl.load(part + Z + inner(chunk, SHAPE))
                tl.store(part + inner(chunk, SHAPE), right)
                tl.store(part + Z + inner(chunk, SHAPE), wide)
            tl.debug_barrier()
        squares += tl.sum(y * y, 0)
        longest = tl.maximum(longest, tl.max(lengths, 0))
        of_rows = judged(largest, tl.sum(lengths, 1), MATRIX)
        found = tl.maximum(found, tl.max(of_rows, 0))
    if SHAPE[CHUNKS] == 1:
        tl.store(part + inner(0, SHAPE), z)
        tl.store(part + Z + inner(0, SHAPE), columns)
    tl.store(part + 2 * Z + tl.arange(0, T), squares)
    tl.store(part + 2 * Z + T + tl.arange(0, T), longest)
    tl.store(part + 2 * Z + 2 * T, found)


@jit
def take_rows(
    weight, state, numbers, part, start, end,
    SHAPES: tl.constexpr, s: tl.constexpr, ADAM: tl.constexpr, MASTER: tl.constexpr,
):  # fmt: skip
    """New moments of rows that are measured one by one, by RMS or largest entry; moves them."""
    SHAPE: tl.constexpr = SHAPES[s]
    B: tl.constexpr = SHAPE[BLOCK]
    T: tl.constexpr = SHAPE[TAP_LANES]
    C: tl.constexpr = SHAPE[COLUMN_LANES]
    found = 0
    refused = tl.zeros((T, C), tl.int32)
    for row in range(start, end, B):
        if SHAPE[CHUNKS] == 1:
            at, inside = place(row, end, 0, SHAPE)
            u, largest = take_in(weight, state, numbers, at, inside, ADAM)
            norm = measured(u, SHAPE)
            of_rows, factor = judged(largest, norm, SHAPE[KIND]), inverse(norm)
            inside &= (of_rows < 3)[:, None, None]
            u *= factor[:, None, None] / SHAPE[GAIN]
            refused = tl.maximum(refused, move(weight, at, inside, u, numbers, MASTER))
        else:
            norm = tl.zeros((B,), tl.float32)
            largest = tl.zeros((B,), tl.float32)
            for chunk in range(SHAPE[CHUNKS]):
                at, inside = place(row, end, chunk * C, SHAPE)
                u, more = take_in(weight, state, numbers, at, inside, ADAM)
                largest = tl.maximum(largest, more)
                if SHAPE[KIND] == ROWS:
                    part_norm = measured(u, SHAPE)
                    norm = tl.sqrt(norm * norm + part_norm * part_norm)
                else:
                    norm = tl.maximum(norm, measured(u, SHAPE))
            tl.debug_barrier()
            of_rows, factor = judged(largest, norm, SHAPE[KIND]), inverse(norm)
            for chunk in range(SHAPE[CHUNKS]):
                at, inside = place(row, end, chunk * C, SHAPE)
                u = again(state, numbers, at, inside, ADAM) * factor[:, None, None] / SHAPE[GAIN]
                inside &= (of_rows < 3)[:, None, None]
                refused = tl.maximum(refused, move(weight, at, inside, u, numbers, MASTER))
        of_rows = tl.maximum(of_rows, tl.where(factor > 0, 2, 0))
        found = tl.maximum(found, tl.max(of_rows, 0))
    tl.store(part, tl.where(tl.max(tl.max(refused, 1), 0) > 0, 4, found))


@jit
def judged(largest, norm, HOW: tl.constexpr):
    """What is found of rows, by their largest gradients and what norms or squares come to.

    Infinity in a moment becomes NaN as soon as a gradient is taken in. So where a sum of squares is
    infinite, numbers were too large; of largest entries, see `top`.
    """
    found = tl.where(largest > 0, 1, 0)
    found = tl.where((largest < 1e30) & (norm < 3e38), found, 3)
    if HOW == ROWS_MAX or HOW == WHOLE_MAX:  # noqa: SIM109  Triton has no `in`
        found = tl.where(norm < 3e38, found, 4)
    return tl.where(norm == norm, found, 4)


@jit
def take_whole(
    weight, state, numbers, part, start, end,
    SHAPES: tl.constexpr, s: tl.constexpr, ADAM: tl.constexpr,
):  # fmt: skip
    """New moments of rows of a weight that is measured as a whole, and their part of its norm."""
    SHAPE: tl.constexpr = SHAPES[s]
    size = 0.0
    largest = 0.0
    for row in range(start, end, SHAPE[BLOCK]):
        for chunk in range(SHAPE[CHUNKS]):
            at, inside = place(row, end, chunk * SHAPE[COLUMN_LANES], SHAPE)
            u, more = take_in(weight, state, numbers, at, inside, ADAM)
            largest = tl.maximum(largest, tl.max(more, 0))
            if SHAPE[KIND] == WHOLE:
                size += tl.sum(tl.sum(tl.sum(u * u, 2), 1), 0)
            else:
                size = tl.maximum(size, tl.max(top(u), 0))
    tl.store(part, size)
    tl.store(part + 1, judged(largest, size, SHAPE[KIND]))


@jit
def measured(u, SHAPE: tl.constexpr):
    """Of each row, what these columns add to its RMS, or their largest entry in size."""
    if SHAPE[KIND] == ROWS:
        return tl.sqrt(tl.sum(tl.sum(u * u, 2), 1) / SHAPE[COLUMNS])
    else:
        return top(u)


@jit
def top(u):
    """Of each row, the largest entry in size; infinity where one is NaN, which a maximum hides."""
    size = tl.abs(u)
    return tl.max(tl.max(tl.where(size < 3e38, size, float("inf")), 2), 1)


@jit
def reduce_kernel(weights, where, sums, factors, lost, SHAPES: tl.constexpr, ALIGNED: tl.constexpr):
    """One program a weight: add up its parts; its factors, by tap, and its next vector.

    Also counts what was found.
    """
    index = tl.program_id(0)
    row, record = where + 8 * index, weights + 5 * index
    if tl.load(row + 2) == 0:
        return
    shape, height, part = tl.load(record), tl.load(record + 1), sums + tl.load(record + 2)
    count, factor = tl.load(record + 3), factors + tl.load(record + 4)
    x = pointer(row + 5, tl.float32, ALIGNED)
    lost += 4 * index
    refused = tl.load(lost + 3)  # of the last step
    found = 0.0
    for s in tl.static_range(len(SHAPES)):
        if shape == s:
            if SHAPES[s][KIND] == MATRIX:
                found = reduce_matrix(x, part, count, height, factor, SHAPES, s)
            elif SHAPES[s][KIND] == WHOLE or SHAPES[s][KIND] == WHOLE_MAX:
                found = reduce_whole(part, count, height, factor, SHAPES, s)
            else:
                for k in range(count):
                    found = tl.maximum(found, tl.load(part + k))
    tl.store(lost, tl.load(lost) + tl.where(found == 3, 1, 0))
    tl.store(lost + 1, tl.load(lost + 1) + refused + tl.where(found == 4, 1, 0))
    tl.store(lost + 2, tl.load(lost + 2) + tl.where(found == 1, 1, 0))
    tl.store(lost + 3, 0)


@jit
def reduce_matrix(x, part, count, height, factor, SHAPES: tl.constexpr, s: tl.constexpr):
    """With right = Uᵀ(Ux)/‖Ux‖: right/‖right‖ is the next vector; the factor is 1/σ.

    σ is the largest lower bound of σ_max: ‖right‖, the longest row and column, ‖U‖_F/√(short side).
    Where ‖right‖ is not half of it, x was nearly a singular vector that no longer counts; the next
    one then starts from the columns' lengths.
    """
    SHAPE: tl.constexpr = SHAPES[s]
    T: tl.constexpr = SHAPE[TAP_LANES]
    C: tl.constexpr = SHAPE[COLUMN_LANES]
    COUNT: tl.constexpr = SHAPE[CHUNKS]
    Z: tl.constexpr = COUNT * T * C
    PART: tl.constexpr = 2 * Z + 2 * T + 1
    tap = tl.arange(0, T)
    squares = tl.zeros((T,), tl.float32)
    bound = tl.zeros((T,), tl.float32)
    whole = tl.zeros((T,), tl.float32)
    norm = tl.zeros((T,), tl.float32)
    found = 0.0
    for k in range(count):
        squares += tl.load(part + k * PART + 2 * Z + tap)
        bound = tl.maximum(bound, tl.load(part + k * PART + 2 * Z + T + tap))
        found = tl.maximum(found, tl.load(part + k * PART + 2 * Z + 2 * T))
    scale = inverse(tl.sqrt(squares))[:, None]
    for chunk in tl.static_range(COUNT):
        right = add_up(part, count, chunk, SHAPE) * scale
        columns = add_up(part + Z, count, chunk, SHAPE)
        norm += tl.sum(right * right, 1)
        bound = tl.maximum(bound, tl.max(columns, 1))
        whole += tl.sum(columns, 1)
        if COUNT > 1:
            tl.store(part + inner(chunk, SHAPE), right)
            tl.store(part + Z + inner(chunk, SHAPE), columns)
    sides = tl.minimum(height.to(tl.float32), SHAPE[COLUMNS])
    bound = tl.maximum(bound, tl.maximum(norm, whole / sides))
    fits = tl.min(((norm < 3e38) & (bound < 3e38)).to(tl.int32), 0)  # NaN does not
    found = tl.where(fits == 1, found, tl.maximum(found, 3.0))
    stuck = (norm < 0.25 * bound)[:, None]
    if COUNT > 1:
        tl.debug_barrier()
    for chunk in tl.static_range(COUNT):
        at, inside = position(chunk * C, SHAPE)
        if COUNT > 1:
            right = tl.load(part + inner(chunk, SHAPE))
            columns = tl.load(part + Z + inner(chunk, SHAPE))
        new = tl.where(stuck, tl.sqrt(columns), right)
        length = inverse(tl.sqrt(tl.where(stuck, whole[:, None], norm[:, None])))
        good = tl.where(found > 2, 0.0, length) > 0
        tl.store(x + at, new * length, inside & good)
    size = inverse(tl.sqrt(bound)) * tl.sqrt(height.to(tl.float32) / SHAPE[COLUMNS]) / SHAPE[TAPS]
    tl.store(factor + tap, tl.where(found > 2, -1.0, size), tap < SHAPE[TAPS])
    return tl.maximum(found, tl.where(tl.max(size, 0) > 0, 2.0, 0.0))


@jit
def reduce_whole(part, count, height, factor, SHAPES: tl.constexpr, s: tl.constexpr):
    """The factor of a weight that is measured as a whole, by its RMS or its largest entry."""
    SHAPE: tl.constexpr = SHAPES[s]
    norm = 0.0
    found = 0.0
    for k in range(count):
        more = tl.load(part + 2 * k)
        norm = norm + more if SHAPE[KIND] == WHOLE else tl.maximum(norm, more)
        found = tl.maximum(found, tl.load(part + 2 * k + 1))
    if SHAPE[KIND] == WHOLE:
        norm = tl.sqrt(norm / (height.to(tl.float32) * SHAPE[COLUMNS]))
    size = inverse(norm) / SHAPE[GAIN]
    found = tl.where(norm < 3e38, found, tl.maximum(found, 3.0))
    tl.store(factor, tl.where(found > 2, -1.0, size))
    return tl.maximum(found, tl.where(size > 0, 2.0, 0.0))


@jit
def add_up(part, count, chunk, SHAPE: tl.constexpr):
    """A chunk of Uᵀ(Ux), or of the columns' squares, part by part in their order."""
    T: tl.constexpr = SHAPE[TAP_LANES]
    C: tl.constexpr = SHAPE[COLUMN_LANES]
    total = tl.zeros((T, C), tl.float32)
    for k in range(count):
        total += tl.load(part + k * (2 * (SHAPE[CHUNKS] * C + 1) * T + 1) + inner(chunk, SHAPE))
    return total


@jit
def apply_kernel(
    tiles, where, targets, weights, factors, lost,
    SHAPES: tl.constexpr, ADAM: tl.constexpr, MASTER: tl.constexpr, P: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """One program a tile of a matrix: w ← (1 - lr·target·weight_decay)·w - lr·target·U/‖U‖."""
    tile = tiles + 5 * tl.program_id(0)
    index, shape = tl.load(tile), tl.load(tile + 1)
    start, end = tl.load(tile + 2), tl.load(tile + 3)
    row, factor = where + 8 * index, factors + tl.load(weights + 5 * index + 4)
    if tl.load(row + 2) == 0:
        return
    if tl.load(factor) < 0:  # a gradient or a moment that was not finite
        return
    weight, state, numbers = (
        addresses(row, P, ALIGNED),
        moment(row, ALIGNED),
        options(row, targets + index),
    )
    for s in tl.static_range(len(SHAPES)):
        if shape == s and SHAPES[s][KIND] != ROWS and SHAPES[s][KIND] != ROWS_MAX:
            kept = lost + 4 * index + 3
            apply_matrix(weight, state, numbers, factor, kept, start, end, SHAPES, s, ADAM, MASTER)


@jit
def apply_matrix(
    weight, state, numbers, factor, kept, start, end,
    SHAPES: tl.constexpr, s: tl.constexpr, ADAM: tl.constexpr, MASTER: tl.constexpr,
):  # fmt: skip
    """Move rows of a matrix."""
    SHAPE: tl.constexpr = SHAPES[s]
    T: tl.constexpr = SHAPE[TAP_LANES]
    C: tl.constexpr = SHAPE[COLUMN_LANES]
    tap = tl.arange(0, T)
    scale = tl.load(factor + tap, tap < SHAPE[TAPS], 0.0)[None, :, None]
    refused = tl.zeros((T, C), tl.int32)
    for row in range(start, end, SHAPE[BLOCK]):
        for chunk in range(SHAPE[CHUNKS]):
            at, inside = place(row, end, chunk * C, SHAPE)
            u = again(state, numbers, at, inside, ADAM)
            refused = tl.maximum(refused, move(weight, at, inside, u * scale, numbers, MASTER))
    if tl.max(tl.max(refused, 1), 0) > 0:
        tl.store(kept, 1)  # as other programs may, of the same matrix


@jit
def addresses(row, P: tl.constexpr, ALIGNED: tl.constexpr):
    """The weight, its float32 copy, and the gradient."""
    p, g = pointer(row, P, ALIGNED), pointer(row + 2, P, ALIGNED)
    return p, pointer(row + 1, tl.float32, ALIGNED), g


@jit
def moment(row, ALIGNED: tl.constexpr):
    """The first and the second moment."""
    return pointer(row + 3, tl.float32, ALIGNED), pointer(row + 4, tl.float32, ALIGNED)


@jit
def pointer(entry, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """An entry of the table of addresses, which are multiples of ALIGNED."""
    return tl.multiple_of(tl.load(entry).to(tl.pointer_type(TYPE)), ALIGNED)


@jit
def options(row, target):
    """lr·target, 1 - lr·target·weight_decay, 1 - β₁, 1 - β₂ and eps."""
    size = tl.load(tl.load(row + 6).to(tl.pointer_type(tl.float32))) * tl.load(target)
    o = tl.load(row + 7).to(tl.pointer_type(tl.float32))
    return size, 1 - size * tl.load(o), tl.load(o + 1), tl.load(o + 2), tl.load(o + 3)


@jit
def place(row, end, column, SHAPE: tl.constexpr):
    """Where a block of (rows, taps, columns) lies in a weight, and what of it is inside."""
    rows = row + tl.arange(0, SHAPE[BLOCK])[:, None, None]
    taps = tl.arange(0, SHAPE[TAP_LANES])[None, :, None]
    columns = column + tl.arange(0, SHAPE[COLUMN_LANES])[None, None, :]
    at = rows.to(tl.int64) * (SHAPE[TAPS] * SHAPE[COLUMNS]) + columns * SHAPE[TAPS] + taps
    return at, (rows < end) & (taps < SHAPE[TAPS]) & (columns < SHAPE[COLUMNS])


@jit
def position(column, SHAPE: tl.constexpr):
    """Where a block of (taps, columns) lies in a vector, and what of it is inside."""
    taps, columns = (
        tl.arange(0, SHAPE[TAP_LANES])[:, None],
        column + tl.arange(0, SHAPE[COLUMN_LANES])[None, :],
    )
    return columns * SHAPE[TAPS] + taps, (taps < SHAPE[TAPS]) & (columns < SHAPE[COLUMNS])


@jit
def entries(x, column, SHAPE: tl.constexpr):
    """The vector's block of (taps, columns) from a column on; zeros outside."""
    at, inside = position(column, SHAPE)
    return tl.load(x + at, inside, 0.0)


@jit
def inner(chunk, SHAPE: tl.constexpr):
    """Where a chunk of Uᵀ(Ux), (taps, columns), lies in a part."""
    tap = chunk * SHAPE[TAP_LANES] + tl.arange(0, SHAPE[TAP_LANES])
    return tap[:, None] * SHAPE[COLUMN_LANES] + tl.arange(0, SHAPE[COLUMN_LANES])[None, :]


@jit
def take_in(weight, state, numbers, at, inside, ADAM: tl.constexpr):
    """Take gradients into the moments; the update, and the largest gradients, by row.

    What is not finite, or too large to square, leaves its moments as they were, and counts as 1e30.
    """
    g = tl.load(weight[2] + at, inside, 0.0).to(tl.float32)
    m = tl.load(state[0] + at, inside, 0.0)
    size = tl.abs(g)
    good = size < 1.8e19
    m = tl.where(good, m + numbers[2] * (g - m), m)
    tl.store(state[0] + at, m, inside)
    u = m
    if ADAM:
        v = tl.load(state[1] + at, inside, 0.0)
        v = tl.where(good, v + numbers[3] * (g * g - v), v)
        tl.store(state[1] + at, v, inside)
        u = adam_update(m, v, numbers)
    return u, tl.max(tl.max(tl.where(good, size, 1e30), 2), 1)


@jit
def again(state, numbers, at, inside, ADAM: tl.constexpr):
    """The update that `take_in` returned, from the moments that it stored."""
    u = tl.load(state[0] + at, inside, 0.0)
    if ADAM:
        u = adam_update(u, tl.load(state[1] + at, inside, 0.0), numbers)
    return u


@jit
def adam_update(m, v, numbers):
    """Adam's update, with the first step's bias corrections: the norm takes such factors out."""
    return m / numbers[2] / (tl.sqrt(v / numbers[3]) + numbers[4])


@jit
def move(weight, at, inside, u, numbers, MASTER: tl.constexpr):
    """w ← (1 - lr·target·weight_decay)·w - lr·target·u; 1 for each (tap, column) that refused it.

    With a MASTER, the weight is a rounding of w; where it was changed from outside, that counts.
    Entries that would not be finite refuse, and stay as they were. Looked at by columns, since
    these are mostly a thread's own, and nothing has to be brought together in every round.
    """
    p = tl.load(weight[0] + at, inside, 0.0)
    w = p.to(tl.float32)
    if MASTER:
        master = tl.load(weight[1] + at, inside, 0.0)
        w = tl.where(master.to(p.dtype) == p, master, w)
    w = numbers[1] * w - numbers[0] * u
    rounded = w.to(p.dtype)
    fits = tl.abs(rounded.to(tl.float32)) < float("inf")
    if MASTER:
        tl.store(weight[1] + at, w, inside & fits)
    tl.store(weight[0] + at, rounded, inside & fits)
    return tl.max((inside & (fits == 0)).to(tl.int32), 0)


@jit
def inverse(norm):
    """1/norm; 0 where the norm is not finite, or its square 0 or denormal."""
    good = (norm > 1.1e-19) & (norm < 3e38)
    return tl.where(good, 1 / tl.where(good, norm, 1.0), 0.0)


# modnorm: end
