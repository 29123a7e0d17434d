"""Stencil sweeps over boxes of local arrays: sources for numba, compiled by `hpckit.native`.

A pointer names the first cell of the box, `n0, n1, n2` are the box's extents and `s0, s1` the
element strides of the slower dimensions; the last dimension has stride one. Every cell is computed
by the same expression, in whatever box it lies, so that interior and shell, any number of threads
and any number of ranks give the same bits.
"""

from __future__ import annotations

from numba import njit

from hpckit.native import export
from hpckit.pde.alone_kernels import fill_ghosts
from hpckit.pde.line_kernels import CHUNK, fence, put, scratch


@njit(error_model="numpy", forceinline=True)
def _diffuse(new, old, n0, n1, n2, s0, s1, c0, c1, c2, source, tile, stream):
    """One step of `diffuse`."""
    line = scratch(new)
    lead = s0 if s0 > 0 else s1
    first = 0
    while first < n1:
        last = first + tile if first + tile < n1 else n1
        for i in range(n0):
            for j in range(first, last):
                done = 0
                while done < n2:
                    row = i * s0 + j * s1 + done
                    n = n2 - done if n2 - done < CHUNK else CHUNK
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
                    put(new, row, line, n, stream, old, lead)
                    done += n
        first = last
    if stream:
        fence()


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
    "void(f8*, f8*, i8, i8, i8, i8, i8, i8*, f8*, i8, i8, f8, f8, f8, f8, i8, i8)",
    "void(f4*, f4*, i8, i8, i8, i8, i8, i8*, f4*, i8, i8, f4, f4, f4, f4, i8, i8)",
)
def diffuse_alone(
    new, old, n0, n1, n2, s0, s1, moves, walls, ghosts, count, c0, c1, c2, source, tile, stream
):
    """`count` times `diffuse`, to and fro, each after the ghosts: see `hpckit.pde.alone`."""
    for step in range(count):
        to, of = (new, old) if step % 2 == 0 else (old, new)
        fill_ghosts(of, moves, walls, ghosts, s0, s1)
        _diffuse(to, of, n0, n1, n2, s0, s1, c0, c1, c2, source, tile, stream)


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
    line = scratch(new)
    for j in range(n1):
        done = 0
        while done < n2:
            row = j * s1 + done
            n = n2 - done if n2 - done < CHUNK else CHUNK
            for q in range(n):
                k = row + q
                z, w, e, s, t = old[k], old[k - 1], old[k + 1], old[k - s1], old[k + s1]
                sw, se, nw, ne = old[k - s1 - 1], old[k - s1 + 1], old[k + s1 - 1], old[k + s1 + 1]
                east = _creep((e - z) * per_x, ((t - s) + (ne - se)) * cross_y, critical, steepest)
                west = _creep((z - w) * per_x, ((nw - sw) + (t - s)) * cross_y, critical, steepest)
                north = _creep((t - z) * per_y, ((e - w) + (ne - nw)) * cross_x, critical, steepest)
                south = _creep((z - s) * per_y, ((se - sw) + (e - w)) * cross_x, critical, steepest)
                line[q] = z + rate * ((east - west) * per_x + (north - south) * per_y) + source
            put(new, row, line, n, stream, old, s1)
            done += n
    if stream:
        fence()


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
    line = scratch(height)
    for j in range(n1):
        x, y, south, north = dt * per_x[j], dt * per_y[j], shrink[j], shrink[j + 1]
        done = 0
        while done < n2:
            n = n2 - done if n2 - done < CHUNK else CHUNK
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
