"""Small scenes for bundle adjustment, and its normal equations in a few lines of NumPy."""

import numpy as np
from mpi4py import MPI

from hpckit.sfm import projection, rotations
from hpckit.sfm.cameras import PARAMETERS, Cameras
from hpckit.sfm.distribute import from_arrays
from hpckit.sfm.reconstruction import Images

RADIAL = ("RADIAL", 2000, 1500, [1500.0, 1000.0, 750.0, -0.05, 0.02])
PINHOLE = ("PINHOLE", 2000, 1500, [1400.0, 1450.0, 1000.0, 750.0])
OPENCV = ("OPENCV", 2000, 1500, [1400.0, 1450.0, 1000.0, 750.0, -0.1, 0.05, 1e-3, -2e-3])
FULL = ("FULL_OPENCV", 2000, 1500, [1400.0, 1450.0, 1000.0, 750.0, *[0.01] * 8])
FISHEYE = ("OPENCV_FISHEYE", 2000, 1500, [900.0, 910.0, 1000.0, 750.0, -0.02, 0.01, 0.0, 0.0])
BAL = ("BAL", 0, 0, [1500.0, -0.05, 0.02])


def ring(
    comm=MPI.COMM_SELF, cameras=(RADIAL,), images=6, points=30, noise=1.0, seed=1, repeat=True
):
    """Images on a circle that look at points in the middle; cameras take turns.

    Each point is seen by some images, some by one image twice.
    """
    rng = np.random.default_rng(seed)
    made = Cameras.of(*cameras)
    camera = np.arange(images) % len(cameras)
    angle = 2 * np.pi * np.arange(images) / images
    centre = 5 * np.stack([np.cos(angle), np.sin(angle), rng.uniform(-0.2, 0.2, images)], axis=1)
    forward = -centre / np.linalg.norm(centre, axis=1)[:, None]
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=1)[:, None]
    rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
    flip = np.where(made.model[camera] == -1, -1.0, 1.0)
    rotation[:, 1:] *= flip[:, None, None]
    quaternion = rotations.from_matrix(rotation)
    translation = -rotations.rotate(quaternion, centre)
    xyz = rng.uniform(-1, 1, (points, 3))
    seen = rng.random((points, images)) < 0.7
    seen[:, :2] = True
    point, image = np.nonzero(seen)
    if repeat:
        again = rng.choice(len(point), 5)
        point, image = np.append(point, point[again]), np.append(image, image[again])
    x = rotations.rotate(quaternion[image], xyz[point]) + translation[image]
    xy = projection.project(made, camera[image], x)
    xy = xy + noise * rng.normal(size=xy.shape)
    # Away from the solution, the same in each problem of this seed.
    xyz = xyz + 0.02 * rng.normal(size=xyz.shape)
    quaternion = rotations.multiply(rotations.exp(0.01 * rng.normal(size=(images, 3))), quaternion)
    translation = translation + 0.02 * rng.normal(size=translation.shape)
    poses = Images.of([f"{i}.jpg" for i in range(images)], camera, quaternion, translation)
    return from_arrays(made, poses, xyz, point, image, xy, comm=comm)


def jacobians(reconstruction):
    """r (n, 2), and its derivatives by pose (n, 2, 6), parameters (n, 2, 12) and point (n, 2, 3).

    By complex steps through NumPy's projection: rotations exp(w) R, for w = 0.
    """
    images, seen = reconstruction.images, reconstruction.observations
    image, point = seen.image, seen.point
    camera = images.camera[image]
    q = rotations.rotate(images.quaternion[image], reconstruction.points.xyz[point])
    t = images.translation[image]
    h = 1e-30

    def pixels(x, parameters=None):
        cameras = reconstruction.cameras.copy()
        if parameters is not None:
            cameras.parameters = parameters
        return projection.project(cameras, camera, x)

    r = pixels(q + t) - seen.xy
    pose, lens = np.empty((len(image), 2, 6)), np.zeros((len(image), 2, PARAMETERS))
    by_point = np.empty((len(image), 2, 3))
    for i in range(3):
        e = np.eye(3)[i] * 1j * h
        pose[:, :, i] = pixels(q + t + np.cross(np.broadcast_to(e, q.shape), q)).imag / h
        pose[:, :, 3 + i] = pixels(q + t + e).imag / h
        turned = rotations.to_matrix(images.quaternion[image])[:, :, i] * 1j * h
        by_point[:, :, i] = pixels(q + t + turned).imag / h
    for i in range(PARAMETERS):
        changed = reconstruction.cameras.parameters.astype(complex)
        changed[:, i] += 1j * h
        lens[:, :, i] = pixels((q + t).astype(complex), changed).imag / h
    return r, pose, lens, by_point
