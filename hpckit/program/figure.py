"""The canvas that all programs draw on: one look, PNG files, no display; rank 0 only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hpckit.errors import writing
from hpckit.files import replacing

_DPI = 150
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "xtick.direction": "out",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.dpi": _DPI,
    "figure.constrained_layout.use": True,
}


@contextmanager
def drawing(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """A figure, saved and closed at the end; drawn without a display."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size)
        canvas = FigureCanvasAgg(figure)
        yield figure
        canvas.draw()
    _save(path, np.asarray(canvas.buffer_rgba())[..., :3])


def _save(path: Path, pixels: np.ndarray) -> None:
    """As PNG in 256 colours chosen for this picture: the same to the eye, a third of the size."""
    from PIL import Image

    some = np.ascontiguousarray(pixels[::3, ::3])  # choosing from all pixels takes seconds
    palette = Image.fromarray(some).quantize(255, kmeans=4)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    numbers = np.array(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    # The last colour is white itself: no mean of whites and near whites is.
    numbers[(pixels == 255).all(axis=-1)] = 255
    colours = [*(palette.getpalette() or []), *[0] * 768][: 3 * 255]
    whole = Image.fromarray(numbers)
    whole.putpalette([*colours, 255, 255, 255])
    with writing(path), replacing(path) as draft:
        whole.save(draft, "PNG", optimize=True, dpi=(_DPI, _DPI))
