"""Kernel source: sweeps on a device, over all boxes of a table in one launch.

Compiled as `hpckit.ptx` says, used through `hpckit.pde.on_device`. Cells are computed by the very
expressions of `hpckit.pde.kernels`, in the same order, so that they have the same bits.

A line of the table is 64-bit integers: the number of the first thread that has something to do in
the box, its extents, and what the kernel needs besides: the addresses of the box's first cell in
all arrays, and their strides in elements. A thread goes along the middle dimension through `CELLS`
cells, so that finding out where it is costs little of each; threads next to each other are next to
each other in the last dimension, where arrays are contiguous.
"""

from hpckit.native import export
from hpckit.pde.device_tables import CELLS, EXTENTS
from hpckit.ptx.on_cpu import launch, on_cpu


def _reader(on):
    """The function `entry(line, n)` of a table: number n of a line at an address."""

    @on.function
    def entry(line, n):
        return on.load_i8(line + 8 * n)

    return entry


def _finder(on):
    """The function that tells a thread where in the table, and where in its box it works."""
    entry = _reader(on)

    @on.function
    def find(table, lines, width, block, lane):
        """The line; its cells: i in the first dimension, j from `first` to `last`, k in the last.

        `last` is `first` where there is nothing left to do.
        """
        number = block * on.THREADS + lane
        line = table
        for _ in range(lines - 1):
            following = line + 8 * width
            if number < entry(following, 0):
                break
            line = following
        number -= entry(line, 0)
        n1, n2 = entry(line, 2), entry(line, 3)
        pieces = (n1 + CELLS - 1) // CELLS
        rest = number // n2
        i = rest // pieces
        first = (rest - i * pieces) * CELLS
        if i >= entry(line, 1):
            last = first
        elif first + CELLS < n1:
            last = first + CELLS
        else:
            last = n1
        return line, i, first, last, number - rest * n2

    return find


def _diffuse(on, load, store, size):
    """`diffuse`: new, old; s0, s1."""
    entry, find = _reader(on), _finder(on)

    def thread(block, lane, table, lines, c0, c1, c2, source):
        line, i, first, last, k = find(table, lines, EXTENTS + 4, block, lane)
        s0, s1 = size * entry(line, EXTENTS + 2), size * entry(line, EXTENTS + 3)
        column = i * s0 + size * k
        new, old = entry(line, EXTENTS) + column, entry(line, EXTENTS + 1) + column
        for j in range(first, last):
            at = old + j * s1
            u = load(at)
            after = (
                u
                + c0 * (load(at - s0) - (u + u) + load(at + s0))
                + c1 * (load(at - s1) - (u + u) + load(at + s1))
                + c2 * (load(at - size) - (u + u) + load(at + size))
                + source
            )
            store(new + j * s1, after)

    return thread


def _push(on, load, store, size):
    """`push`: flux, weight, height, metric; s_flux, s_height, step."""
    entry, find = _reader(on), _finder(on)

    def thread(block, lane, table, lines, dt):
        line, _, first, last, k = find(table, lines, EXTENTS + 7, block, lane)
        s_flux, s_height = size * entry(line, EXTENTS + 4), size * entry(line, EXTENTS + 5)
        step = size * entry(line, EXTENTS + 6)
        flux, weight = entry(line, EXTENTS) + size * k, entry(line, EXTENTS + 1) + size * k
        height, metric = entry(line, EXTENTS + 2) + size * k, entry(line, EXTENTS + 3)
        for j in range(first, last):
            face, cell = j * s_flux, height + j * s_height
            scale = dt * load(metric + size * j)
            rise = load(cell) - load(cell - step)
            store(flux + face, load(flux + face) - scale * load(weight + face) * rise)

    return thread


def _fill(on, load, store, size):
    """`fill`: height, hu, hv, peak, arrival, per_x, per_y, shrink; s_height, s_hu, s_hv."""
    entry, find = _reader(on), _finder(on)

    def thread(block, lane, table, lines, dt, now, threshold):
        line, _, first, last, k = find(table, lines, EXTENTS + 11, block, lane)
        s_height, s_hu = size * entry(line, EXTENTS + 8), size * entry(line, EXTENTS + 9)
        s_hv = size * entry(line, EXTENTS + 10)
        height, peak = entry(line, EXTENTS) + size * k, entry(line, EXTENTS + 3) + size * k
        hu, hv = entry(line, EXTENTS + 1) + size * k, entry(line, EXTENTS + 2) + size * k
        arrival = entry(line, EXTENTS + 4) + size * k
        per_x, per_y = entry(line, EXTENTS + 5), entry(line, EXTENTS + 6)
        shrink = entry(line, EXTENTS + 7)
        for j in range(first, last):
            row, cell = size * j, j * s_height
            x, y = dt * load(per_x + row), dt * load(per_y + row)
            south, north = load(shrink + row), load(shrink + row + size)
            u, v = hu + j * s_hu, hv + j * s_hv
            out = (load(u + size) - load(u)) * x + (north * load(v + s_hv) - south * load(v)) * y
            level = load(height + cell) - out
            store(height + cell, level)
            highest = load(peak + cell)
            store(peak + cell, level if level > highest else highest)
            before = load(arrival + cell)
            arrives = (level > threshold or -level > threshold) and now < before
            store(arrival + cell, now if arrives else before)

    return thread


def _multiply(on, load, store, size):
    """product = factor times other, cell by cell: product, factor, other; their strides."""
    entry, find = _reader(on), _finder(on)

    def thread(block, lane, table, lines):
        line, _, first, last, k = find(table, lines, EXTENTS + 6, block, lane)
        product, s_product = entry(line, EXTENTS) + size * k, size * entry(line, EXTENTS + 3)
        factor, s_factor = entry(line, EXTENTS + 1) + size * k, size * entry(line, EXTENTS + 4)
        other, s_other = entry(line, EXTENTS + 2) + size * k, size * entry(line, EXTENTS + 5)
        for j in range(first, last):
            store(product + j * s_product, load(factor + j * s_factor) * load(other + j * s_other))

    return thread


def _wall(on, load, store, size):
    """ghost = twice - cell, or ghost = cell: ghost, cell; s0, s1; whether insulated, twice.

    `twice` the value on the wall is a number of the arrays' type, in the bytes of the integer.
    """
    entry, find = _reader(on), _finder(on)

    def thread(block, lane, table, lines):
        line, i, first, last, k = find(table, lines, EXTENTS + 6, block, lane)
        s0, s1 = size * entry(line, EXTENTS + 2), size * entry(line, EXTENTS + 3)
        column = i * s0 + size * k
        ghost, cell = entry(line, EXTENTS) + column, entry(line, EXTENTS + 1) + column
        insulated, twice = entry(line, EXTENTS + 4) != 0, load(line + 8 * (EXTENTS + 5))
        for j in range(first, last):
            beside = load(cell + j * s1)
            store(ghost + j * s1, beside if insulated else twice - beside)

    return thread


def _seek_nan(on, load, _, size):
    """Sets an integer to 1 where a cell is NaN: array; s0, s1; the integer's address."""
    entry, find = _reader(on), _finder(on)

    def thread(block, lane, table, lines):
        line, i, first, last, k = find(table, lines, EXTENTS + 4, block, lane)
        s0, s1 = size * entry(line, EXTENTS + 1), size * entry(line, EXTENTS + 2)
        column = entry(line, EXTENTS) + i * s0 + size * k
        for j in range(first, last):
            value = load(column + j * s1)
            if value != value:
                on.store_i8(entry(line, EXTENTS + 3), 1)

    return thread


def _both(factory):
    """The factories of a kernel for float64 and for float32."""

    def of_f8(on):
        return factory(on, on.load_f8, on.store_f8, 8)

    def of_f4(on):
        return factory(on, on.load_f4, on.store_f4, 4)

    return of_f8, of_f4


diffuse_f8_thread, diffuse_f4_thread = _both(_diffuse)
push_f8_thread, push_f4_thread = _both(_push)
fill_f8_thread, fill_f4_thread = _both(_fill)
multiply_f8_thread, multiply_f4_thread = _both(_multiply)
wall_f8_thread, wall_f4_thread = _both(_wall)
seek_nan_f8_thread, seek_nan_f4_thread = _both(_seek_nan)
_diffuse_f8 = on_cpu(diffuse_f8_thread)
_diffuse_f4 = on_cpu(diffuse_f4_thread)
_push_f8 = on_cpu(push_f8_thread)
_push_f4 = on_cpu(push_f4_thread)
_fill_f8 = on_cpu(fill_f8_thread)
_fill_f4 = on_cpu(fill_f4_thread)
_multiply_f8 = on_cpu(multiply_f8_thread)
_multiply_f4 = on_cpu(multiply_f4_thread)
_wall_f8 = on_cpu(wall_f8_thread)
_wall_f4 = on_cpu(wall_f4_thread)
_seek_nan_f8 = on_cpu(seek_nan_f8_thread)
_seek_nan_f4 = on_cpu(seek_nan_f4_thread)


@export("void(i8, i8, i8, f8, f8, f8, f8)")
def diffuse_f8(blocks, table, lines, c0, c1, c2, source):
    launch(_diffuse_f8, blocks, table, lines, c0, c1, c2, source)


@export("void(i8, i8, i8, f4, f4, f4, f4)")
def diffuse_f4(blocks, table, lines, c0, c1, c2, source):
    launch(_diffuse_f4, blocks, table, lines, c0, c1, c2, source)


@export("void(i8, i8, i8, f8)")
def push_f8(blocks, table, lines, dt):
    launch(_push_f8, blocks, table, lines, dt)


@export("void(i8, i8, i8, f4)")
def push_f4(blocks, table, lines, dt):
    launch(_push_f4, blocks, table, lines, dt)


@export("void(i8, i8, i8, f8, f8, f8)")
def fill_f8(blocks, table, lines, dt, now, threshold):
    launch(_fill_f8, blocks, table, lines, dt, now, threshold)


@export("void(i8, i8, i8, f4, f4, f4)")
def fill_f4(blocks, table, lines, dt, now, threshold):
    launch(_fill_f4, blocks, table, lines, dt, now, threshold)


@export("void(i8, i8, i8)")
def multiply_f8(blocks, table, lines):
    launch(_multiply_f8, blocks, table, lines)


@export("void(i8, i8, i8)")
def multiply_f4(blocks, table, lines):
    launch(_multiply_f4, blocks, table, lines)


@export("void(i8, i8, i8)")
def wall_f8(blocks, table, lines):
    launch(_wall_f8, blocks, table, lines)


@export("void(i8, i8, i8)")
def wall_f4(blocks, table, lines):
    launch(_wall_f4, blocks, table, lines)


@export("void(i8, i8, i8)")
def seek_nan_f8(blocks, table, lines):
    launch(_seek_nan_f8, blocks, table, lines)


@export("void(i8, i8, i8)")
def seek_nan_f4(blocks, table, lines):
    launch(_seek_nan_f4, blocks, table, lines)
