"""Points in space as VTKHDF files (2.0, PolyData), which ParaView opens.

Layout: `/VTKHDF/Points` has shape (n, 3), `/VTKHDF/PointData/NAME` what is known of each point, and
`/VTKHDF/Vertices` a cell for each point, without which nothing would be drawn. Lines, polygons and
strips must be there too, and are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpckit.io.overlay import changed

_GROUP = "VTKHDF"
_CELLS = ("Vertices", "Lines", "Polygons", "Strips")


def write_points(file: Path, xyz: np.ndarray, data: Mapping[str, np.ndarray]) -> None:
    """Write a point cloud to a file; give a draft, as `hpckit.files.replacing` does.

    ::

        with replacing("points.vtkhdf") as draft:
            write_points(draft, xyz, {"rgb": rgb, "error": error})

    xyz : (n, 3) float; data : (n,) or (n, components) numbers of each point. Raises `OSError`.
    """
    n = len(xyz)
    with changed(file, "w") as f:
        group: Any = f.create_group(_GROUP)
        group.attrs["Version"] = np.array([2, 0], np.int64)
        group.attrs["Type"] = np.bytes_("PolyData")
        _put(group, "NumberOfPoints", np.array([n], np.int64))
        _put(group, "Points", xyz)
        for cells in _CELLS:
            count = n if cells == "Vertices" else 0
            _put(group, f"{cells}/NumberOfCells", np.array([count], np.int64))
            _put(group, f"{cells}/NumberOfConnectivityIds", np.array([count], np.int64))
            _put(group, f"{cells}/Connectivity", np.arange(count, dtype=np.int64))
            _put(group, f"{cells}/Offsets", np.arange(count + 1, dtype=np.int64))
        for name, values in data.items():
            _put(group, f"PointData/{name}", values)


def _put(group: Any, name: str, values: np.ndarray) -> None:
    group.create_dataset(name, data=values, track_times=False)  # equal runs make equal bytes
