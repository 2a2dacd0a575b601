"""Triton kernels for polar factors of stacks of matrices: symmetric and plain products."""

# mypy: disable-error-code="no-untyped-def, no-any-return, valid-type"

from __future__ import annotations

from .device import jit, tl


# modnorm: begin
@jit
def polar_base(x, k, stride, TYPE: tl.constexpr, ALIGN: tl.constexpr):
    """Where matrix k begins: in the stack x, or, given a TYPE, where the table x says."""
    if TYPE is None:
        start = x + k * stride
    else:
        start = tl.multiple_of(tl.load(x + k).to(tl.pointer_type(TYPE)), ALIGN)
    return start


@jit
def polar_range(trace):
    """The power of two r with 2 ≤ r·trace < 4; 0 where the trace is 0, denormal or not finite.

    Multiplying by it rounds nothing.
    """
    exponent = trace.to(tl.int32, bitcast=True) >> 23
    known = (exponent > 0) & (exponent < 255)
    return (tl.where(known, 255 - exponent, 0) << 23).to(tl.float32, bitcast=True)


@jit
def polar_sum(parts, count, LENGTH: tl.constexpr):
    """The sum of `count` numbers, always in the same order."""
    ids = tl.arange(0, LENGTH)
    return tl.sum(tl.load(parts + ids, mask=ids < count, other=0.0), 0)


@jit
def polar_dot(
    x, y, rows, columns, n, m, depth, xr, xc, yr, yc, r,
    SCALED: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of x·y, for x (n, depth) and y (depth, m), or of (r·x)·(r·y) if SCALED."""
    inner = tl.arange(0, BLOCK_K)
    x += rows.to(tl.int64) * xr + inner[None, :] * xc
    y += columns.to(tl.int64) * yc + inner[:, None] * yr
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in range(0, depth, BLOCK_K):
        left = tl.load(x, mask=(rows < n) & (inner[None, :] < depth - start), other=0.0)
        right = tl.load(y, mask=(inner[:, None] < depth - start) & (columns < m), other=0.0)
        if SCALED:
            left, right = left * r, right * r
        total = tl.dot(left.to(DTYPE), right.to(DTYPE), total, input_precision=PRECISION)
        x += BLOCK_K * xc
        y += BLOCK_K * yr
    return total


@jit
def polar_gram_tile(
    tile, x, y, d, out, n, m, xr, xc, yr, yc, r, alpha, beta, diagonal,
    SCALED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile and its mirror image of out = alpha·x·yᵀ + beta·d + diagonal·1, which is symmetric.

    Tiles count along the rows of the lower triangle. Returns what the tile adds to the trace and,
    with its mirror image, to the sum of squares of x·yᵀ.
    """
    i = ((tl.sqrt(8.0 * tile + 1) - 1) / 2).to(tl.int32)  # rounding may have moved it by one
    i = tl.where(i * (i + 1) // 2 > tile, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= tile, i + 1, i)
    j = tile - i * (i + 1) // 2
    rows = (i * BLOCK + tl.arange(0, BLOCK))[:, None]
    columns = (j * BLOCK + tl.arange(0, BLOCK))[None, :]
    total = polar_dot(
        x, y, rows, columns, n, n, m, xr, xc, yc, yr, r,
        SCALED, out.dtype.element_ty, PRECISION, BLOCK, BLOCK, BLOCK_K,
    )  # fmt: skip
    trace = tl.sum(tl.where(rows == columns, total, 0.0))
    squares = tl.sum(total * total) * tl.where(i == j, 1.0, 2.0)
    total *= alpha
    kept = (rows < n) & (columns <= rows)
    entries = rows.to(tl.int64) * n + columns
    if d is not None:
        total += beta * tl.load(d + entries, mask=kept, other=0.0).to(tl.float32)
    total += tl.where(rows == columns, diagonal, 0.0)
    total = total.to(out.dtype.element_ty)
    tl.store(out + entries, total, mask=kept)
    tl.store(out + (columns.to(tl.int64) * n + rows), total, mask=kept)
    return trace, squares


@jit
def polar_gram(
    x, y, d, out, traces, squares,
    n, m, xk, xr, xc, yk, yr, yc, alpha, beta, diagonal,
    TYPE: tl.constexpr, ALIGN: tl.constexpr, FIRST: tl.constexpr, SCALED: tl.constexpr,
    LENGTH: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out = alpha·x·yᵀ + beta·d + diagonal·1, known to be symmetric, for stacks of n×m matrices.

    One program a tile on or below the diagonal writes it and its mirror image. d, out (k, n, n);
    d may be None. In the first product (FIRST) what each tile adds to the trace goes to `traces`;
    in the second (SCALED) the factors are divided by about the trace that these add up to, and what
    each tile adds to the sum of squares goes to `squares`; both (k, tiles).
    """
    side = tl.cdiv(n, BLOCK)
    count = side * (side + 1) // 2
    k = (tl.program_id(0) // count).to(tl.int64)
    tile = tl.program_id(0) % count
    r = 1.0
    if SCALED:
        r = polar_range(polar_sum(traces + k * count, count, LENGTH))
    if d is not None:
        d += k * n * n
    trace, square = polar_gram_tile(
        tile, polar_base(x, k, xk, TYPE, ALIGN), polar_base(y, k, yk, TYPE, ALIGN),
        d, out + k * n * n, n, m, xr, xc, yr, yc, r, alpha, beta, diagonal,
        SCALED, PRECISION, BLOCK, BLOCK_K,
    )  # fmt: skip
    if FIRST:
        tl.store(traces + k * count + tile, trace)
    if SCALED:
        tl.store(squares + k * count + tile, square)


@jit
def polar_start(
    gram, square, traces, squares, scales, n, count, a, b, c,
    GRAM: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """square ← b·g + c·g² for g = x·xᵀ/s², where s⁸ = ‖(x·xᵀ)²‖_F² ≥ σ_max⁸; and scales = 1/s.

    gram holds x·xᵀ, square what polar_gram made of it, traces and squares `count` parts a matrix.
    With GRAM also gram ← g, and a is added on the diagonal. A matrix that is 0 has the scale 0,
    one that is not finite, or too large to square, NaN.
    """
    blocks = tl.cdiv(n * n, BLOCK)
    k = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    trace = polar_sum(traces + k * count, count, LENGTH)
    r = polar_range(trace)
    norm = tl.sqrt(tl.sqrt(polar_sum(squares + k * count, count, LENGTH)))
    q = tl.where(norm > 0, 1 / norm, 0.0)
    if block == 0:
        scale = tl.sqrt(r) * tl.sqrt(q)
        tl.store(scales + k, tl.where(trace * 0 == 0, scale, float("nan")))
    entries = block * BLOCK + tl.arange(0, BLOCK)
    kept = entries < n * n
    gram += k * n * n + entries
    square += k * n * n + entries
    g = tl.load(gram, mask=kept, other=0.0).to(tl.float32) * r * q
    z = b * g + c * q * q * tl.load(square, mask=kept, other=0.0).to(tl.float32)
    if GRAM:
        tl.store(gram, g.to(gram.dtype.element_ty), mask=kept)
        z += tl.where(entries // n == entries % n, a, 0.0)
    tl.store(square, z.to(square.dtype.element_ty), mask=kept)


@jit
def polar_put(
    y, scale, k, rows, columns, kept, out, ok, er, ec, master, mr, mc, hyper, targets, factor,
    TYPE: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Store y in the stack `out`; or, given a TYPE, move the parameters that a table points to.

    p ← (1 - lr·target·decay)·p - lr·target·factor·y, with lr and decay from `hyper`. With masters
    (a table of float32 copies) p is a rounding of its master. Nothing moves if the scale is NaN.
    """
    out = polar_base(out, k, ok, TYPE, ALIGN) + rows.to(tl.int64) * er + columns.to(tl.int64) * ec
    if TYPE is not None:
        kept = tl.where(scale == scale, kept, False)
        step = tl.load(hyper) * tl.load(targets + k)
        decay = 1 - step * tl.load(hyper + 1)
        p = tl.load(out, mask=kept, other=0.0)
        w = p.to(tl.float32)
        if master is not None:
            master = polar_base(master, k, 0, tl.float32, ALIGN)
            master += rows.to(tl.int64) * mr + columns.to(tl.int64) * mc
            copy = tl.load(master, mask=kept, other=0.0)
            w = tl.where(copy.to(p.dtype) == p, copy, w)  # p counts where it was changed outside
        y = decay * w - step * factor * y
        if master is not None:
            tl.store(master, y, mask=kept)
    tl.store(out, y.to(out.dtype.element_ty), mask=kept)


@jit
def polar_multiply(
    q, x, scales, a, n, m, xk, xr, xc,
    out, ok, er, ec, master, mr, mc, hyper, targets, factor,
    X_TYPE: tl.constexpr, X_ALIGN: tl.constexpr, TYPE: tl.constexpr, ALIGN: tl.constexpr,
    SCALED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """q·x + a·x, times the matrix's scale if SCALED, for q (k, n, n) and x (k, n, m).

    One program a tile; polar_put says where it goes.
    """
    across, down = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    k = (tl.program_id(0) // (across * down)).to(tl.int64)
    tile = tl.program_id(0) % (across * down)
    rows = (tile % down * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    columns = (tile // down * BLOCK_M + tl.arange(0, BLOCK_M))[None, :]
    kept = (rows < n) & (columns < m)
    x = polar_base(x, k, xk, X_TYPE, X_ALIGN)
    y = polar_dot(
        q + k * n * n, x, rows, columns, n, m, n, n, 1, xr, xc, 1.0,
        False, q.dtype.element_ty, PRECISION, BLOCK_N, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    x += rows.to(tl.int64) * xr + columns.to(tl.int64) * xc
    y += a * tl.load(x, mask=kept, other=0.0).to(tl.float32)
    scale = tl.load(scales + k)
    if SCALED:
        y *= scale
    polar_put(
        y, scale, k, rows, columns, kept, out, ok, er, ec, master, mr, mc, hyper, targets, factor,
        TYPE, ALIGN,
    )  # fmt: skip


@jit
def polar_small(
    x, coefficients, steps, scratch, scales, n, m, xk, xr, xc,
    out, ok, er, ec, master, mr, mc, hyper, targets, factor,
    X_TYPE: tl.constexpr, X_ALIGN: tl.constexpr, TYPE: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """All steps for a matrix (n, m), n ≤ m, in one program; polar_put says where the result goes.

    coefficients (steps, 3). What it works on, 2·n·(n + m) entries of `scratch`, stays in the cache;
    barriers part the threads that write it from those that read it. Not for AMD's processors, on
    which Triton's barrier does not order global memory.
    """
    k = tl.program_id(0).to(tl.int64)
    x = polar_base(x, k, xk, X_TYPE, X_ALIGN)
    size = n * m
    old = scratch + k * (2 * n * (n + m))
    new = old + size
    gram = new + size
    poly = gram + n * n
    side, across = tl.cdiv(n, BLOCK), tl.cdiv(m, BLOCK)
    count = side * (side + 1) // 2
    down = tl.arange(0, BLOCK)[:, None]
    right = tl.arange(0, BLOCK)[None, :]

    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for tile in range(side * across):
        rows, columns = tile % side * BLOCK + down, tile // side * BLOCK + right
        part = x + rows.to(tl.int64) * xr + columns.to(tl.int64) * xc
        entry = tl.load(part, mask=(rows < n) & (columns < m), other=0.0).to(tl.float32)
        total += entry * entry
    trace = tl.sum(total)
    exponent = (trace.to(tl.int32, bitcast=True) >> 23) - 127
    root = (
        tl.where(exponent > -127, 127 - (exponent >> 1), 0) << 23
    )  # near 1/√trace, as a power of 2
    root = tl.where(trace * 0 == 0, root.to(tl.float32, bitcast=True), float("nan"))
    for tile in range(side * across):
        rows, columns = tile % side * BLOCK + down, tile // side * BLOCK + right
        kept = (rows < n) & (columns < m)
        part = x + rows.to(tl.int64) * xr + columns.to(tl.int64) * xc
        entry = tl.load(part, mask=kept, other=0.0).to(tl.float32) * root
        tl.store(old + rows * m + columns, entry.to(old.dtype.element_ty), mask=kept)
    tl.debug_barrier()
    for tile in range(count):
        polar_gram_tile(
            tile, old, old, None, gram, n, m, m, 1, m, 1, 1.0, 1.0, 0.0, 0.0,
            False, PRECISION, BLOCK, BLOCK_K,
        )  # fmt: skip
    tl.debug_barrier()
    squares = 0.0
    for tile in range(count):
        _, square = polar_gram_tile(
            tile, gram, gram, None, poly, n, n, n, 1, n, 1, 1.0, 1.0, 0.0, 0.0,
            False, PRECISION, BLOCK, BLOCK_K,
        )  # fmt: skip
        squares += square
    norm = tl.sqrt(tl.sqrt(squares))
    scale = tl.where(norm > 0, tl.sqrt(1 / norm), norm)
    tl.store(scales + k, root * scale)
    for step in range(steps):
        s = tl.where(step == 0, scale, 1.0)
        a = tl.load(coefficients + 3 * step) * s
        b = tl.load(coefficients + 3 * step + 1) * (s * s * s)
        c = tl.load(coefficients + 3 * step + 2) * (s * s * s * s * s)
        tl.debug_barrier()
        for tile in range(count):
            polar_gram_tile(
                tile, gram, gram, gram, poly, n, n, n, 1, n, 1, 1.0, c, b, 0.0,
                False, PRECISION, BLOCK, BLOCK_K,
            )  # fmt: skip
        tl.debug_barrier()
        for tile in range(side * across):
            rows, columns = tile % side * BLOCK + down, tile // side * BLOCK + right
            kept = (rows < n) & (columns < m)
            entries = rows * m + columns
            y = polar_dot(
                poly, old, rows, columns, n, m, n, n, 1, m, 1, 1.0,
                False, old.dtype.element_ty, PRECISION, BLOCK, BLOCK, BLOCK_K,
            )  # fmt: skip
            y += a * tl.load(old + entries, mask=kept, other=0.0).to(tl.float32)
            if step + 1 < steps:
                tl.store(new + entries, y.to(old.dtype.element_ty), mask=kept)
            else:
                polar_put(
                    y, scale, k, rows, columns, kept, out, ok, er, ec, master, mr, mc,
                    hyper, targets, factor, TYPE, ALIGN,
                )  # fmt: skip
        old, new = new, old
        if step + 1 < steps:
            tl.debug_barrier()
            for tile in range(count):
                polar_gram_tile(
                    tile, old, old, None, gram, n, m, m, 1, m, 1, 1.0, 1.0, 0.0, 0.0,
                    False, PRECISION, BLOCK, BLOCK_K,
                )  # fmt: skip


# modnorm: end
