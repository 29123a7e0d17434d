"""Stencil sweeps over boxes of local arrays: sources for numba, compiled by `hpckit.native`.

A pointer names the first cell of the box, `n0, n1, n2` are the box's extents and `s0, s1` the
element strides of the slower dimensions; the last dimension has stride one. Every cell is computed
by the same expression, in whatever box it lies, so that interior and shell, any number of threads
and any number of ranks give the same bits.

How a sweep reaches memory speed: a piece of a row is computed into a scratch line of the
first-level cache (where LLVM sees that nothing overlaps, and vectorises), and then moved out by
whole cache lines. Fields larger than the caches are moved past them (`stream`), which saves reading
every line before it is overwritten; and while a line goes out, the line needed a few kilobytes
later is fetched, because the hardware's prefetcher stops at each page.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from hpckit.native import export
from hpckit.pde.alone_kernels import fill_ghosts

_LINE = 64  # bytes of a cache line, and of the widest vector
_CHUNK = 512  # elements of the scratch line
_AHEAD = 8192  # bytes by which the prefetch runs ahead


@intrinsic
def _scratch(typing, like):
    """Room for _CHUNK elements of the type that `like` points to, on the stack."""

    def codegen(context, builder, signature, arguments):
        room = cgutils.alloca_once(builder, context.get_value_type(like.dtype), size=_CHUNK)
        room.align = _LINE
        return room

    return like(like), codegen


@intrinsic
def _lanes(typing, pointer):
    """Elements in a cache line."""
    lanes = _LINE * 8 // pointer.dtype.bitwidth
    return types.int64(pointer), lambda context, *_: context.get_constant(types.int64, lanes)


@intrinsic
def _to_line(typing, pointer, index):
    """Elements from pointer[index] to the next start of a cache line."""

    def codegen(context, builder, signature, arguments):
        word = ir.IntType(64)
        address = builder.ptrtoint(builder.gep(arguments[0], [arguments[1]]), word)
        return builder.udiv(
            builder.and_(builder.neg(address), word(_LINE - 1)), word(pointer.dtype.bitwidth // 8)
        )

    return types.int64(pointer, types.int64), codegen


@intrinsic
def _stream_line(typing, target, t, source, s):
    """Move one cache line past the caches; &target[t] is aligned to the line."""

    def codegen(context, builder, signature, arguments):
        line = ir.VectorType(ir.IntType(64), _LINE // 8).as_pointer()
        into = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), line)
        value = builder.load(builder.bitcast(builder.gep(arguments[2], [arguments[3]]), line))
        value.align = 4
        store = builder.store(value, into)
        store.align = _LINE
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.none(target, types.int64, source, types.int64), codegen


@intrinsic
def _prefetch(typing, pointer, index):
    """Ask for the line _AHEAD bytes after pointer[index]; past the array's end it does nothing."""

    def codegen(context, builder, signature, arguments):
        word, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        ahead = ir.IntType(64)(_AHEAD * 8 // pointer.dtype.bitwidth)
        place = builder.bitcast(builder.gep(arguments[0], [builder.add(arguments[1], ahead)]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, word(0), word(3), word(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.none(pointer, types.int64), codegen


@intrinsic
def _fence(typing):
    """Make streamed lines visible to other threads and processes before whatever follows."""

    def codegen(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


@njit(inline="always")
def _put(new, row, line, n, stream, fresh, lead):
    """new[row : row+n] = line[:n], prefetching the array `fresh` around fresh[row + lead]."""
    lanes = _lanes(new)
    k = 0
    if stream:
        head = _to_line(new, row)
        head = head if head < n else n
        while k < head:
            new[row + k] = line[k]
            k += 1
        while k + lanes <= n:
            _stream_line(new, row + k, line, k)
            _prefetch(fresh, row + k + lead)
            k += lanes
    while k < n:
        new[row + k] = line[k]
        k += 1


@njit(inline="always")
def _diffuse(new, old, n0, n1, n2, s0, s1, c0, c1, c2, source, tile, stream):
    """One step of `diffuse`."""
    line = _scratch(new)
    lead = s0 if s0 > 0 else s1
    first = 0
    while first < n1:
        last = first + tile if first + tile < n1 else n1
        for i in range(n0):
            for j in range(first, last):
                done = 0
                while done < n2:
                    row = i * s0 + j * s1 + done
                    n = n2 - done if n2 - done < _CHUNK else _CHUNK
                    for q in range(n):
                        k = row + q
                        u = old[k]
                        line[q] = (
                            u
                            + c0 * (old[k - s0] - (u + u) + old[k + s0])
                            + c1 * (old[k - s1] - (u + u) + old[k + s1])
                            + c2 * (old[k - 1] - (u + u) + old[k + 1])
                            + source
                        )
                    _put(new, row, line, n, stream, old, lead)
                    done += n
        first = last
    if stream:
        _fence()


@export(
    "void(f8*, f8*, i8, i8, i8, i8, i8, f8, f8, f8, f8, i8, i8)",
    "void(f4*, f4*, i8, i8, i8, i8, i8, f4, f4, f4, f4, i8, i8)",
)
def diffuse(new, old, n0, n1, n2, s0, s1, c0, c1, c2, source, tile, stream):
    """new = old + sum_d c_d (old[-1] - 2 old + old[+1])_d + source: u_t = div(k grad u) + q.

    Dimensions that a problem lacks have extent 1 and stride 0: their difference is exactly zero.
    The middle dimension is cut into tiles of `tile` rows, of which three planes stay in the caches.
    """
    _diffuse(new, old, n0, n1, n2, s0, s1, c0, c1, c2, source, tile, stream)


@export(
    "void(f8*, f8*, i8, i8, i8, i8*, f8*, i8, i8, i8, i8, f8, f8, f8, f8, i8, i8)",
    "void(f4*, f4*, i8, i8, i8, i8*, f4*, i8, i8, i8, i8, f4, f4, f4, f4, i8, i8)",
)
def diffuse_alone(
    new, old, n0, n1, n2, moves, walls, ghosts, count, s0, s1, c0, c1, c2, source, tile, stream
):
    """`count` times `diffuse`, to and fro, each after the ghosts: see `hpckit.pde.alone`."""
    for step in range(count):
        if step % 2 == 0:
            fill_ghosts(old, moves, walls, ghosts, s0, s1)
            _diffuse(new, old, n0, n1, n2, s0, s1, c0, c1, c2, source, tile, stream)
        else:
            fill_ghosts(new, moves, walls, ghosts, s0, s1)
            _diffuse(old, new, n0, n1, n2, s0, s1, c0, c1, c2, source, tile, stream)


@njit(inline="always")
def _creep(rise, across, critical, steepest):
    """Roering's flux K rise / (1 - (S/Sc)^2) through a face over K Sc^2; `critical` is Sc^2.

    `rise` is the slope along the face's normal, `across` the one along the face; S^2 counts as
    `steepest` above that.
    """
    slope = rise * rise + across * across
    return rise / (critical - (slope if slope < steepest else steepest))


@export(
    "void(f8*, f8*, i8, i8, i8, f8, f8, f8, f8, f8, f8, f8, f8, i8)",
    "void(f4*, f4*, i8, i8, i8, f4, f4, f4, f4, f4, f4, f4, f4, i8)",
)
def creep(
    new, old, n1, n2, s1, per_y, per_x, cross_y, cross_x, rate, critical, steepest, source, stream
):
    """new = old + rate div(q) + source, Roering's flux; `per_y` is 1/dy, `cross_y` 1/(4 dy).

    The slope along a face is the mean of the four one-sided differences at its ends.
    """
    line = _scratch(new)
    for j in range(n1):
        done = 0
        while done < n2:
            row = j * s1 + done
            n = n2 - done if n2 - done < _CHUNK else _CHUNK
            for q in range(n):
                k = row + q
                z, w, e, s, t = old[k], old[k - 1], old[k + 1], old[k - s1], old[k + s1]
                sw, se, nw, ne = old[k - s1 - 1], old[k - s1 + 1], old[k + s1 - 1], old[k + s1 + 1]
                east = _creep((e - z) * per_x, ((t - s) + (ne - se)) * cross_y, critical, steepest)
                west = _creep((z - w) * per_x, ((nw - sw) + (t - s)) * cross_y, critical, steepest)
                north = _creep((t - z) * per_y, ((e - w) + (ne - nw)) * cross_x, critical, steepest)
                south = _creep((z - s) * per_y, ((se - sw) + (e - w)) * cross_x, critical, steepest)
                line[q] = z + rate * ((east - west) * per_x + (north - south) * per_y) + source
            _put(new, row, line, n, stream, old, s1)
            done += n
    if stream:
        _fence()


@export(
    "void(f8*, f8*, f8*, f8*, i8, i8, i8, i8, i8, f8)",
    "void(f4*, f4*, f4*, f4*, i8, i8, i8, i8, i8, f4)",
)
def push(flux, weight, height, metric, n1, n2, s_flux, s_height, step, dt):
    """flux -= dt metric[row] weight (height[cell] - height[cell - step]): pushed downhill.

    `weight` (g times the depth at the face, zero where no water passes) is laid out as `flux`.
    """
    for j in range(n1):
        scale = dt * metric[j]
        f = j * s_flux
        h = j * s_height
        for k in range(n2):
            flux[f + k] -= scale * weight[f + k] * (height[h + k] - height[h + k - step])


@export(
    "void(f8*, f8*, f8*, f8*, f8*, f8*, f8*, f8*, i8, i8, i8, i8, i8, f8, f8, f8)",
    "void(f4*, f4*, f4*, f4*, f4*, f4*, f4*, f4*, i8, i8, i8, i8, i8, f4, f4, f4)",
)
def fill(
    height,
    hu,
    hv,
    peak,
    arrival,
    per_x,
    per_y,
    shrink,
    n1,
    n2,
    s_height,
    s_hu,
    s_hv,
    dt,
    now,
    threshold,
):
    """height -= dt div(hu, hv), and the gauges: largest height, first time above the threshold.

    `per_x`, `per_y` (one per row) and `shrink` (one per row of faces) are the metric of the
    divergence.
    """
    line = _scratch(height)
    for j in range(n1):
        x, y, south, north = dt * per_x[j], dt * per_y[j], shrink[j], shrink[j + 1]
        done = 0
        while done < n2:
            n = n2 - done if n2 - done < _CHUNK else _CHUNK
            h, u, v = j * s_height + done, j * s_hu + done, j * s_hv + done
            for q in range(n):
                out = (hu[u + q + 1] - hu[u + q]) * x + (
                    north * hv[v + s_hv + q] - south * hv[v + q]
                ) * y
                line[q] = height[h + q] - out
            for q in range(n):
                height[h + q] = line[q]
            for q in range(n):
                peak[h + q] = line[q] if line[q] > peak[h + q] else peak[h + q]
            for q in range(n):
                first = now if abs(line[q]) > threshold else arrival[h + q]
                arrival[h + q] = first if first < arrival[h + q] else arrival[h + q]
            done += n
