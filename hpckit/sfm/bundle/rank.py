"""What images leave undetermined: depths, separate parts, and freedoms of the whole scene."""

from __future__ import annotations

import numpy as np

from hpckit.errors import ConfigError
from hpckit.sfm.bundle.system import ReducedSystem
from hpckit.sfm.components import by_points

_FLAT = 1e-11  # of the least eigenvalue of a point's V, of unit diagonal: its depth is not seen
_NONE = 1e-13  # of an eigenvalue of normal equations of unit diagonal
_COUNTED = 4000  # unknowns up to which eigenvalues are counted


class Deficient(ConfigError):
    """The normal equations have freedoms that the gauge does not hold."""

    def __init__(self, freedoms: int | None, has_gauge: bool) -> None:
        count = "more freedoms" if freedoms is None else f"{freedoms} freedoms"
        held = (
            "than the 7 that a gauge holds" if freedoms is None else "and a gauge holds 7 of them"
        )
        if not has_gauge:
            count = "freedoms" if freedoms is None else count
            held = "and nothing that is fixed holds them: take gauge='first+scale', or fix more"
        super().__init__(
            f"covariance: the images leave {count}, {held}"
            + (
                "; fix what they do not show, such as the focal length of cameras that look at a "
                "plane or move little: fix={'intrinsics': True}"
                if has_gauge
                else ""
            )
        )


def check_depths(system: ReducedSystem) -> None:
    """`ConfigError` where no baseline shows how far points are (collective)."""
    comm, at = system.comm, system.linearisation
    start, D = at.start, system.shape.width
    lengths = np.diff(start)
    point = np.repeat(np.arange(len(lengths)), lengths)
    V = np.empty((len(lengths), 3, 3))
    for a, b in np.ndindex(3, 3):
        products = at.jacobian[:, :, D + a] * at.jacobian[:, :, D + b]
        V[:, a, b] = np.bincount(point, products.sum(axis=1), len(lengths))
    diagonal = np.einsum("paa->pa", V)
    free = (lengths > 0) & (diagonal > 0).all(axis=1)
    scale = 1 / np.sqrt(diagonal[free])
    scaled = V[free] * scale[:, :, None] * scale[:, None, :]
    flat = np.linalg.eigvalsh(scaled)[:, 0] < _FLAT if len(scaled) else np.zeros(0, bool)
    count, total = comm.allreduce(np.array([flat.sum(), free.sum()]))
    if count:
        raise ConfigError(
            f"covariance: {count} of {total} points have no depth: the cameras that see them stand "
            "at one place, or on one line with the point (no baseline)"
        )


def check_connected(system: ReducedSystem) -> None:
    """`ConfigError` where images fall into parts that share no point (collective)."""
    at = system.linearisation
    parts = by_points(system.comm, at.start, at.kept, system.shape.blocks)
    sizes = [len(part) for part in parts if len(part) > 1]  # what is alone is not observed
    if len(sizes) > 1:
        raise ConfigError(
            f"covariance: the images fall into {len(sizes)} parts that share no point, of "
            f"{', '.join(map(str, sizes[:10]))} images: nothing says where they are to each other, "
            f"7 freedoms each; take them apart"
        )


def deficiency(system: ReducedSystem, blocks: np.ndarray) -> int | None:
    """How many eigenvalues of P'S P are zero, or None where it is too large to count.

    blocks : scaled, so that the diagonal is one before points are eliminated
    """
    size, columns = system.shape.size, system.columns
    if size > _COUNTED:
        return None
    matrix = np.zeros((size, size))
    for (i, j), block in zip(system.pattern(), blocks, strict=True):
        a, b = columns[i] >= 0, columns[j] >= 0
        at = np.ix_(columns[i][a], columns[j][b])
        np.add.at(matrix, at, block[np.ix_(a, b)])
        if i != j:
            np.add.at(matrix, at[::-1], block[np.ix_(a, b)])
    return int((np.linalg.eigvalsh(matrix) < _NONE).sum())
