"""The pictures of `hpckit.apps.kmedoids`: NumPy arrays in, PNG files out; rank 0 only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpckit.program.figure import drawing

_LEGIBLE = 20  # clusters with numbers and a colour of their own


def embedding(
    path: Path, xy: np.ndarray, labels: np.ndarray, medoids: np.ndarray, title: str
) -> Path:
    """The objects coloured by cluster, the medoids as larger dots with their number.

    xy : (s, 2); labels : (s,), clusters; medoids : (k,), which of the s objects they are
    """
    k = len(medoids)
    with drawing(path, (6.4, 5.6)) as figure:
        axes, colours = figure.subplots(), _colours(k)
        axes.scatter(*xy.T, s=5, c=colours[labels], alpha=0.55, linewidths=0)
        size = 90 if k <= _LEGIBLE else 26
        axes.scatter(
            *xy[medoids].T, s=size, c=colours, edgecolors="black", linewidths=0.8, zorder=3
        )
        if k <= _LEGIBLE:
            for number, at in enumerate(xy[medoids]):
                ink = "black" if colours[number, :3].mean() > 0.55 else "white"
                axes.annotate(
                    str(number),
                    at,
                    fontsize=6.5,
                    color=ink,
                    ha="center",
                    va="center_baseline",
                    zorder=4,
                )
        axes.set_aspect("equal", "datalim")
        axes.set_title(title)
        axes.set_xlabel(
            f"{len(xy):,} objects about as far from each other as they are, in units of distance"
        )
    return path


def silhouettes(path: Path, values: np.ndarray, labels: np.ndarray, k: int) -> Path:
    """How well objects fit their cluster: each one as a bar, cluster by cluster, the best on top.

    values : (s,), silhouettes, -1 to 1; labels : (s,), their clusters
    """
    counts = np.bincount(labels, minlength=k)
    means = np.bincount(labels, values, k) / np.maximum(counts, 1)
    clusters = np.argsort(-means, kind="stable")
    gap = len(values) * min(0.15 / k, 0.01)
    ends = np.cumsum(counts[clusters] + gap) - gap
    with drawing(path, (6.4, 5.6)) as figure:
        axes, colours = figure.subplots(), _colours(k)
        for cluster, end in zip(clusters, ends, strict=True):
            mine = np.sort(values[labels == cluster])[::-1]
            bars = end - len(mine) + np.arange(len(mine))
            axes.fill_betweenx(bars, 0, mine, color=colours[cluster], linewidth=0, step="mid")
        axes.axvline(values.mean(), color="#222222", linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(f"Silhouettes of {len(values):,} objects, {values.mean():.3f} on average")
        axes.set_xlabel(
            "1: far from all other clusters, 0: between two, below 0: nearer to another"
        )
        axes.set_ylabel("clusters, the best on top")
        legible = k <= _LEGIBLE
        axes.set_yticks(ends - counts[clusters] / 2 if legible else [], clusters if legible else [])
        axes.tick_params(axis="y", length=0)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    return path


def losses(path: Path, loss: np.ndarray, name: str) -> Path:
    """The loss after each swap, (n_swap,), and what it is called."""
    with drawing(path, (6.4, 3.6)) as figure:
        axes = figure.subplots()
        axes.plot(np.arange(1, len(loss) + 1), loss, color="#3b528b", linewidth=1.4)
        axes.plot(len(loss), loss[-1], "o", ms=4, color="#3b528b")
        axes.annotate(
            f"{loss[-1]:,.6g}",
            (len(loss), loss[-1]),
            (0, -14),
            textcoords="offset points",
            ha="right",
        )
        axes.set_title("Every swap lowers the loss")
        axes.set_xlabel("swaps")
        axes.set_ylabel(name)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axes.margins(x=0.02, y=0.12)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return path


def scores(path: Path, k: np.ndarray, score: np.ndarray) -> Path:
    """The average medoid silhouette by number of clusters, and the best."""
    with drawing(path, (6.4, 3.6)) as figure:
        axes, best = figure.subplots(), score.argmax()
        axes.plot(k, score, ".-", color="#3b528b", linewidth=1.2)
        axes.plot(k[best], score[best], "o", ms=8, mfc="none", mec="#c8102e", mew=1.6)
        axes.annotate(
            f"k = {k[best]}",
            (k[best], score[best]),
            (8, 4),
            textcoords="offset points",
            color="#c8102e",
        )
        axes.set_title("How many clusters?")
        axes.set_xlabel("medoids")
        axes.set_ylabel("average medoid silhouette")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axes.margins(y=0.12)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return path


def plane(distances: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Objects on a plane, (s, 2), about as far from each other as they are: landmark scaling.

    distances : (s, m) from all objects to the landmarks; landmarks : (m,), which of the s objects
        they are. For points
    and Euclidean distances it is their projection to the landmarks' principal components. Source:
    de Silva & Tenenbaum, Sparse multidimensional scaling using landmark points, 2004.
    """
    squares = distances**2
    products = -0.5 * (
        squares - squares[landmarks].mean(axis=0) - squares.mean(axis=1, keepdims=True)
    )
    products -= products[landmarks].mean()
    gram = products[landmarks]
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    two = slice(None, -3, -1)
    spread = np.sqrt(np.maximum(values[two], 1e-12 * values[-1] + np.finfo(float).tiny))
    return products @ (vectors[:, two] / spread)


def _colours(k: int) -> np.ndarray:
    """(k, 4): up to 20 that differ, beyond that the hues in steps of the golden section."""
    import matplotlib
    from matplotlib.colors import hsv_to_rgb

    if k <= _LEGIBLE:
        return matplotlib.colormaps["tab10" if k <= 10 else "tab20"](np.arange(k))
    hue = np.arange(k) * 0.618034 % 1
    light = 0.55 + 0.4 * (np.arange(k) % 3) / 2
    return np.c_[hsv_to_rgb(np.c_[hue, np.full(k, 0.75), light]), np.ones(k)]
