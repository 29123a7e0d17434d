"""Kernel source: sums whose bits do not depend on the order of the terms.

Compiled by `hpckit.native`, used through `hpckit.collectives.algorithms.reproducible`. Terms are
cut at multiples of a power of two that is the same for all of them, so that the parts are added
without rounding, in any order (Rump, Ogita & Oishi, SIAM J. Sci. Comput. 31, 2008; Demmel & Nguyen,
ARITH 2013). A double has 1 bit of sign, 11 of exponent, 52 of fraction.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from hpckit.machine.spin_kernels import get, put
from hpckit.native import export

BLOCK = 256  # elements of all ranks that are added at a time: they stay in the first-level cache
CHUNK = 1024  # elements of one array that are added at a time: their integers do not overflow
LARGE = 1900  # exponent from which terms are scaled by 2**-512 while they are added
MINUS_ZERO = -1 << 63  # its bits
MAXIMUM = 2047  # exponent of infinity and NaN

# -- floats, their bits, and memory


@njit
def _bits(x):
    return np.float64(x).view(np.int64)


@njit
def _value(bits):
    return np.int64(bits).view(np.float64)


def _element(stored, computed, widen, narrow):
    """Functions that read and write an element, as it is stored and as it is computed with."""
    kind = {
        types.float64: ir.DoubleType(),
        types.float32: ir.FloatType(),
        types.int64: ir.IntType(64),
    }
    kind[types.uint16] = ir.IntType(16)

    def place(builder, arguments):
        return builder.gep(
            builder.inttoptr(arguments[0], kind[stored].as_pointer()), [arguments[1]]
        )

    @intrinsic
    def read(typing, address, index):
        def generate(context, builder, signature, arguments):
            value = builder.load(place(builder, arguments), align=stored.bitwidth // 8)
            return getattr(builder, widen)(value, kind[computed]) if widen else value

        return computed(types.int64, types.int64), generate

    @intrinsic
    def write(typing, address, index, value):
        def generate(context, builder, signature, arguments):
            value = getattr(builder, narrow)(arguments[2], kind[stored]) if narrow else arguments[2]
            builder.store(value, place(builder, arguments), align=stored.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, computed), generate

    return read, write


_double, _put_double = _element(types.float64, types.float64, None, None)
_single, _put_single = _element(types.float32, types.float64, "fpext", "fptrunc")
_exponent, _put_exponent = _element(types.uint16, types.int64, "zext", "trunc")


@intrinsic
def _scratch(typing):
    """Address of CHUNK doubles on the stack."""

    def generate(context, builder, signature, arguments):
        memory = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(64), CHUNK))
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(), generate


# -- elementwise sums
#
# Element by element: `top` is the largest exponent of all ranks' terms, plus 1; 0 where all are -0.
# Each term is cut at multiples of 2**-53 sigma into `high` and a rest, and that again into `low`
# and what is left out; sigma exceeds the sum of all terms by enough that sums of the parts are
# exact. Singles are added as doubles, and do without `low`.


@njit
def spare_bits(ranks):
    """Bits by which the sum of that many terms, and two more, may exceed the largest."""
    bits = 0
    while (1 << bits) < ranks + 2:
        bits += 1
    return bits


@njit
def _power(exponent):
    return _value(exponent << 52)


@njit
def _largest(top, i):
    exponent = _exponent(top, i)
    return exponent - 1 if exponent else 0


def _sums(name, read, write, size, rest_counts):
    @njit
    def raise_top(top, x, n):
        for i in range(n):
            bits = _bits(read(x, i))
            exponent = 0 if bits == MINUS_ZERO else ((bits >> 52) & MAXIMUM) + 1
            before = _exponent(top, i)
            _put_exponent(top, i, exponent if exponent > before else before)

    @njit
    def add(high, low, top, x, spare, n):
        beneath = _power(1023 + spare - 53)
        for i in range(n):
            exponent = _largest(top, i)
            down = 512 if exponent > LARGE else 0
            sigma = _power(exponent - down + 1 + spare)
            term = read(x, i) * _power(1023 - down)
            cut = (sigma + term) - sigma
            _put_double(high, i, _double(high, i) + cut)
            if rest_counts:
                sigma *= beneath
                _put_double(low, i, _double(low, i) + ((sigma + (term - cut)) - sigma))

    @njit
    def join(result, high, low, top, n):
        for i in range(n):
            exponent = _largest(top, i)
            total = _double(high, i)
            if rest_counts:
                rest = _double(low, i)
                total += 0.0 if exponent == MAXIMUM else rest  # of infinity no rest is left
            total *= _power(1023 + (512 if exponent > LARGE else 0))
            total = total if _exponent(top, i) else _value(MINUS_ZERO)
            write(result, i, total if total == total else _value(0x7FF8 << 48))

    @njit
    def clear(high, low, top, n):
        for i in range(n):
            _put_double(high, i, 0.0)
            if rest_counts:
                _put_double(low, i, 0.0)
            _put_exponent(top, i, 0)

    def reduce(target, pointers, ranks, offset, n):
        """`n` bytes of the sum of all ranks' arrays, `offset` bytes after the pointers."""
        high = _scratch()
        low, top, spare = high + 8 * BLOCK, high + 16 * BLOCK, spare_bits(ranks)
        done = 0
        while done < n:
            part = n - done if n - done < BLOCK * size else BLOCK * size
            count = part // size
            clear(high, low, top, count)
            for rank in range(ranks):
                raise_top(top, get(pointers, rank) + offset + done, count)
            for rank in range(ranks):
                add(high, low, top, get(pointers, rank) + offset + done, spare, count)
            join(target + done, high, low, top, count)
            done += part

    def exponents(top, x, n):
        """Those of each element, as uint16."""
        for i in range(n):
            _put_exponent(top, i, 0)
        raise_top(top, x, n)

    def split(high, low, top, x, ranks, n):
        """The parts of each element, given the largest exponent of all ranks'."""
        for i in range(n):
            _put_double(high, i, 0.0)
            if rest_counts:
                _put_double(low, i, 0.0)
        add(high, low, top, x, spare_bits(ranks), n)

    for function, arguments in ((reduce, 5), (exponents, 3), (split, 6), (join, 5)):
        source = getattr(function, "py_func", function)
        source.__name__ = f"{source.__name__}_{name}"
        export(f"void({', '.join(['i8'] * arguments)})")(source)


_sums("f8", _double, _put_double, 8, True)
_sums("f4", _single, _put_single, 4, False)


# -- the exact sum of many elements
#
# `words` hold the sum as an integer, in units of 2**-1074: word i counts 2**(32 i), may exceed 32
# bits, and may be negative. A block of elements is cut by a sigma of 1.5 times a power of two:
# adding it leaves the leading 51 bits of each element as an integer in the last bits of the sum.
# What is left over is cut again, until nothing is.

WORDS = 68
POSITIVE, NEGATIVE, NOT = 68, 69, 70  # infinities and NaN: words that count them
OFTEN = 1 << 14  # chunks after which the words are brought back to 32 bits


@njit
def _count(words, at, by):
    put(words, at, get(words, at) + by)


@njit
def _add_integer(words, integer, shift):
    """Add `integer * 2**shift` units; |integer| < 2**62."""
    sign = -1 if integer < 0 else 1
    magnitude = integer * sign
    word, bit, mask = shift >> 5, shift & 31, (1 << 32) - 1
    lower, upper = (magnitude & mask) << bit, (magnitude >> 32) << bit
    _count(words, word, sign * (lower & mask))
    _count(words, word + 1, sign * ((lower >> 32) + (upper & mask)))
    _count(words, word + 2, sign * (upper >> 32))


@njit
def _add_one(words, x):
    """Add one element, whatever it is."""
    bits = _bits(x)
    exponent, fraction = (bits >> 52) & MAXIMUM, bits & ((1 << 52) - 1)
    if exponent == MAXIMUM:
        _count(words, NOT if fraction else NEGATIVE if bits < 0 else POSITIVE, 1)
    elif exponent == 0:
        _add_integer(words, -fraction if bits < 0 else fraction, 0)
    else:
        fraction |= 1 << 52
        _add_integer(words, -fraction if bits < 0 else fraction, exponent - 1)


@njit
def _carry(words):
    for word in range(WORDS - 1):
        value = get(words, word)
        put(words, word, value & ((1 << 32) - 1))
        _count(words, word + 1, value >> 32)


@njit
def _cut(chunk, sigma, n):
    """Leave the rests. Returns what is cut off, in last bits of sigma, and the largest rest."""
    total, largest = 0, 0
    for i in range(n):
        x = _double(chunk, i)
        shifted = sigma + x
        total += _bits(shifted) - _bits(sigma)
        rest = x - (shifted - sigma)
        _put_double(chunk, i, rest)
        magnitude = _bits(rest) & ((1 << 63) - 1)
        largest = magnitude if magnitude > largest else largest
    return total, largest


def _exact(name, read):
    @njit
    def copy(chunk, x, start, n):
        """The largest magnitude's bits."""
        largest = 0
        for i in range(n):
            value = read(x, start + i)
            _put_double(chunk, i, value)
            magnitude = _bits(value) & ((1 << 63) - 1)
            largest = magnitude if magnitude > largest else largest
        return largest

    def accumulate(words, x, n):
        """Add `n` elements at `x` to the words."""
        chunk, start, chunks = _scratch(), 0, 0
        while start < n:
            count = n - start if n - start < CHUNK else CHUNK
            largest = copy(chunk, x, start, count)
            while 0 < largest >> 52 <= LARGE:
                exponent = (largest >> 52) + 2
                total, largest = _cut(chunk, 1.5 * _power(exponent), count)
                _add_integer(words, total, exponent - 1)
            if largest:  # too large or too small to be cut
                for i in range(count):
                    _add_one(words, _double(chunk, i))
            start += count
            chunks += 1
            if chunks % OFTEN == 0:
                _carry(words)
        _carry(words)

    accumulate.__name__ = f"accumulate_{name}"
    export("void(i8, i8, i8)")(accumulate)


_exact("f8", _double)
_exact("f4", _single)
