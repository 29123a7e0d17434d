"""The pictures of `hpckit.apps.surrogate`: NumPy arrays in, PNG files out; drawn by rank 0 only."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpckit.program.figure import drawing

COLOURS = {"online": "#2f5c8f", "offline": "#c0504d"}
_QUIET = "#b9c3cf"
_WORK = {  # kinds of it
    "training": "#2f5c8f",
    "solving": "#3f8f7f",
    "receiving": "#86abd1",
    "validating": "#8f7fb5",
    "saving": "#c9a64a",
    "waiting": "#e6d3c8",
}
_MOST = 6  # parameters that are drawn against each other


class Sample(NamedTuple):
    """A validation simulation: true and predicted, (times, ...) of one field; times, (times,)."""

    name: str
    error: float
    times: np.ndarray
    true: np.ndarray
    predicted: np.ndarray


class Curve(NamedTuple):
    """How a training went: gradient steps, (n,) and (v,); loss (n,) and validation error (v,)."""

    steps: np.ndarray
    loss: np.ndarray
    validated: np.ndarray
    validation: np.ndarray


def fields(path: Path, samples: Sequence[Sample], field: str) -> Path:
    """True, predicted and error, a row for each sample.

    A field on a line is drawn over space and time, one on a plane at the first of its times, of one
    in space the middle plane.
    """
    line = samples[0].true.ndim == 2
    shape = _flat(samples[0].true).shape
    ratio = 0.62 if line else np.clip(shape[0] / shape[1], 0.4, 1.6)
    with drawing(path, (10.2, (2.75 * ratio + 0.35) * len(samples) + 0.6)) as figure:
        panels = figure.subplots(len(samples), 3, squeeze=False)
        for row, sample in zip(panels, samples, strict=True):
            true, predicted = (_flat(each) for each in (sample.true, sample.predicted))
            _row(figure, row, true, predicted, sample.times if line else None)
            below = "time" if line else f"here at time {sample.times[0]:.3g}"
            row[0].set_ylabel(f"{sample.name}: {100 * sample.error:.2g} % off\n{below}")
        for axes, what in zip(panels[0], (f"true {field}", "predicted", "difference"), strict=True):
            axes.set_title(what, fontsize=10)
        when = "" if line else ", each at the time of its largest error"
        figure.suptitle(
            f"Best, median and worst simulation{when}",
            x=0.02,
            ha="left",
            fontsize=12,
            fontweight="bold",
        )
    return path


def _flat(values: np.ndarray) -> np.ndarray:
    """What is shown of (times, ...): all of a line, a plane, the middle plane of a space."""
    if values.ndim == 2:
        return values
    shown = values[0]
    while shown.ndim > 2:
        shown = shown[len(shown) // 2]
    return shown


def _row(figure: Any, row: Any, true: np.ndarray, predicted: np.ndarray, times: Any) -> None:
    both = {"vmin": true.min(), "vmax": true.max()}
    off = predicted - true
    largest = max(float(abs(off).max()), 1e-30)
    looks = [
        (true, "viridis", both),
        (predicted, "viridis", both),
        (off, "RdBu_r", {"vmin": -largest, "vmax": largest}),
    ]
    for axes, (values, colours, limits) in zip(row, looks, strict=True):
        place: dict[str, Any] = {"aspect": "equal"}
        if times is not None:
            place = {"aspect": "auto", "extent": (0, 1, times[0], times[-1])}
        image = axes.imshow(values, origin="lower", cmap=colours, **limits, **place)
        figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05).outline.set_visible(False)
        if times is None:
            axes.set_xticks([])
            axes.set_yticks([])
        else:
            axes.set_xlabel("place")


def learning(path: Path, curves: Mapping[str, Curve], ratio: float | None) -> Path:
    """Loss and validation error against gradient steps, online and offline.

    curves : by name, which is one of `COLOURS` up to its comma
    ratio : online's validation error by offline's, at the end
    """
    with drawing(path, (7.4, 4.2)) as figure:
        axes = figure.subplots()
        for name, curve in curves.items():
            colour = COLOURS[name.partition(",")[0]]
            axes.plot(*_smooth(curve.steps, curve.loss), color=colour, linewidth=0.8, alpha=0.45)
            axes.plot(
                curve.validated,
                curve.validation,
                "o-",
                ms=3.5,
                color=colour,
                linewidth=1.7,
                label=f"{name}: {curve.validation[-1]:.3g} at the end",
            )
        axes.set_yscale("log")
        axes.set_xlabel("gradient steps")
        axes.set_ylabel("mean squared error, normalised units")
        title = "Learning: validation (dots) and training (thin)"
        if ratio is not None:
            title = f"Online has {ratio:.2f} times the validation error of offline"
        axes.set_title(title)
        axes.grid(axis="y", which="both", color="#ececec", linewidth=0.6)
        axes.legend(frameon=False)
        axes.margins(x=0.02)
        _plain(axes)
    return path


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of some sixty pieces: a loss is noisy from one batch to the next."""
    width = max(1, len(values) // 60)
    count = len(values) // width * width
    return tuple(each[:count].reshape(-1, width).mean(axis=1) for each in (steps, values))  # type: ignore[return-value]


def buffer(
    path: Path,
    steps: np.ndarray,
    population: np.ndarray,
    unseen: np.ndarray,
    capacity: int,
    reuse: np.ndarray,
) -> Path:
    """What was in the buffer, and how often samples were drawn.

    steps, population, unseen : (n,), along the training
    reuse : (k,), how many samples were drawn 0, 1, 2, ... times
    """
    with drawing(path, (10.0, 3.6)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        left.fill_between(steps, population, color=_QUIET, linewidth=0, label="drawn before")
        left.fill_between(steps, unseen, color=COLOURS["online"], linewidth=0, label="not yet")
        left.axhline(capacity, color="#444444", linewidth=0.9, linestyle=(0, (4, 3)))
        left.annotate(
            "capacity",
            (steps[-1], capacity),
            (0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        left.set_ylim(0, 1.18 * capacity)
        left.set_xlabel("gradient steps")
        left.set_ylabel("samples in the buffer")
        left.set_title("Buffer")
        left.legend(frameon=False, loc="upper left", ncols=2, borderaxespad=0.1)
        left.margins(x=0.01)
        times = np.arange(1 + np.flatnonzero(reuse > 1e-3 * reuse.sum()).max(initial=0))
        mean = (np.arange(len(reuse)) * reuse).sum() / max(reuse.sum(), 1)
        share = 100 * reuse[: len(times)] / max(reuse.sum(), 1)
        right.bar(times, share, 0.85, color=COLOURS["online"])
        right.axvline(mean, color=COLOURS["offline"], linewidth=1.3)
        right.xaxis.get_major_locator().set_params(integer=True)
        right.set_xlabel("how often a sample was drawn")
        right.set_ylabel("% of the samples")
        right.set_title(f"Reuse: {mean:.3g} times on average")
        _plain(left, right)
    return path


def waiting(path: Path, ranks: Sequence[str], shares: Mapping[str, np.ndarray]) -> Path:
    """What ranks did with their time.

    ranks : their names; shares : (ranks,) by name, one of `_WORK`, in parts of the whole time
    """
    n = len(ranks)
    with drawing(path, (7.4, 1.7 + 0.3 * min(n, 40))) as figure:
        axes = figure.subplots()
        begin, rows = np.zeros(n), np.arange(n)
        for name, share in shares.items():
            if not share.any():
                continue
            axes.barh(rows, 100 * share, 0.8, left=100 * begin, color=_WORK[name], label=name)
            begin = begin + share
        axes.set_yticks(rows if n <= 40 else [], ranks if n <= 40 else [])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the time")
        axes.set_title("Who worked, and who waited")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.tick_params(axis="y", length=0)
        _plain(axes)
    return path


def drawn(path: Path, names: Sequence[str], parameters: np.ndarray, limits: np.ndarray) -> Path:
    """The parameters of all simulations, each against each, and how each is distributed.

    parameters : (simulations, d); limits : (2, d), of the box
    """
    n = min(len(names), _MOST)
    with drawing(path, (1.55 * n + 1.0, 1.55 * n + 0.6)) as figure:
        grid = figure.add_gridspec(n, n)
        for i, j in itertools.combinations_with_replacement(range(n), 2):
            axes = figure.add_subplot(grid[j, i])
            _pair(axes, parameters[:, i], parameters[:, j], i == j)
            axes.set_xlim(*limits[:, i])
            if i < j:
                axes.set_ylim(*limits[:, j])
            axes.tick_params(labelbottom=j == n - 1, labelleft=i == 0 < j, left=i < j)
            axes.set_xlabel(names[i] if j == n - 1 else "")
            axes.set_ylabel(names[j] if i == 0 < j else "")
            _plain(axes)
        more = f", {n} of {len(names)} parameters" if n < len(names) else ""
        figure.suptitle(
            f"{len(parameters):,} simulations{more}; the later, the darker",
            x=0.02,
            ha="left",
            fontsize=12,
            fontweight="bold",
        )
    return path


def _pair(axes: Any, x: np.ndarray, y: np.ndarray, same: bool) -> None:
    """One parameter against another, or how it is distributed."""
    if same:
        axes.hist(x, 16, color=COLOURS["online"])
        return
    size = float(np.clip(900 / max(len(x), 1) ** 0.8, 1.5, 14))
    age = np.linspace(0, 1, len(x))
    axes.scatter(x, y, s=size, c=age, cmap="viridis_r", linewidths=0, alpha=0.7)


def series(path: Path, times: np.ndarray, values: np.ndarray, field: str) -> Path:
    """A field (times, ...) at some times: lines in one panel, or planes beside each other."""
    line = values.ndim == 2
    columns = 1 if line else min(len(times), 3)
    rows = 1 if line else -(-len(times) // columns)
    with drawing(path, (7.4, 3.8) if line else (3.2 * columns + 0.6, 3.3 * rows)) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        if line:
            _lines(panels[0], times, values)
            panels[0].set_title(f"Predicted {field}")
            return path
        limits = {"vmin": values.min(), "vmax": values.max(), "cmap": "viridis"}
        for axes in panels:
            axes.axis("off")
        for axes, time, value in zip(panels, times, values, strict=False):
            axes.imshow(_flat(value[None]), origin="lower", **limits)
            axes.set_title(f"{field} at time {time:.3g}", fontsize=10)
        image = panels[0].images[0]
        figure.colorbar(image, ax=list(panels), shrink=0.7).outline.set_visible(False)
    return path


def _lines(axes: Any, times: np.ndarray, values: np.ndarray) -> None:
    import matplotlib

    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(times)))
    for time, value, colour in zip(times, values, colours, strict=True):
        axes.plot(np.linspace(0, 1, len(value)), value, color=colour, label=f"{time:.3g}")
    axes.legend(frameon=False, title="time", loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xlabel("place")
    axes.margins(x=0)
    _plain(axes)


def along_time(path: Path, times: np.ndarray, errors: Mapping[str, np.ndarray]) -> Path:
    """Relative errors along a simulation: the median, and where 90 % of the simulations are.

    errors : (simulations, steps) by name, which is one of `COLOURS` up to its comma
    """
    with drawing(path, (7.4, 3.8)) as figure:
        axes = figure.subplots()
        for name, each in errors.items():
            colour = COLOURS[name.partition(",")[0]]
            low, middle, high = np.percentile(100 * each, [5, 50, 95], axis=0)
            axes.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(times, middle, color=colour, linewidth=1.6, label=name)
        axes.set_yscale("log")
        axes.set_xlabel("time in the simulation")
        axes.set_ylabel("relative error, %")
        axes.set_title("Error along a simulation: median, and 90 % of them")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if _leads(value) else "")
        axes.grid(axis="y", which="both", color="#ececec", linewidth=0.6)
        axes.legend(frameon=False)
        axes.margins(x=0.01)
        _plain(axes)
    return path


def _leads(value: float) -> bool:
    """Whether a number is written on a logarithmic axis between its powers of ten: 2 or 5."""
    return f"{value:e}"[0] in "25"


def _plain(*panels: Any) -> None:
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
