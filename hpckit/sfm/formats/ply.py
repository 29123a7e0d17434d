"""PLY point clouds (Turk, "The PLY polygon file format", 1994), binary, to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpckit.sfm.projection import centres
from hpckit.sfm.reconstruction import Reconstruction

CENTRE_RGB = (255, 0, 0)  # of camera centres among the points
_VERTEX = np.dtype([("xyz", "<f8", 3), ("rgb", "u1", 3)])


def write_ply(whole: Reconstruction, draft: Path, with_centres: bool = False) -> None:
    """Write the points with their colours and, after them in red, the centres of images.

    ::

        write_ply(whole, draft, with_centres=True)

    Coordinates are float64, since those of maps lose centimetres in float32.
    """
    xyz, rgb = cloud(whole, with_centres)
    vertices = np.empty(len(xyz), _VERTEX)
    vertices["xyz"], vertices["rgb"] = xyz, rgb
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(xyz)}\n"
        "property double x\nproperty double y\nproperty double z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    )
    draft.write_bytes(header.encode() + vertices.tobytes())


def cloud(whole: Reconstruction, with_centres: bool) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, 3) and colours (n, 3) of points and, if wanted, centres of images. ::

    xyz, rgb = cloud(whole, True)
    """
    xyz, rgb = whole.points.xyz, whole.points.rgb
    if with_centres:
        c = centres(whole.images)
        xyz = np.concatenate([xyz, c])
        rgb = np.concatenate([rgb, np.tile(np.array(CENTRE_RGB, np.uint8), (len(c), 1))])
    return xyz, rgb
