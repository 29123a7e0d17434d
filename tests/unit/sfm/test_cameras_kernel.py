"""Kernels of camera models against NumPy's projection, derivatives by complex steps."""

import numpy as np
import pytest

from hpckit import native
from hpckit.native import address
from hpckit.sfm import projection
from hpckit.sfm.cameras import MODELS, PARAMETERS, Cameras

STEP = 1e-30


def camera(name, rng):
    """One of that model with a distortion that does not fold in view."""
    parameters = []
    for parameter in MODELS[name].parameters:
        if parameter.startswith("f"):
            parameters.append(rng.uniform(800, 1200))
        elif parameter.startswith("c"):
            parameters.append(rng.uniform(300, 700))
        else:
            parameters.append(rng.uniform(-0.05, 0.05))
    return Cameras.of((name, 1000, 1000, parameters))


def kernel(cameras, x):
    """Pixels, and derivatives by the point and by the parameters."""
    n = len(x)
    xy, by_point, by_parameter = np.empty((n, 2)), np.zeros((n, 2, 3)), np.zeros((n, 2, PARAMETERS))
    of = np.zeros(n, np.int32)
    arrays = (cameras.model, of, cameras.parameters, x, xy, by_point, by_parameter)
    native.load("hpckit.sfm.kernels.cameras").project(n, *map(address, arrays))
    return xy, by_point, by_parameter


def points(name, rng, n=50):
    x = rng.uniform([-1, -1, 2], [1, 1, 4], (n, 3))
    x[0, :2] = 0  # on the axis
    x[1, :2] = 1e-9
    x[2, :2] = 0.03, 0.06  # near where fisheyes change from series to atan
    return x * [1, 1, -1] if name == "BAL" else x


@pytest.mark.parametrize("name", MODELS)
def test_pixels_and_derivatives(name):
    rng = np.random.default_rng(3)
    cameras = camera(name, rng)
    x = points(name, rng)
    of = np.zeros(len(x), int)
    xy, by_point, by_parameter = kernel(cameras, x)
    np.testing.assert_allclose(xy, projection.project(cameras, of, x), rtol=1e-12, atol=1e-10)
    for i in range(3):
        moved = x.astype(complex)
        moved[:, i] += 1j * STEP
        expected = projection.project(cameras, of, moved).imag / STEP
        scale = np.abs(by_point).max()
        # Not those on the axis, where the reference divides by r.
        np.testing.assert_allclose(by_point[2:, :, i], expected[2:], atol=1e-11 * scale)
    count = len(MODELS[name].parameters)
    for i in range(count):
        changed = cameras.copy()
        changed.parameters = cameras.parameters.astype(complex)
        changed.parameters[0, i] += 1j * STEP
        expected = projection.project(changed, of, x.astype(complex)).imag / STEP
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(by_parameter[..., i], expected, atol=1e-12 * scale, rtol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_on_the_axis_all_is_smooth(name):
    rng = np.random.default_rng(4)
    cameras = camera(name, rng)
    sign = -1.0 if name == "BAL" else 1.0
    at = kernel(cameras, np.array([[0.0, 0.0, sign]]))
    near = kernel(cameras, np.array([[1e-8, 0.0, sign]]))
    for a, b in zip(at, near, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=2e-5)
        assert np.isfinite(a).all()
