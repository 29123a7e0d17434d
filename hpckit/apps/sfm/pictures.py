"""The pictures of `hpckit.apps.sfm`: plain NumPy arrays in, PNG files out; drawn by rank 0 only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.apps.sfm.errors import Errors
from hpckit.apps.sfm.view import Cloud, View, best_view
from hpckit.program.figure import drawing

if TYPE_CHECKING:
    from hpckit.sfm.bundle.result import Iteration

_BEFORE, _AFTER, _CAMERA = "#c0504d", "#2f5c8f", "#d02020"
_FRUSTA = 120  # cameras that are drawn with their edges, at most; the others are dots


def scene(path: Path, clouds: Mapping[str, Cloud]) -> Path:
    """Points and cameras, panel by panel from one view, which suits the last.

    clouds : by title; at most four
    """
    view = best_view(list(clouds.values())[-1])
    n = len(clouds)
    columns = min(n, 2) if view.ratio < 2.2 else 1
    rows = -(-n // columns)
    width = 10.0 / columns
    height = min(width / view.ratio, 5.4) + 0.35
    with drawing(path, (width * columns, height * rows)) as figure:
        for axes, (title, cloud) in zip(
            figure.subplots(rows, columns, squeeze=False).ravel(), clouds.items(), strict=False
        ):
            _paint(axes, cloud, view)
            axes.set_title(title)
        for axes in figure.axes[n:]:
            axes.set_visible(False)
    return path


def _paint(axes: Any, cloud: Cloud, view: View) -> None:
    from matplotlib.collections import LineCollection

    xy, depth = view.project(cloud.xyz)
    order = np.argsort(-depth)
    size = np.clip(20_000 / max(len(xy), 1), 0.4, 5.0)
    colours = _colours(cloud, view)[order]
    axes.scatter(*xy[order].T, s=size, c=colours, linewidths=0, rasterized=True)
    axes.scatter(*view.project(cloud.centre)[0].T, s=1.5, c=_CAMERA, linewidths=0)
    lines = view.project(_frusta(cloud, view.unit).reshape(-1, 3))[0].reshape(-1, 2, 2)
    axes.add_collection(LineCollection(list(lines), colors=_CAMERA, linewidths=0.6))
    axes.set_xlim(view.low[0], view.high[0])
    axes.set_ylim(view.low[1], view.high[1])
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


def _colours(cloud: Cloud, view: View) -> np.ndarray:
    """(s, 3): those of the points, or by height where the file knew none."""
    import matplotlib

    if len(np.unique(cloud.rgb, axis=0)) > 4:
        return np.clip(cloud.rgb / 255 * 0.92, 0, 1)
    height = (cloud.xyz - view.middle) @ view.up
    low, high = np.percentile(height, [3, 97]) if len(height) else (0.0, 1.0)
    return matplotlib.colormaps["viridis"](
        0.9 * np.clip((height - low) / max(high - low, 1e-300), 0, 1)
    )[:, :3]


def _frusta(cloud: Cloud, unit: float) -> np.ndarray:
    """(8 per image, 2, 3): edges of pyramids with the tip at the centre, open to where it looks."""
    some = slice(None, None, -(-len(cloud.centre) // _FRUSTA) or None)
    centre, directions = cloud.centre[some], cloud.axes[some]
    corner = np.array([[-0.6, -0.45, 1], [0.6, -0.45, 1], [0.6, 0.45, 1], [-0.6, 0.45, 1]]) * unit
    corners = centre[:, None] + np.einsum("kc,ncx->nkx", corner, directions)
    tips = np.broadcast_to(centre[:, None], corners.shape)
    edges = [np.stack([tips, corners], 2), np.stack([corners, np.roll(corners, -1, axis=1)], 2)]
    return np.concatenate([each.reshape(-1, 2, 3) for each in edges])


def reprojection(path: Path, by_name: Mapping[str, Errors]) -> Path:
    """Histograms of the reprojection errors, and their root mean square in each image.

    by_name : what was before, and after; or one alone
    """
    colours = [_BEFORE, _AFTER][-len(by_name) :]
    with drawing(path, (9.0, 3.4)) as figure:
        left, right = figure.subplots(1, 2)
        for (name, errors), colour in zip(by_name.items(), colours, strict=True):
            label = f"{name}: rms {errors.rms:.3g} px"
            share = 100 * errors.counts / max(errors.counts.sum(), 1)
            left.stairs(share, errors.edges, color=colour, fill=True, alpha=0.25)
            left.stairs(share, errors.edges, color=colour, linewidth=1.3, label=label)
            n = len(errors.per_image)
            marks = {"marker": "o", "ms": 3, "linewidth": 0.5} if n <= 120 else {"linewidth": 0.8}
            right.plot(np.arange(1, n + 1), errors.per_image, color=colour, **marks)
        left.set_xscale("log")
        left.set_xlabel("reprojection error, pixels")
        left.set_ylabel("% of the observations")
        left.set_title("Reprojection errors")
        left.legend(frameon=False)
        left.set_ylim(0, 1.3 * left.get_ylim()[1])
        left.set_xlim(*_filled(by_name.values()))
        right.set_yscale("log")
        right.set_xlabel("images in their order")
        right.set_ylabel("root mean square, pixels")
        right.set_title("In each image")
        right.margins(x=0.01)
        _plain(left, right)
    return path


def _filled(several: Iterable[Errors]) -> tuple[float, float]:
    """Edges of the bins that hold a thousandth or more of any of these."""
    those = [np.flatnonzero(each.counts > 1e-3 * each.counts.max(initial=0)) for each in several]
    edges = next(iter(several)).edges
    inside = np.concatenate(those)
    return (edges[inside.min()], edges[inside.max() + 1]) if len(inside) else (edges[0], edges[-1])


def angles(path: Path, degrees: np.ndarray) -> Path:
    """Histogram of the angles that pairs are off by, (pairs,)."""
    with drawing(path, (5.2, 3.4)) as figure:
        axes = figure.subplots()
        bins = np.logspace(-2, np.log10(180), 80)
        count, edges = np.histogram(np.clip(degrees, bins[0], bins[-1]), bins)
        share = 100 * count / max(len(degrees), 1)
        axes.stairs(share, edges, color=_AFTER, fill=True, alpha=0.3)
        axes.stairs(share, edges, color=_AFTER, linewidth=1.3)
        axes.set_xscale("log")
        axes.set_xlabel("angle between a pair and the rotations of its images, degrees")
        axes.set_ylabel("% of the pairs")
        axes.set_title(f"{len(degrees):,} pairs, {np.median(degrees):.3g} degrees in the median")
        _plain(axes)
    return path


def convergence(path: Path, history: Sequence[Iteration]) -> Path:
    """Cost against time, and what the linear solver needed in each iteration."""
    cost = np.array([each.cost for each in history])
    seconds = np.array([each.seconds for each in history])
    linear = np.array([each.linear_iterations for each in history])
    taken = np.array([each.accepted for each in history])
    iterative = linear.max(initial=0) > 1
    with drawing(path, (9.0 if iterative else 5.2, 3.4)) as figure:
        left, *right = figure.subplots(1, 1 + iterative, squeeze=False)[0]
        left.plot(seconds, cost, color=_AFTER, linewidth=1.3)
        left.plot(seconds[taken], cost[taken], "o", ms=3.5, color=_AFTER)
        left.plot(seconds[~taken], cost[~taken], "x", ms=5, color=_BEFORE, label="rejected")
        left.annotate(
            f"{cost[-1]:.6g}",
            (seconds[-1], cost[-1]),
            (0, 6),
            textcoords="offset points",
            ha="right",
        )
        left.set_yscale("log")
        left.set_xlabel("seconds")
        left.set_ylabel("cost")
        left.set_title("Cost against time")
        left.grid(axis="y", which="both", color="#ececec", linewidth=0.6)
        if not taken.all():
            left.legend(frameon=False)
        for axes in right:
            axes.bar(np.arange(1, len(cost)), linear[1:], 0.8, color=_AFTER)
            axes.set_xlabel("iteration")
            axes.set_ylabel("iterations of the linear solver")
            axes.set_title("Conjugate gradients")
        _plain(left, *right)
    return path


def _plain(*panels: Any) -> None:
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
