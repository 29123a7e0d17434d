"""Which columns the blocks of both sides have, and which unknown each column is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpckit.sfm.cameras import PARAMETERS

_WIDTHS = (0, 3, 6, 12)  # free intrinsics are padded to one of these: kernels exist for few widths


@dataclass
class Layout:
    """The two sides of a problem and the map P from unknowns to the columns of kept blocks.

    side : what is eliminated, "points" or "poses"
    width, eliminated_width : D and d of the kernels
    lens : (cameras, K) int32, the parameter that each column of intrinsics is, -1 none
    columns : (blocks, D) int32, the unknown that each column of a kept block is, -1 none
    size : unknowns of the kept side
    group, first : blocks for a block-Jacobi preconditioner: (size,) int32, of each unknown, in
        ascending order; (groups,) int32, their first unknowns
    poses, cameras, points : the unknowns of each (n, 6), (n, K), (n, 3); None on the other side
    point_of : (blocks,) int32, the point of each kept block, where poses are eliminated
    """

    side: str
    width: int
    eliminated_width: int
    lens: np.ndarray
    columns: np.ndarray
    size: int
    group: np.ndarray
    first: np.ndarray
    poses: np.ndarray | None
    cameras: np.ndarray | None
    points: np.ndarray | None
    point_of: np.ndarray


def lens_columns(free: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Free parameters of each camera, (cameras, K) int32, -1 after the last and where not used.

    free : (cameras, PARAMETERS) bool; used : (cameras,) bool
    """
    free = free & used[:, None]
    counts = free.sum(axis=1)
    width = min(w for w in _WIDTHS if w >= counts.max(initial=0))
    lens = np.full((len(free), width), -1, np.int32)
    camera, parameter = np.nonzero(free)
    place = np.arange(len(camera)) - np.repeat(np.cumsum(counts) - counts, counts)
    lens[camera, place] = parameter
    return lens


def eliminate_points(
    free_poses: np.ndarray, camera: np.ndarray, seen: np.ndarray, lens: np.ndarray
) -> Layout:
    """Kept blocks are images: six of the pose, then what is free of the camera.

    free_poses : (images, 6) bool; camera : (images,); seen : (images,) bool, which are observed
    """
    images, k = len(free_poses), lens.shape[1]
    there = lens >= 0
    uses = np.bincount(camera[seen], minlength=len(lens))
    alone = (uses == 1)[camera] & seen
    numbers = _number(np.hstack([free_poses, alone[:, None] & there[camera]]), 0)
    size = int(numbers.max(initial=-1)) + 1
    cameras = _number(there & (uses > 1)[:, None], size)
    total = int(cameras.max(initial=size - 1)) + 1
    shared = np.nonzero(cameras >= 0)[0]
    cameras[camera[alone]] = numbers[alone, 6:]
    columns = np.hstack([numbers[:, :6], cameras[camera]]).astype(np.int32)
    group = np.concatenate([np.nonzero(numbers >= 0)[0], images + shared])
    return Layout(
        "points",
        6 + k,
        3,
        lens,
        columns,
        total,
        *_groups(group),
        poses=columns[:, :6],
        cameras=cameras,
        points=None,
        point_of=np.zeros(1, np.int32),
    )


def eliminate_poses(
    free_points: np.ndarray, camera_of: np.ndarray, point_of: np.ndarray, lens: np.ndarray
) -> Layout:
    """Kept blocks are points, each with the camera that sees it: a block for each such pair.

    free_points : (points,) bool; camera_of, point_of : (blocks,) of each pair
    """
    numbers = _number(np.repeat(free_points[:, None], 3, axis=1), 0)
    size = int(numbers.max(initial=-1)) + 1
    cameras = _number(lens >= 0, size)
    total = int(cameras.max(initial=size - 1)) + 1
    columns = np.hstack([numbers[point_of], cameras[camera_of]]).astype(np.int32)
    group = np.concatenate(
        [np.nonzero(numbers >= 0)[0], len(numbers) + np.nonzero(cameras >= 0)[0]]
    )
    return Layout(
        "poses",
        3 + lens.shape[1],
        6,
        lens,
        columns,
        total,
        *_groups(group),
        poses=None,
        cameras=cameras,
        points=numbers,
        point_of=point_of.astype(np.int32),
    )


def eliminate_poses_with_cameras(free_points: np.ndarray, lens: np.ndarray) -> Layout:
    """Kept blocks are points; each image has a camera of its own, eliminated with its pose."""
    numbers = _number(np.repeat(free_points[:, None], 3, axis=1), 0)
    size = int(numbers.max(initial=-1)) + 1
    return Layout(
        "poses",
        3,
        6 + lens.shape[1],
        lens,
        numbers,
        size,
        *_groups(np.nonzero(numbers >= 0)[0]),
        poses=None,
        cameras=None,
        points=numbers,
        point_of=np.arange(len(numbers), dtype=np.int32),
    )


def free_intrinsics(models: list, chosen: tuple[str, ...]) -> np.ndarray:
    """(cameras, PARAMETERS) bool, what is free when the named kinds of parameters are fixed."""
    free = np.zeros((len(models), PARAMETERS), bool)
    for i, model in enumerate(models):
        free[i, : len(model.parameters)] = True
        for kind in chosen:
            free[i, getattr(model, kind)] = False
    return free


def _number(mask: np.ndarray, first: int) -> np.ndarray:
    """Numbers from `first` on where the mask is true, by rows; -1 elsewhere: int32."""
    numbers = np.full(mask.shape, -1, np.int32)
    numbers[mask] = np.arange(first, first + np.count_nonzero(mask), dtype=np.int32)
    return numbers


def _groups(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups numbered from 0, and their first unknowns, of ascending labels."""
    _, first, group = np.unique(label, return_index=True, return_inverse=True)
    return group.astype(np.int32), first.astype(np.int32)
