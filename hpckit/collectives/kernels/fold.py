"""Kernel source: what two numbers give, by the rule of a reduction, and loops over arrays.

Part of the kernel modules that import it. An operation combines registers, and at the end brings
the result into the form that the rule asks for: NaN without a payload. Operands may change places,
bit for bit.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes of a cache line
REGISTERS = 2 * LINE  # bytes of each array that are reduced at once
AHEAD = 2048  # bytes by which the prefetch runs ahead

# -- operations: (combine, finish) of registers; numbers are i, u, f, or c of alternating parts


def _integers(x):
    bits = {ir.HalfType(): 16, ir.FloatType(): 32, ir.DoubleType(): 64}[x.type.element]
    return ir.VectorType(ir.IntType(bits), x.type.count)


def _without_payload(builder, kind, x):
    """NaN becomes the quiet, positive one without payload, as integers, for the optimiser."""
    if kind not in "fc":
        return x
    word = _integers(x)
    infinity, nan = {16: (0x7C00, 0x7E00), 32: (0, 0x7FC00000), 64: (0, 0x7FF8 << 48)}[
        word.element.width
    ]
    bits = builder.bitcast(x, word)
    if infinity:  # there are few instructions for half precision
        rest = builder.and_(bits, ir.Constant(word, [0x7FFF] * word.count))
        wrong = builder.icmp_unsigned(">", rest, ir.Constant(word, [infinity] * word.count))
    else:
        wrong = builder.fcmp_unordered("uno", x, x)
    return builder.bitcast(
        builder.select(wrong, ir.Constant(word, [nan] * word.count), bits), x.type
    )


def _as_it_is(builder, kind, x):
    return x


def _add(builder, kind, a, b):
    return builder.add(a, b) if kind in "iu" else builder.fadd(a, b)


def _multiply(builder, kind, a, b):
    if kind != "c":
        return builder.mul(a, b) if kind in "iu" else builder.fmul(a, b)

    def picked(x, lanes):
        return builder.shuffle_vector(
            x, x, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        )

    def poison(x):
        """0, or NaN in both parts where one of them is not finite."""
        zero = builder.fsub(x, x)
        return builder.fadd(zero, picked(zero, [i ^ 1 for i in n]))

    n = range(a.type.count)  # real and imaginary parts alternate
    sign = ir.Constant(a.type, [1.0 if i % 2 else -1.0 for i in n])
    real, imaginary = picked(a, [i & ~1 for i in n]), picked(a, [i | 1 for i in n])
    crossed = builder.fmul(sign, picked(b, [i ^ 1 for i in n]))
    product = builder.fadd(builder.fmul(real, b), builder.fmul(imaginary, crossed))
    return builder.fadd(product, builder.fadd(poison(a), poison(b)))


def _extreme(sign):
    def extreme(builder, kind, a, b):
        if kind != "f":
            compare = builder.icmp_signed if kind == "i" else builder.icmp_unsigned
            return builder.select(compare(sign, a, b), a, b)
        # Either way round gives the same number, except for two zeros and where one is NaN: NaN or
        # anything is NaN.
        word = _integers(a)
        one, other = (
            builder.select(builder.fcmp_ordered(sign, x, y), x, y) for x, y in ((a, b), (b, a))
        )
        one, other = (builder.bitcast(x, word) for x in (one, other))
        number = builder.or_(one, other)
        if sign == ">":  # only two negative numbers, of which 0 may be one, have a negative maximum
            rest = ir.Constant(word, [(1 << (word.element.width - 1)) - 1] * word.count)
            number = builder.and_(number, builder.or_(builder.and_(one, other), rest))
        return builder.bitcast(number, a.type)

    return extreme


def _bitwise(word):
    return lambda builder, kind, a, b: getattr(builder, word)(a, b)


def _truth(builder, kind, x):
    return builder.zext(builder.icmp_unsigned("!=", x, ir.Constant(x.type, None)), x.type)


def _logical(word):
    return lambda builder, kind, a, b: getattr(builder, word)(
        _truth(builder, kind, a), _truth(builder, kind, b)
    )


OPERATIONS = {
    "sum": (_add, _without_payload),
    "prod": (_multiply, _without_payload),
    "min": (_extreme("<"), _without_payload),
    "max": (_extreme(">"), _without_payload),
    "land": (_logical("and_"), _as_it_is),
    "lor": (_logical("or_"), _as_it_is),
    "lxor": (_logical("xor"), _as_it_is),
    "band": (_bitwise("and_"), _as_it_is),
    "bor": (_bitwise("or_"), _as_it_is),
    "bxor": (_bitwise("xor"), _as_it_is),
}

# -- loops over arrays
#
# Written in LLVM's words, since plain Numba takes longer: the same sum of doubles as a loop over
# array by array, in blocks that stay in the cache, took 2.1 times as long for two arrays of 32 KiB,
# 6 times for eight (each partial sum goes to memory and back), and 1.8 for eight of 2 MiB (Numba
# 0.66, AVX2).


def _prefetch(builder, address):
    """Fetch what is needed soon: the hardware stops at the end of a page, and with many arrays."""
    word, byte = ir.IntType(32), ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    for line in range(0, REGISTERS, LINE):
        place = builder.inttoptr(builder.add(address, ir.IntType(64)(AHEAD + line)), byte)
        builder.call(function, [place, word(0), word(3), word(1)])  # to read, into all caches, data


def fold(name, kind, size, nbytes):
    """Combine `nbytes`, registers or one element, of all arrays, all loaded before the store."""
    combine, finish = OPERATIONS[name]
    part = size // 2 if kind == "c" else size
    element = (
        ir.IntType(8 * part)
        if kind in "iu"
        else {2: ir.HalfType, 4: ir.FloatType, 8: ir.DoubleType}[part]()
    )
    stored = ir.VectorType(element, nbytes // part)
    half = kind == "f" and part == 2  # for storage only
    computed = ir.VectorType(ir.FloatType(), nbytes // part) if half else stored

    @intrinsic
    def folded(typing, target, pointers, ranks, offset):
        def generate(context, builder, signature, arguments):
            target, pointers, ranks, offset = arguments
            pointers = builder.inttoptr(pointers, ir.IntType(64).as_pointer())

            def contribution(rank):
                address = builder.add(builder.load(builder.gep(pointers, [rank])), offset)
                value = builder.load(builder.inttoptr(address, stored.as_pointer()), align=1)
                if nbytes == REGISTERS:
                    _prefetch(builder, address)
                return builder.fpext(value, computed) if half else value

            total = cgutils.alloca_once_value(builder, contribution(ir.IntType(64)(0)))
            with cgutils.for_range(builder, ranks, start=ir.IntType(64)(1)) as loop:
                builder.store(
                    combine(builder, kind, builder.load(total), contribution(loop.index)), total
                )
            value = builder.load(total)
            value = finish(builder, kind, builder.fptrunc(value, stored) if half else value)
            builder.store(value, builder.inttoptr(target, stored.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64), generate

    return folded
