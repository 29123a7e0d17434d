"""From points to pixels and from pixels to rays, in plain NumPy: for files, filters and tests.

The adjustment's own kernels compute the same, with derivatives, in `hpckit/sfm/kernels/cameras.py`;
neither knows of the other, so that one checks the other. `project` takes complex numbers too, for
derivatives by complex steps.

All models are one formula. With (u, v) = (x / z, y / z), r = |(u, v)| and t = r, or t = atan(r) of
fisheyes, t is distorted to g(t) = t N(t^2) / D(t^2), N and D polynomials in k1, k2, ...; what p1
and p2 say of a lens that is tilted is added (Brown, "Decentering distortion of lenses", 1966); then
focal lengths scale, and the principal point shifts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.polynomial import polynomial

from hpckit.errors import ConfigError
from hpckit.sfm import rotations
from hpckit.sfm.cameras import CameraModel, Cameras
from hpckit.sfm.reconstruction import Images, Observations, Reconstruction

NEAREST = np.finfo(float).eps  # depths below are behind the camera, as in COLMAP
_STEPS = 100  # of Newton or of halving a bracket: far fewer are taken
_NEWTON = 20
_CLOSE = 1e-15  # a relative step that changes nothing
_PIECE = 1 << 14  # observations whose numbers fit into a cache


def project(cameras: Cameras, camera: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pixels of points given in the frame of a camera: (n, 2) of the type of `x` and parameters.

    ::

        cameras = Cameras.of(("SIMPLE_PINHOLE", 0, 0, [100.0, 50.0, 40.0]))
        project(cameras, np.array([0]), np.array([[0.1, 0.2, 1.0]]))  # ((60, 60),)

    camera : (n,) int, its place in `cameras`; x : (n, 3). A point behind its camera is projected as
    the formula says, one of depth 0 becomes infinite or NaN.
    """
    xy = np.empty((len(x), 2), np.result_type(x.dtype, cameras.parameters.dtype))
    for number in np.unique(cameras.model[camera]):
        those = np.flatnonzero(cameras.model[camera] == number)
        model = cameras.model_of(int(camera[those[0]]))
        lens = _lens(model, cameras.parameters[camera[those]])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            plane = lens.sign * x[those, :2] / x[those, 2:]
            xy[those] = lens.focal * _distorted(lens, plane) + lens.principal_point
    return xy


def depths(cameras: Cameras, camera: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How far points lie in front of their cameras, along the axis: (n,) in units of the world. ::

    depths(cameras, camera, x) < NEAREST  # which are behind

    camera and x as for `project`; `BAL` looks along -z, all others along +z.
    """
    return np.where(cameras.model[camera] == -1, -1.0, 1.0) * x[:, 2]


def unproject(
    cameras: Cameras, camera: np.ndarray, xy: np.ndarray, strict: bool = False
) -> np.ndarray:
    """Unit vectors, in the frame of the camera, to what is seen at these pixels: (n, 3) float64.

    ::

        rays = unproject(cameras, camera, xy)
        rays = rays[np.isfinite(rays[:, 0])]

    A distortion that folds, r growing while g(r) falls, shows several points at one pixel, and at
    others none. The ray nearest to the axis, before the fold, is taken; where there is none the
    row is NaN, or, if `strict`, a `ConfigError` names the camera and the pixel.

    camera : (n,) int, its place in `cameras`; xy : (n, 2) pixels.
    """
    rays = np.full((len(xy), 3), np.nan)
    order = np.argsort(camera, kind="stable")
    for those in np.split(order, np.flatnonzero(np.diff(camera[order])) + 1):
        if len(those):
            place = int(camera[those[0]])
            lens = _lens(cameras.model_of(place), cameras.parameters[place : place + 1])
            plane = _undistorted(lens, (xy[those] - lens.principal_point) / lens.focal)
            rays[those] = np.column_stack([plane, np.full(len(those), lens.sign)])
    rays /= np.linalg.norm(rays, axis=1)[:, None]
    bad = np.flatnonzero(np.isnan(rays[:, 0]))
    if strict and len(bad):
        place, (at_x, at_y) = int(camera[bad[0]]), xy[bad[0]]
        raise ConfigError(
            f"camera {cameras.ids[place]} ({cameras.model_of(place).name}) shows nothing at pixel "
            f"({at_x:g}, {at_y:g}): its distortion folds the image before; correct its parameters, "
            "or leave this pixel out"
        )
    return rays


def world_rays(cameras: Cameras, images: Images, seen: Observations) -> np.ndarray:
    """Unit vectors of the world along which observations look: (n, 3), NaN where none does. ::

    world_rays(reconstruction.cameras, reconstruction.images, reconstruction.observations)
    """
    ray = unproject(cameras, images.camera[seen.image], seen.xy)
    return rotations.rotate(rotations.conjugate(images.quaternion)[seen.image], ray)


def residuals(reconstruction: Reconstruction) -> tuple[np.ndarray, np.ndarray]:
    """Projected minus observed of this rank's observations, (n, 2) pixels, and depths, (n,).

    ::

        r, depth = residuals(reconstruction)
        np.linalg.norm(r[depth > 0], axis=1).mean()  # the mean reprojection error of this rank

    Those of points behind their camera are as `reconstruction.behind` says: kept, or 0 for both
    "zero" and "drop".
    """
    seen = reconstruction.observations
    difference, depth = np.empty((len(seen), 2)), np.empty(len(seen))
    point = seen.point
    for at in range(0, len(seen), _PIECE):
        piece = slice(at, at + _PIECE)
        difference[piece], depth[piece] = _residuals(reconstruction, point[piece], piece)
    if reconstruction.behind != "keep":
        difference[depth < NEAREST] = 0
    return difference, depth


def _residuals(
    reconstruction: Reconstruction, point: np.ndarray, piece: slice
) -> tuple[np.ndarray, np.ndarray]:
    images, image = reconstruction.images, reconstruction.observations.image[piece]
    camera = images.camera[image]
    with np.errstate(over="ignore", invalid="ignore"):
        x = rotations.rotate(images.quaternion[image], reconstruction.points.xyz[point])
        x += images.translation[image]
        xy = project(reconstruction.cameras, camera, x) - reconstruction.observations.xy[piece]
    return xy, depths(reconstruction.cameras, camera, x)


def centres(images: Images) -> np.ndarray:
    """Where the images were taken, -R^T t: (n, 3) in units of the world. ::

    centres(reconstruction.images)
    """
    return -rotations.rotate(rotations.conjugate(images.quaternion), images.translation)


class _Lens(NamedTuple):
    """What the parameters of a model mean: (n,) numbers each, of n cameras or of one."""

    sign: float  # of the axis along which it looks
    fisheye: bool
    focal: np.ndarray  # (n, 1) or (n, 2)
    principal_point: np.ndarray  # (n, 2)
    numerator: list[np.ndarray]  # coefficients of N, the constant first
    denominator: list[np.ndarray]  # of D
    tilt: tuple[np.ndarray, np.ndarray] | None  # p1 and p2


def _lens(model: CameraModel, parameters: np.ndarray) -> _Lens:
    """parameters : (n, PARAMETERS)"""
    fisheye = "FISHEYE" in model.name
    value = {name: parameters[:, i] for i, name in enumerate(model.parameters)}
    one = np.ones_like(parameters[:, 0])
    names = ("k", "k1", "k2", "k3", *(["k4"] if fisheye else []))
    centre = model.principal_point
    return _Lens(
        -1.0 if model.name == "BAL" else 1.0,
        fisheye,
        parameters[:, model.focal],
        parameters[:, centre] if centre else np.zeros((1, 2)),
        [one, *(value[name] for name in names if name in value)],
        [one, *(value[name] for name in ("k4", "k5", "k6") if name in value and not fisheye)],
        (value["p1"], value["p2"]) if "p1" in value else None,
    )


def _distorted(lens: _Lens, plane: np.ndarray) -> np.ndarray:
    """(u, v) after the distortion: (n, 2) to (n, 2)."""
    u, v = plane[:, 0], plane[:, 1]
    squared = u * u + v * v
    scale, t_squared = np.ones_like(squared), squared
    if lens.fisheye:
        r = np.sqrt(squared)
        centre = np.abs(squared) < 1e-12  # atan(r) / r is smooth there: 1 - r^2 / 3 + r^4 / 5 - ...
        scale = np.where(centre, 1 - squared / 3, np.arctan(r) / np.where(centre, 1, r))
        t_squared = scale * scale * squared
    scale = scale * _value(lens.numerator, t_squared) / _value(lens.denominator, t_squared)
    out = scale[:, None] * plane
    if lens.tilt:
        p1, p2 = lens.tilt
        out[:, 0] += 2 * p1 * u * v + p2 * (squared + 2 * u * u)
        out[:, 1] += 2 * p2 * u * v + p1 * (squared + 2 * v * v)
    return out


def _undistorted(lens: _Lens, target: np.ndarray) -> np.ndarray:
    """(u, v) that one camera distorts to `target`: (n, 2), NaN where there is none."""
    distance = np.linalg.norm(target, axis=1)
    t = _inverse(lens, distance)
    r = np.tan(t) if lens.fisheye else t
    plane = np.where(distance > 0, r / np.where(distance > 0, distance, 1), 1)[:, None] * target
    if lens.tilt and any(p[0] != 0 for p in lens.tilt):
        return _newton(lens, plane, target)
    return plane


def _inverse(lens: _Lens, distance: np.ndarray) -> np.ndarray:
    """t of g(t) = distance before the fold, NaN where there is none: Newton within a bracket."""
    low, high = np.zeros_like(distance), np.full_like(distance, min(_fold(lens), 1e9))
    t = np.minimum(distance, high / 2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        none = ~(distance <= _radial(lens, high)[0])
        for _ in range(_STEPS):
            value, slope = _radial(lens, t)
            above = value > distance
            high, low = np.where(above, t, high), np.where(above, low, t)
            step = t - (value - distance) / slope
            new = np.where((step >= low) & (step <= high), step, (low + high) / 2)
            done = np.abs(new - t) <= _CLOSE * t
            t = new
            if (done | none).all():
                break
    return np.where(none, np.nan, t)


def _radial(lens: _Lens, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """g(t) and its derivative."""
    s = t * t
    upper, lower = _value(lens.numerator, s), _value(lens.denominator, s)
    d_upper, d_lower = _slope(lens.numerator, s), _slope(lens.denominator, s)
    ratio = upper / lower
    return t * ratio, ratio + 2 * s * (d_upper - ratio * d_lower) / lower


def _fold(lens: _Lens) -> float:
    """The smallest t > 0 where g stops growing: where g' = 0, or D = 0; pi / 2 at most of fisheyes.

    D^2 g' = N D + 2 s (N' D - N D') in s = t^2.
    """
    n, d = (np.array([float(c[0]) for c in each]) for each in (lens.numerator, lens.denominator))
    slopes = polynomial.polysub(
        polynomial.polymul(polynomial.polyder(n), d), polynomial.polymul(n, polynomial.polyder(d))
    )
    growth = polynomial.polyadd(polynomial.polymul(n, d), 2 * polynomial.polymulx(slopes))
    roots = [polynomial.polyroots(np.trim_zeros(each, "b")) for each in (growth, d)]
    real = [r.real for r in np.concatenate(roots) if abs(r.imag) < 1e-9 * abs(r) and r.real > 0]
    return min([np.sqrt(min(real, default=np.inf)), np.pi / 2 if lens.fisheye else np.inf])


def _newton(lens: _Lens, plane: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`plane` improved until `_distorted` of it is `target`, derivatives by complex steps."""
    limit, tiny = _fold(lens), 1e-30
    steps = 1j * tiny * np.eye(2)
    det = np.ones(len(plane))
    with np.errstate(all="ignore"):
        for _ in range(_NEWTON):
            wrong = _distorted(lens, plane) - target
            a, c = np.imag(_distorted(lens, plane + steps[0])).T / tiny
            b, d = np.imag(_distorted(lens, plane + steps[1])).T / tiny
            det = a * d - b * c
            step = np.column_stack(
                [d * wrong[:, 0] - b * wrong[:, 1], a * wrong[:, 1] - c * wrong[:, 0]]
            )
            step /= det[:, None]
            plane = plane - step
            if not (np.abs(step) > _CLOSE * (1 + np.abs(plane))).any():
                break
        wrong = np.linalg.norm(_distorted(lens, plane) - target, axis=1)
        good = (wrong < 1e-12 * (1 + np.linalg.norm(target, axis=1))) & (det > 0)
        good &= np.linalg.norm(plane, axis=1) < limit
    return np.where(good[:, None], plane, np.nan)


def _value(coefficients: list[np.ndarray], s: np.ndarray) -> np.ndarray:
    result = coefficients[-1] + 0 * s
    for each in coefficients[-2::-1]:
        result = result * s + each
    return result


def _slope(coefficients: list[np.ndarray], s: np.ndarray) -> np.ndarray:
    return _value([k * c for k, c in enumerate(coefficients)][1:] or [0 * s], s)
