"""Kernel source: reductions on a device, of the arrays of several ranks in their order.

Compiled as `hpckit.ptx` says, used through `hpckit.collectives.folds`. They give the bits that
`hpckit.collectives.reduction` asks for, and that the host's kernels give in the same order.

A type of elements is three functions, of which a kernel is made: how one is loaded, how two are
combined, how the result is stored.
"""

from hpckit.collectives.folds import ELEMENTS, TYPES
from hpckit.native import export
from hpckit.ptx.on_cpu import launch, on_cpu

_NAN = {4: 0x7FC00000, 8: 0x7FF8 << 48}  # the one without payload: its bits
_INFINITY = {4: 0x7F800000, 8: 0x7FF0 << 48}
_POSITIVE = {4: (1 << 31) - 1, 8: (1 << 63) - 1}  # all bits but the sign's


def _float(on, size):
    """NaN is stored as an integer, for the optimiser, to which all NaN are the same."""
    load, put, put_bits = {
        4: (on.load_f4, on.store_f4, on.store_i4),
        8: (on.load_f8, on.store_f8, on.store_i8),
    }[size]
    nan = _NAN[size]

    @on.function
    def store(address, x):
        if x == x:
            put(address, x)
        else:
            put_bits(address, nan)

    return load, store


def _integer(on, kind, size):
    return getattr(on, f"load_{kind}{size}"), getattr(on, f"store_{kind}{size}")


def _ordered(on, size, smallest):
    """Floats as integers in the same order, -0 before +0, where NaN wins: for MIN, or for MAX."""
    get, put = _integer(on, "i", size)
    nan, infinity, positive = _NAN[size], _INFINITY[size], _POSITIVE[size]
    winner = ~nan if smallest else nan

    @on.function
    def load(address):
        bits = get(address)
        return winner if bits & positive > infinity else bits ^ ((bits >> 63) & positive)

    @on.function
    def store(address, x):
        put(address, nan if x == winner else x ^ ((x >> 63) & positive))

    return load, store


def _sum(on, kind, size):
    load, store = _float(on, size) if kind == "f" else _integer(on, kind, size)
    return load, lambda a, b: a + b, store


def _product(on, kind, size):
    load, store = _float(on, size) if kind == "f" else _integer(on, kind, size)
    return load, lambda a, b: a * b, store


def _smaller(on, kind, size):
    load, store = _ordered(on, size, True) if kind == "f" else _integer(on, kind, size)
    return load, lambda a, b: a if a < b else b, store


def _larger(on, kind, size):
    load, store = _ordered(on, size, False) if kind == "f" else _integer(on, kind, size)
    return load, lambda a, b: a if a > b else b, store


def _bitwise(combine):
    def bits(on, kind, size):
        load, store = _integer(on, kind, size)
        return load, combine, store

    return bits


def _logical(combine):
    def truth(on, kind, size):
        get, store = _integer(on, kind, size)

        @on.function
        def load(address):
            return 1 if get(address) else 0

        return load, combine, store

    return truth


def _and(a, b):
    return a & b


def _or(a, b):
    return a | b


def _xor(a, b):
    return a ^ b


_OPERATIONS = {
    "sum": _sum,
    "prod": _product,
    "min": _smaller,
    "max": _larger,
    "land": _logical(_and),
    "lor": _logical(_or),
    "lxor": _logical(_xor),
    "band": _bitwise(_and),
    "bor": _bitwise(_or),
    "bxor": _bitwise(_xor),
}


def _fold_thread(operation, kind, size):
    """Of a lane: two elements of its block, so that several loads are on their way at once.

    Beyond the end the last element is read once more: cheaper than to ask whether there is one.
    """

    def fold_thread(on):
        load, combine, store = operation(on, kind, size)
        combine = on.function(combine)

        @on.function
        def place(i, n):
            return (i if i < n else n - 1) * size

        @on.function
        def write(i, n, into, x):
            if i < n:
                store(into + i * size, x)

        def thread(block, lane, into, sources, ranks, offset, n):
            i = block * ELEMENTS + lane
            j = i + on.THREADS
            at, bt = offset + place(i, n), offset + place(j, n)
            source = on.load_i8(sources)
            a, b = load(source + at), load(source + bt)
            for rank in range(1, ranks):
                source = on.load_i8(sources + 8 * rank)
                a, b = combine(a, load(source + at)), combine(b, load(source + bt))
            write(i, n, into, a)
            write(j, n, into, b)

        return thread

    return fold_thread


def _export(name, thread):
    """A kernel and its thread under these names, as `hpckit.ptx` looks for them."""
    on_this = on_cpu(thread)

    def fold(blocks, into, sources, ranks, offset, n):
        """Reduce n elements, `offset` bytes after the addresses at `sources`, one for each rank."""
        launch(on_this, blocks, into, sources, ranks, offset, n)

    fold.__name__ = name
    globals()[f"{name}_thread"] = thread
    globals()[name] = export("void(i8, i8, i8, i8, i8, i8)")(fold)


for _name, _types in TYPES.items():
    for _type in _types:
        _export(f"{_name}_{_type}", _fold_thread(_OPERATIONS[_name], _type[0], int(_type[1:])))
