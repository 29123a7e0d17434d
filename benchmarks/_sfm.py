"""Peers of `hpckit.sfm.bundle_adjust`, each in the form that suits it best, on one thread.

Each function takes what `pycolmap` or `read` made of a file and gives (how to prepare, what to
time, what the final cost is): preparing is not timed, and building the peer's problem is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpckit.sfm import rotations

TOLERANCE = 1e-6  # of the cost, relative: of all peers
ITERATIONS = 100


class Peer(NamedTuple):
    """A way to adjust: `prepare` is called before each timed `solve`, which returns the cost."""

    prepare: Callable[[], object]
    solve: Callable[[], float]


def colmap(path: Path) -> Peer:
    """COLMAP's own, with Ceres 2.2 and analytic derivatives: what `pip install pycolmap` gives."""
    import pycolmap  # type: ignore[import-not-found]

    pycolmap.logging.minloglevel = 2
    model: list[Any] = []
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    solver = options.ceres.solver_options
    solver.function_tolerance, solver.max_num_iterations = TOLERANCE, ITERATIONS
    solver.gradient_tolerance = solver.parameter_tolerance = 0
    solver.num_threads = 1

    def prepare() -> None:
        model[:] = [pycolmap.Reconstruction(str(path))]

    def solve() -> float:
        config = pycolmap.BundleAdjustmentConfig()
        for image in model[0].reg_image_ids():
            config.add_image(image)
        adjuster = pycolmap.create_default_bundle_adjuster(options, config, model[0])
        return adjuster.solve().ceres_summary.final_cost

    return Peer(prepare, solve)


def gtsam(path: Path) -> Peer:
    """GTSAM's optimizer for structure from motion, with the Schur complement and Ceres' rules."""
    import gtsam as peer  # type: ignore[import-not-found]

    data = peer.SfmData.FromBalFile(str(path))
    parameters = peer.SfmLevenbergMarquardtParams.ceresDefaults()
    parameters.setEliminationMode(peer.SfmEliminationMode.Schur)
    parameters.setRelativeErrorTol(TOLERANCE)
    parameters.setAbsoluteErrorTol(0.0)
    parameters.setMaxIterations(ITERATIONS)

    def solve() -> float:
        graph = data.sfmFactorGraph(peer.noiseModel.Isotropic.Sigma(2, 1.0), None, None)
        start = peer.initialCamerasAndPointsEstimate(data)
        optimizer = peer.SfmLevenbergMarquardtOptimizer(graph, start, parameters)
        return graph.error(optimizer.optimize())

    return Peer(lambda: None, solve)


def theia(path: Path) -> Peer:
    """Theia's own, of the fork that `pip install pytheia` gives: Ceres, automatic derivatives."""
    import pytheia  # type: ignore[import-not-found]

    peer = pytheia.sfm
    numbers, model = _bal(path), []
    options = peer.BundleAdjustmentOptions()
    options.num_threads, options.max_num_iterations = 1, ITERATIONS
    options.function_tolerance = TOLERANCE
    options.gradient_tolerance = options.parameter_tolerance = 0
    options.intrinsics_to_optimize = peer.OptimizeIntrinsicsType.FOCAL_LENGTH_RADIAL_DISTORTION
    options.use_inner_iterations = False

    def solve() -> float:
        return peer.BundleAdjustReconstruction(options, model[0]).final_cost

    return Peer(lambda: model.__setitem__(slice(None), [_theia_model(peer, *numbers)]), solve)


def _theia_model(
    peer: Any,
    camera: np.ndarray,
    point: np.ndarray,
    xy: np.ndarray,
    cameras: np.ndarray,
    points: np.ndarray,
) -> Any:
    """A BAL problem, whose cameras look along -z, with y down."""
    model, flip = peer.Reconstruction(), np.diag([1.0, -1.0, -1.0])
    views = [model.AddView(str(i), float(i)) for i in range(len(cameras))]
    for view, numbers in zip(views, cameras, strict=True):
        prior = peer.CameraIntrinsicsPrior()
        prior.camera_intrinsics_model_type = "PINHOLE"
        prior.image_width = prior.image_height = 2
        prior.focal_length.value, prior.aspect_ratio.value = [numbers[6]], [1.0]
        prior.skew.value, prior.principal_point.value = [0.0], [0.0, 0.0]
        prior.radial_distortion.value = [numbers[7], numbers[8], 0.0, 0.0]
        model.MutableView(view).SetIsEstimated(True)
        it = model.MutableView(view).MutableCamera()
        it.SetFromCameraIntrinsicsPriors(prior)
        rotation = rotations.to_matrix(rotations.exp(numbers[:3]))
        it.SetOrientationFromRotationMatrix(flip @ rotation)
        it.SetPosition(-rotation.T @ numbers[3:6])
    tracks = [model.AddTrack() for _ in points]
    for track, xyz in zip(tracks, points, strict=True):
        model.MutableTrack(track).SetPoint(np.append(xyz, 1.0))
        model.MutableTrack(track).SetIsEstimated(True)
    for i, j, pixel in zip(camera, point, xy * [1, -1], strict=True):
        model.AddObservation(views[i], tracks[j], peer.Feature(pixel))
    return model


def scipy(path: Path) -> Peer:
    """SciPy's cookbook recipe: `least_squares` with the sparsity of the Jacobian."""
    from scipy.optimize import least_squares
    from scipy.sparse import lil_matrix

    camera, point, xy, cameras, points = _bal(path)
    n, m = len(cameras), len(points)
    sparsity = lil_matrix((2 * len(xy), 9 * n + 3 * m), dtype=int)
    rows = 2 * np.arange(len(xy))
    for i in range(2):
        for k in range(9):
            sparsity[rows + i, 9 * camera + k] = 1
        for k in range(3):
            sparsity[rows + i, 9 * n + 3 * point + k] = 1

    def residuals(x: np.ndarray) -> np.ndarray:
        c, p = x[: 9 * n].reshape(n, 9)[camera], x[9 * n :].reshape(m, 3)[point]
        angle = np.linalg.norm(c[:, :3], axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            axis = np.nan_to_num(c[:, :3] / angle)
        along = (axis * p).sum(1, keepdims=True) * (1 - np.cos(angle))
        turned = np.cos(angle) * p + np.sin(angle) * np.cross(axis, p) + axis * along
        turned += c[:, 3:6]
        flat = -turned[:, :2] / turned[:, 2:]
        q = (flat**2).sum(1)
        scale = c[:, 6] * (1 + c[:, 7] * q + c[:, 8] * q * q)
        return (scale[:, None] * flat - xy).ravel()

    start = np.concatenate([cameras.ravel(), points.ravel()])

    def solve() -> float:
        options: dict[str, Any] = {"x_scale": "jac", "ftol": 1e-4, "method": "trf"}
        return least_squares(residuals, start, jac_sparsity=sparsity, **options).cost

    return Peer(lambda: None, solve)


def _bal(path: Path) -> tuple[np.ndarray, ...]:
    numbers = np.array(path.read_text().split(), float)
    cameras, points, n = map(int, numbers[:3])
    seen = numbers[3 : 3 + 4 * n].reshape(n, 4)
    rest = numbers[3 + 4 * n :]
    camera, point = seen[:, :2].astype(int).T
    return (
        camera,
        point,
        seen[:, 2:],
        rest[: 9 * cameras].reshape(cameras, 9),
        rest[9 * cameras :].reshape(points, 3),
    )
