"""Projection against formulas written out per model, and rays against projection."""

import numpy as np
import pytest

from hpckit.errors import ConfigError
from hpckit.sfm.cameras import MODELS, Cameras
from hpckit.sfm.projection import depths, project, unproject

PARAMETERS = {
    "BAL": [800, -0.05, 0.01],
    "SIMPLE_PINHOLE": [1500, 1000, 750],
    "PINHOLE": [1500, 1480, 1003, 745],
    "SIMPLE_RADIAL": [1500, 1000, 750, -0.08],
    "RADIAL": [1500, 1000, 750, -0.1, 0.03],
    "OPENCV": [1500, 1490, 1001, 748, -0.12, 0.05, 0.001, -0.0008],
    "OPENCV_FISHEYE": [900, 895, 1001, 748, -0.02, 0.05, -0.03, 0.004],
    "FULL_OPENCV": [1500, 1490, 1001, 748, 0.2, -0.05, 1e-3, -8e-4, 0.01, 0.3, 0.02, 0.005],
    "SIMPLE_RADIAL_FISHEYE": [900, 1000, 750, -0.03],
    "RADIAL_FISHEYE": [900, 1000, 750, -0.03, 0.01],
}


def _expected(name: str, p: list[float], x: np.ndarray) -> list[float]:
    """One point, as the manuals of COLMAP, OpenCV and BAL write it."""
    u, v = x[0] / x[2], x[1] / x[2]
    s = u * u + v * v
    r, theta = np.sqrt(s), np.arctan(np.sqrt(s))
    match name:
        case "BAL":
            scale = p[0] * (1 + p[1] * s + p[2] * s * s)
            return [-u * scale, -v * scale]
        case "SIMPLE_PINHOLE":
            return [p[0] * u + p[1], p[0] * v + p[2]]
        case "PINHOLE":
            return [p[0] * u + p[2], p[1] * v + p[3]]
        case "SIMPLE_RADIAL" | "RADIAL":
            scale = p[0] * (1 + p[3] * s + (p[4] * s * s if name == "RADIAL" else 0))
            return [scale * u + p[1], scale * v + p[2]]
        case "OPENCV" | "FULL_OPENCV":
            k1, k2, p1, p2, k3, k4, k5, k6 = [*p[4:], 0, 0, 0, 0][:8]
            radial = 1 + k1 * s + k2 * s**2 + k3 * s**3
            radial /= 1 + k4 * s + k5 * s**2 + k6 * s**3
            du = u * radial + 2 * p1 * u * v + p2 * (s + 2 * u * u)
            dv = v * radial + 2 * p2 * u * v + p1 * (s + 2 * v * v)
            return [p[0] * du + p[2], p[1] * dv + p[3]]
    focal, k = ([p[0]] * 2, p[3:]) if name != "OPENCV_FISHEYE" else (p[:2], p[4:])
    centre = p[1:3] if name != "OPENCV_FISHEYE" else p[2:4]
    bent = theta * (1 + sum(c * theta ** (2 * i + 2) for i, c in enumerate(k)))
    return [focal[0] * bent * u / r + centre[0], focal[1] * bent * v / r + centre[1]]


def _scene(n: int = 40):
    """One camera of each model, and points in front of each."""
    cameras = Cameras.of(*((name, 2000, 1500, PARAMETERS[name]) for name in MODELS))
    rng = np.random.default_rng(3)
    camera = np.repeat(np.arange(len(cameras)), n)
    x = np.column_stack([rng.uniform(-0.7, 0.7, (len(camera), 2)), np.ones(len(camera))])
    x *= rng.uniform(0.1, 10, (len(camera), 1))
    x[cameras.model[camera] == -1] *= -1
    order = rng.permutation(len(camera))
    return cameras, camera[order], x[order]


def test_project():
    cameras, camera, x = _scene()
    expected = [
        _expected(cameras.model_of(c).name, PARAMETERS[cameras.model_of(c).name], each)
        for c, each in zip(camera, x, strict=True)
    ]
    np.testing.assert_allclose(project(cameras, camera, x), expected, rtol=1e-13, atol=1e-11)
    assert (depths(cameras, camera, x) > 0).all()


def test_on_the_axis():
    cameras, camera, x = _scene(1)
    x[:, :2] = 0
    centre = [cameras.parameters[c, cameras.model_of(c).principal_point] for c in camera]
    expected = [c if len(c) else [0, 0] for c in centre]
    np.testing.assert_array_equal(project(cameras, camera, x), expected)
    rays = unproject(cameras, camera, np.array(expected, float))
    np.testing.assert_array_equal(rays, np.sign(x[:, 2:]) * [0, 0, 1])


def test_derivative_by_complex_step():
    cameras, camera, x = _scene(5)
    along, h = np.array([1.0, 0, 0]), 1e-6
    difference = project(cameras, camera, x + h * along) - project(cameras, camera, x - h * along)
    exact = project(cameras, camera, x + 1e-30j * along).imag / 1e-30
    np.testing.assert_allclose(difference / (2 * h), exact, rtol=1e-5, atol=1e-4)


def test_rays():
    cameras, camera, x = _scene()
    rays = unproject(cameras, camera, project(cameras, camera, x))
    np.testing.assert_allclose(rays, x / np.linalg.norm(x, axis=1)[:, None], atol=1e-13)


def test_no_ray_beyond_the_fold():
    """r (1 - 0.3 r^2) grows up to r = 1 / sqrt(0.9), where it is 0.7027."""
    cameras = Cameras.of(("SIMPLE_RADIAL", 0, 0, [100.0, 0, 0, -0.3]))
    xy = np.array([[70.27, 0], [0, -70.28], [50, 50.0]])
    rays = unproject(cameras, np.zeros(3, int), xy)
    assert np.isfinite(rays[0]).all() and np.isnan(rays[1:]).all()
    back = project(cameras, np.zeros(1, int), rays[:1])
    np.testing.assert_allclose(back, xy[:1])
    with pytest.raises(ConfigError, match=r"camera 1 \(SIMPLE_RADIAL\).*pixel \(0, -70\.28\)"):
        unproject(cameras, np.zeros(3, int), xy, strict=True)


def test_no_ray_of_a_fisheye_beyond_half_a_turn():
    cameras = Cameras.of(("SIMPLE_RADIAL_FISHEYE", 0, 0, [100.0, 0, 0, 0.0]))
    xy = np.array([[157.0, 0], [157.1, 0]])  # 100 pi / 2 = 157.08
    rays = unproject(cameras, np.zeros(2, int), xy)
    np.testing.assert_allclose(rays[0], [np.sin(1.57), 0, np.cos(1.57)], rtol=1e-9, atol=1e-12)
    assert np.isnan(rays[1]).all()


def test_pole():
    """r / (1 - r^2) goes to infinity at r = 1: all pixels have a ray within it."""
    cameras = Cameras.of(("FULL_OPENCV", 0, 0, [1.0, 1, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0]))
    ray = unproject(cameras, np.zeros(1, int), np.array([[30.0, 0]]))
    r = (-1 + np.sqrt(1 + 4 * 30**2)) / 60  # of 30 (1 - r^2) = r
    np.testing.assert_allclose(ray[0, 0] / ray[0, 2], r)


def test_nothing():
    cameras, camera, x = _scene()
    assert project(cameras, camera[:0], x[:0]).shape == (0, 2)
    assert unproject(cameras, camera[:0], x[:0, :2]).shape == (0, 3)
