"""What is adjusted and what is fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hpckit.errors import ConfigError
from hpckit.sfm.bundle.layout import free_intrinsics
from hpckit.sfm.reconstruction import Reconstruction

_KINDS = ("focal", "principal_point", "distortion")
_KEYS = ("intrinsics", "cameras", "poses", "points")


class Free(NamedTuple):
    """Masks of what may change."""

    poses: np.ndarray  # (images, 6) bool: rotation about the camera's x, y, z, then translation
    intrinsics: np.ndarray  # (cameras, PARAMETERS) bool
    points: np.ndarray  # (this rank's, ) bool


def free(reconstruction: Reconstruction, fix: Mapping[str, Any] | None) -> Free:
    """What `bundle_adjust(fix=...)` leaves free; `ConfigError` for what it does not understand."""
    fix = dict(fix or {})
    if unknown := fix.keys() - set(_KEYS):
        raise ConfigError(f"fix: {sorted(unknown)} is not known: there are {', '.join(_KEYS)}")
    return Free(
        _poses(reconstruction, fix.get("poses", False)),
        _intrinsics(reconstruction, fix),
        ~_mask("points", fix.get("points", False), len(reconstruction.points)),
    )


def _intrinsics(reconstruction: Reconstruction, fix: Mapping[str, Any]) -> np.ndarray:
    cameras = reconstruction.cameras
    kinds = _kinds(fix.get("intrinsics", "principal_point"))
    mask = free_intrinsics([cameras.model_of(i) for i in range(len(cameras))], kinds)
    mask[_places("cameras", fix.get("cameras", ()), cameras.ids)] = False
    return mask


def _kinds(value: Any) -> tuple[str, ...]:
    if value is True or value == "all":
        return _KINDS
    if value is False or value is None:
        return ()
    kinds = (value,) if isinstance(value, str) else tuple(value)
    for kind in kinds:
        if kind not in _KINDS:
            raise ConfigError(
                f"fix intrinsics {kind!r}: give True, False, or some of {', '.join(_KINDS)}"
            )
    return kinds


def _poses(reconstruction: Reconstruction, value: Any) -> np.ndarray:
    images = reconstruction.images
    fixed = np.zeros((len(images), 6), bool)
    if isinstance(value, np.ndarray) and value.dtype == bool:
        if value.shape not in ((len(images),), fixed.shape):
            raise ConfigError(
                f"fix poses: a mask of shape {value.shape}, but there are {len(images)} images: "
                f"give ({len(images)},) or ({len(images)}, 6)"
            )
        fixed |= value.reshape(len(images), -1)
    elif value is True:
        fixed[:] = True
    elif value is not False and value is not None:
        fixed[_places("poses", value, images.ids)] = True
    return ~fixed


def _places(what: str, wanted: Iterable[int] | Any, ids: np.ndarray) -> list[int]:
    """Where these ids are."""
    place = {int(number): i for i, number in enumerate(ids)}
    try:
        numbers = [int(number) for number in wanted]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fix {what} {wanted!r}: give True, False, or a list of ids") from error
    if missing := [number for number in numbers if number not in place]:
        raise ConfigError(f"fix {what}: there is none of id {missing[0]}")
    return [place[number] for number in numbers]


def _mask(what: str, value: Any, n: int) -> np.ndarray:
    """(n,) bool."""
    if value is True or value is False or value is None:
        return np.full(n, bool(value))
    mask = np.asarray(value)
    if mask.dtype != bool or mask.shape != (n,):
        raise ConfigError(
            f"fix {what}: give True, False, or a mask of shape ({n},) for this rank's points, not "
            f"{mask.dtype} of {mask.shape}"
        )
    return mask
