"""Kernel source: numbers in fewer bytes, what is lost by it, and back.

Compiled by `hpckit.native`, used through `hpckit.lossy.{quantised,topk,powersgd}`. Each
kernel exists for float32 (`_f4`) and float64 (`_f8`). Compressing adds what the last call lost,
`error`, to the source, and leaves there what this one loses; where that is not finite, because the
source was not or because its code overflowed, it leaves 0, so that the next call is clean again.
"""

import numpy as np
from llvmlite import ir
from numba import float32, float64, int8, int64, njit, types, uint16, uint32
from numba.core import cgutils
from numba.extending import intrinsic

from hpckit.native import export

BLOCK = 256  # numbers that share a scale
LANES = 64  # sums that a dot product is made of
DIGIT = 11  # bits by which the k-th largest magnitude is narrowed down at a time

# -- floats and their bits


@intrinsic
def _value(typing, bits):
    """The float of these bits, for both types; `x.view` wants its dtype said."""
    kind = types.float32 if bits.bitwidth == 32 else types.float64
    return kind(bits), lambda context, builder, _, args: builder.bitcast(
        args[0], context.get_value_type(kind)
    )


@intrinsic
def _magnitude(typing, x):
    """The bits without the sign: integers in the order of the magnitudes, NaN above infinity."""
    word = types.int32 if x == types.float32 else types.int64

    def generate(context, builder, signature, arguments):
        kind = ir.IntType(word.bitwidth)
        return builder.and_(
            builder.bitcast(arguments[0], kind), kind((1 << (word.bitwidth - 1)) - 1)
        )

    return word(x), generate


@intrinsic
def _to_fp16(typing, x):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def _from_fp16(typing, code):
    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@njit
def _to_bf16(x):
    """The upper half of the bits, rounded to even; NaN must not round to infinity."""
    bits = np.float32(x).view(np.uint32)
    even = uint32((bits >> 16) & 1)
    rounded = uint32(uint32(bits + uint32(0x7FFF)) + even)
    return uint16(rounded >> 16) if x == x else uint16(0x7FC0)


@njit
def _from_bf16(code):
    return _value(uint32(uint32(code) << 16))


# -- fp16, bf16 and int8


def _half_precision(real, largest, to_code, from_code):
    def pack(error, source, codes, n):
        for i in range(n):
            y = source[i] + error[i]
            code = to_code(float32(y))
            codes[i] = code
            loss = y - real(from_code(code))
            error[i] = loss if -largest <= loss <= largest else real(0)

    def expand(target, codes, n):
        for i in range(n):
            target[i] = from_code(codes[i])

    def add(target, codes, n):
        for i in range(n):
            target[i] += real(from_code(codes[i]))

    return pack, expand, add


@njit
def _end(start, n):
    """Where the block of n numbers that begins at `start` ends."""
    return start + BLOCK if start + BLOCK < n else n


def _int8(real, infinity, smallest):
    """Codes are multiples of a scale, the block's largest magnitude / 127; NaN if not finite."""

    @njit
    def largest(error, source, start, end):
        top = _magnitude(real(0))
        for i in range(start, end):
            y = source[i] + error[i]
            error[i] = y
            bits = _magnitude(y)
            top = bits if bits > top else top
        return top

    @njit
    def encode(error, codes, scale, start, end):
        inverse = real(1) / scale
        for i in range(start, end):
            y = error[i]
            code = np.rint(y * inverse)  # halves to even
            codes[i] = int8(code)
            error[i] = y - code * scale

    @njit
    def forget(error, codes, start, end):
        for i in range(start, end):
            codes[i] = 0
            error[i] = 0

    def pack(error, source, scales, codes, n):
        for block in range((n + BLOCK - 1) // BLOCK):
            start, end = block * BLOCK, _end(block * BLOCK, n)
            top = largest(error, source, start, end)
            if top >= infinity:
                scales[block] = np.nan
                forget(error, codes, start, end)
                continue
            scale = _value(top) / real(127)
            scale = scale if scale > smallest else smallest  # whose inverse is finite
            scales[block] = scale
            encode(error, codes, scale, start, end)

    def expand(target, scales, codes, n):
        for block in range((n + BLOCK - 1) // BLOCK):
            start, scale = block * BLOCK, scales[block]
            for i in range(start, _end(start, n)):
                target[i] = real(codes[i]) * scale

    def add(target, scales, codes, n):
        for block in range((n + BLOCK - 1) // BLOCK):
            start, scale = block * BLOCK, scales[block]
            for i in range(start, _end(start, n)):
                target[i] += real(codes[i]) * scale

    return pack, expand, add


# -- top-k


def _top_k(width):
    def select(error, source, indices, values, counts, n, k):
        """The k largest magnitudes, NaN above all, the first among equals: where, and what."""
        for i in range(n):
            error[i] += source[i]
        threshold, rest, shift = 0, k, width
        while shift > 0 and k > 0:
            digit = DIGIT if shift > DIGIT else shift
            shift -= digit
            for i in range(1 << digit):
                counts[i] = 0
            highest = (1 << digit) - 1
            for i in range(n):
                bits = int64(_magnitude(error[i])) >> shift
                if bits >> digit == threshold:
                    counts[bits & highest] += 1
            while counts[highest] < rest:
                rest -= counts[highest]
                highest -= 1
            threshold = (threshold << digit) | highest
        at = 0
        for i in range(n):
            bits = _magnitude(error[i])
            if bits >= threshold and at < k:
                if bits == threshold:
                    if rest == 0:
                        continue
                    rest -= 1
                indices[at] = i
                values[at] = error[i]
                error[i] = 0
                at += 1

    def scatter(target, indices, values, k):
        for i in range(k):
            target[indices[i]] += values[i]

    return select, scatter


# -- PowerSGD


# Not for speed alone: plain Numba may add in another order, and so give other bits, where it may
# vectorise at all (`fastmath`), and one that depends on the CPU. Here the order is written down.


@intrinsic
def _dot_in_lanes(typing, x, a, y, b, n):
    """The sum of x[a + i] y[b + i] for i < n, a multiple of `LANES`, added in pairs at last."""

    def generate(context, builder, signature, arguments):
        x, a, y, b, n = arguments
        kind = ir.VectorType(context.get_value_type(signature.return_type), LANES)
        total = cgutils.alloca_once_value(builder, ir.Constant(kind, None))
        word = ir.IntType(64)
        with cgutils.for_range_slice(builder, word(0), n, word(LANES), word) as (i, _):
            places = (
                builder.gep(base, [builder.add(start, i)]) for base, start in ((x, a), (y, b))
            )
            factors = (
                builder.load(builder.bitcast(place, kind.as_pointer()), align=4) for place in places
            )
            builder.store(builder.fadd(builder.load(total), builder.fmul(*factors)), total)
        lanes, count = builder.load(total), LANES
        while count > 1:
            count //= 2
            halves = (
                ir.Constant(ir.VectorType(ir.IntType(32), count), [*range(at, at + count)])
                for at in (0, count)
            )
            lanes = builder.fadd(*(builder.shuffle_vector(lanes, lanes, half) for half in halves))
        return builder.extract_element(lanes, ir.IntType(32)(0))

    return x.dtype(x, a, y, b, n), generate


def _low_rank(real, infinity, dependent):
    @njit
    def largest(rows, start, n):
        top = _magnitude(real(0))
        for i in range(start, start + n):
            bits = _magnitude(rows[i])
            top = bits if bits > top else top
        return top

    @njit
    def scaled(rows, start, n, by):
        for i in range(start, start + n):
            rows[i] /= by

    @njit
    def dot(x, a, y, b, n):
        wide = n - n % LANES
        total = _dot_in_lanes(x, a, y, b, wide)
        for i in range(wide, n):
            total += x[a + i] * y[b + i]
        return total

    @njit
    def without(rows, a, b, n):
        """Row a without its part along row b."""
        part = dot(rows, a, rows, b, n)
        for i in range(n):
            rows[a + i] -= part * rows[b + i]

    def project(left, error, source, basis, m, n, rank):
        """error += source, left = basis error'; shapes (m, n), (rank, m), (rank, n)."""
        for i in range(m):
            for j in range(n):
                error[i * n + j] += source[i * n + j]
            for k in range(rank):
                left[k * m + i] = dot(basis, k * n, error, i * n, n)

    def project_back(own, left, error, m, n, rank):
        """own = left error."""
        for i in range(rank * n):
            own[i] = 0
        for i in range(m):
            for k in range(rank):
                factor = left[k * m + i]
                for j in range(n):
                    own[k * n + j] += factor * error[i * n + j]

    def orthonormalise(rows, count, n):
        """Gram-Schmidt, twice; dependent rows become zero, what is not finite NaN."""
        for row in range(count):
            start = row * n
            top = _value(largest(rows, start, n))
            if top == 0:
                continue
            scaled(rows, start, n, top)  # its square neither overflows nor vanishes
            before = dot(rows, start, rows, start, n)
            for _ in range(2):
                for other in range(row):
                    without(rows, start, other * n, n)
            norm = dot(rows, start, rows, start, n)
            if norm <= dependent * before:
                for i in range(start, start + n):
                    rows[i] = 0
            else:
                scaled(rows, start, n, real(norm**0.5))

    def expand(target, error, left, total, own, m, n, rank):
        """target = left' total and error -= left' own."""
        for i in range(m):
            for j in range(n):
                target[i * n + j] = 0
            for k in range(rank):
                factor = left[k * m + i]
                for j in range(n):
                    target[i * n + j] += factor * total[k * n + j]
                    error[i * n + j] -= factor * own[k * n + j]

    def restart(rows, fresh, count, n):
        """Rows over their largest magnitude; afresh if 0. Not finite: all afresh, returns 1."""
        wrong = 0
        for row in range(count):
            wrong |= largest(rows, row * n, n) >= infinity
        for row in range(count):
            start, top = row * n, _value(largest(rows, row * n, n))
            if wrong or top == 0:
                for i in range(start, start + n):
                    rows[i] = fresh[i]
            else:
                scaled(rows, start, n, top)
        return wrong

    return project, orthonormalise, project_back, expand, restart


# -- what is not finite


def _forgetting(real, infinity):
    def settle(target, error, again, n, n_again):
        """Forget what is lost where a sum, or something lost, is not finite; whether so."""
        top = _magnitude(real(0))
        for i in range(n):
            top = max(top, max(_magnitude(target[i]), _magnitude(error[i])))
        if top < infinity:
            return 0
        for i in range(n):
            error[i] = 0
        for i in range(n_again):
            again[i] = 0
        return 1

    return [settle]


# -- for both types


def _publish(kind, names, signatures, functions):
    for name, signature, function in zip(names.split(), signatures, functions, strict=True):
        function.__name__ = f"{name}_{kind}"
        export(signature.replace("T", kind))(function)


def _all(kind, real, width, dependent):
    """Kernels for a type of `width` bits and a sign; `dependent`: the square of rows' sine."""
    numbers = np.finfo(kind)
    infinity = int(np.array(np.inf, kind).view(f"i{numbers.bits // 8}"))
    halves = ["void(T*, T*, u2*, i8)", "void(T*, u2*, i8)", "void(T*, u2*, i8)"]
    for name, codes in ("fp16", (_to_fp16, _from_fp16)), ("bf16", (_to_bf16, _from_bf16)):
        functions = _half_precision(real, float(numbers.max), *codes)
        _publish(kind, f"pack_{name} expand_{name} add_{name}", halves, functions)
    blocks = ["void(T*, T*, T*, i1*, i8)", "void(T*, T*, i1*, i8)", "void(T*, T*, i1*, i8)"]
    functions = _int8(real, infinity, numbers.smallest_normal)
    _publish(kind, "pack_int8 expand_int8 add_int8", blocks, functions)
    sparse = ["void(T*, T*, i4*, T*, i8*, i8, i8)", "void(T*, i4*, T*, i8)"]
    _publish(kind, "select scatter", sparse, _top_k(width))
    _publish(kind, "settle", ["i8(T*, T*, T*, i8, i8)"], _forgetting(real, infinity))
    matrices = [
        "void(T*, T*, T*, T*, i8, i8, i8)",
        "void(T*, i8, i8)",
        "void(T*, T*, T*, i8, i8, i8)",
        "void(T*, T*, T*, T*, T*, i8, i8, i8)",
        "i8(T*, T*, i8, i8)",
    ]
    names = "project orthonormalise project_back expand_low_rank restart"
    _publish(kind, names, matrices, _low_rank(real, infinity, dependent))


_all("f4", float32, 31, 1e-10)
_all("f8", float64, 63, 1e-24)
