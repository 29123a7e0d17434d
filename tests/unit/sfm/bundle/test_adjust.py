"""Bundle adjustment on public and generated problems with known optima."""

import json

import numpy as np
import pytest
from bundle_scenes import BAL, RADIAL, ring
from mpi4py import MPI
from scenes import data

from hpckit.errors import ConfigError
from hpckit.sfm import rotations
from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.cameras import MODELS
from hpckit.sfm.distribute import gather
from hpckit.sfm.formats import read
from hpckit.sfm.losses import Cauchy, Huber, SoftL1

LADYBUG = "bal/ladybug-problem-49-7776-pre.txt"
TRAFALGAR = "bal/trafalgar-problem-21-11315-pre.txt"


def run(comm, name, trust="tracks", **options):
    reconstruction = read(data(name), comm, trust=trust)
    return bundle_adjust(reconstruction, **options), reconstruction


def digits(value, expected, n):
    """Equal to `n` significant digits."""
    assert value == pytest.approx(expected, rel=0.6 * 10.0 ** (1 - n))


# Starts and optima of the cases' README: COLMAP's, and of a solver of the cases' own.
KNOWN = {
    "cases/real/crane_mast": (5841.3354, 5837.894924, {"ftol": 1e-10}),
    "cases/real/maupertuis/reconstruction": (403.49049, 403.480434, {"ftol": 1e-10}),
    "cases/libmv/problem_03": (297.9946766, 297.0423696, {"ftol": 1e-9}),
    "cases/synthetic/shared_intrinsics/start": (349964.8992504, 216.0820453, {"ftol": 1e-10}),
    "cases/real/Balbianello.out": (126.928323, 125.169594, {"ftol": 1e-10}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_optima(comm, name):
    start, end, options = KNOWN[name]
    result, _ = run(comm, name, **options)
    assert result.initial_cost == pytest.approx(start, rel=2e-8)
    assert result.cost == pytest.approx(end, rel=2e-9)
    assert result.termination == "converged_f"
    images = result.eliminated == "poses"
    assert images == ("libmv" in name)


def test_poses_with_a_long_valley(comm):
    result, reconstruction = run(comm, "cases/libmv/problem_01", ftol=1e-9, max_iterations=200)
    assert result.cost == pytest.approx(4530.465015907, rel=1e-9)
    assert reconstruction.cameras.parameters[0, 0] == pytest.approx(8106.84, rel=1e-4)


@pytest.mark.parametrize("solver", ["dense", "pcg"])
def test_ladybug(comm, solver):
    result, _ = run(comm, LADYBUG, solver=solver)
    digits(result.initial_cost, 8.509125e5, 7)
    assert result.cost <= 1.334436e4 * 1.0001


def test_ladybug_with_points_behind_as_in_colmap(comm):
    result, _ = run(comm, LADYBUG, behind="zero")
    digits(result.initial_cost, 8.508021e5, 7)
    assert result.cost <= 1.33086e4


@pytest.mark.parametrize("side", ["points", "poses"])
def test_trafalgar(comm, side):
    solver = "dense" if side == "points" else "pcg"
    result, _ = run(comm, TRAFALGAR, eliminate=side, solver=solver)
    digits(result.initial_cost, 4.413239e6, 7)
    assert result.cost <= 3.037864e4 * 1.0001
    assert result.rms_px == pytest.approx(np.sqrt(2 * result.cost / 36455), rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "best"), [(Huber(1.0), 7650.43), (Cauchy(1.0), None), (SoftL1(1.0), None)]
)
def test_robust_losses(comm, loss, best):
    """Ceres' Huber optimum is not lower; no step goes up, and the gradient falls."""
    result, _ = run(comm, LADYBUG, loss=loss, max_iterations=60)
    costs = [step.cost for step in result.history]
    assert (np.diff(costs) <= 0).all()
    assert best is None or result.cost <= 1.001 * best
    assert result.history[-1].gradient < 0.1 * result.history[0].gradient


@pytest.mark.parametrize("solver", ["dense", "pcg"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "BAL"])
def test_without_noise_the_truth_comes_back(comm, name, solver):
    folder = f"cases/synthetic/zero_noise/{name}"
    result, found = run(comm, f"{folder}/start", solver=solver, ftol=0.0, max_iterations=100)
    expected = json.loads((data(folder) / "expected.json").read_text())
    assert result.cost < 1e-16 * result.observations
    parameters = found.cameras.parameters[0, : len(expected["params"])]
    # The eight coefficients of the quotient hardly differ in what they do: 1e-12 px are 1e-4 there.
    tolerance = 1e-3 if name == "FULL_OPENCV" else 1e-8
    np.testing.assert_allclose(parameters, expected["params"], rtol=tolerance)
    assert apart(found.images, np.array(expected["centres"])) < 1e-9


def apart(images, truth):
    """Largest distance of camera centres after the best similarity, as part of the extent."""
    centres = -rotations.rotate(rotations.conjugate(images.quaternion), images.translation)
    a, b = centres - centres.mean(axis=0), truth - truth.mean(axis=0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * np.diag(sign)).sum() / (a * a).sum()
    off = b - scale * a @ (u @ sign @ vt).T
    return np.linalg.norm(off, axis=1).max() / np.linalg.norm(np.ptp(truth, axis=0))


@pytest.mark.parametrize("start", ["start_local", "start_utm"])
def test_coordinates_of_millions(comm, start):
    result, found = run(
        comm, f"cases/synthetic/gps_scaled/{start}.txt", ftol=0.0, max_iterations=12
    )
    expected = json.loads((data("cases/synthetic/gps_scaled") / "expected.json").read_text())
    assert result.initial_cost == pytest.approx(expected["start_cost"], rel=1e-6)
    assert result.cost < 1e-8
    assert apart(found.images, np.array(expected["centres"])) < 1e-6


def test_scenes_of_cost_zero(comm):
    for name, warnings in (("components", 1), ("one_point_in_all", 0)):
        result, _ = run(comm, f"cases/synthetic/{name}/start", ftol=0.0, max_iterations=60)
        assert result.cost < 1e-16 * result.observations
        assert len(result.warnings) == warnings
    result, _ = run(comm, "cases/real/dubrovnik-3-7-pre.txt", ftol=0.0, max_iterations=200)
    assert result.initial_cost == pytest.approx(2764.219984, rel=1e-9)
    assert result.cost < 1e-18


def test_no_depth_and_no_scale_end_with_numbers(comm):
    for name, warnings in (("pure_rotation", 1), ("planar_free_focal", 0)):
        result, found = run(comm, f"cases/synthetic/{name}/truth")
        assert len(result.warnings) == warnings
        assert result.cost < 1e-16
        assert np.isfinite(found.images.translation).all()
        assert np.isfinite(found.points.xyz).all()


def test_what_images_leave_open_is_a_warning(comm, caplog):
    """Two parts, in a sentence; where priors or fixed poses say where they are, there is none."""
    name = "cases/synthetic/components/start"
    result, _ = run(comm, name, max_iterations=3)
    (sentence,) = result.warnings
    assert "2 parts that share no point, of 5, 4 images" in sentence
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == (
        [sentence] if comm.rank == 0 else []
    )
    assert not run(comm, name, max_iterations=3, fix={"poses": [1]})[0].warnings
    (sentence,) = run(comm, "cases/synthetic/pure_rotation/truth")[0].warnings
    assert "stand at one place: 50 of 50 points" in sentence


@pytest.mark.parametrize("behind", ["keep", "zero", "drop"])
def test_points_behind_a_camera(comm, behind):
    options = {"fix": {"poses": True, "intrinsics": True}, "behind": behind}
    result, found = run(comm, "cases/synthetic/behind/start", **options)
    assert np.isfinite(result.cost) and result.cost <= result.initial_cost
    assert np.isfinite(found.points.xyz).all()
    assert result.dropped.behind == (6 if behind == "drop" else 0)


def test_one_view_fixes_nothing(comm):
    for name, points in (("dubrovnik-1-1-pre.txt", 1), ("all_points_one_view", 1000)):
        result, _ = run(comm, f"cases/real/{name}", trust="images")
        assert result.termination == "no_residuals"
        assert "one view fixes nothing" in result.message
        assert result.dropped.one_view == points


def test_points_seen_once_stay(comm):
    reconstruction = ring(comm, points=20, repeat=False)
    seen = reconstruction.observations
    lonely = reconstruction.points.ids % 5 == 0
    keep = ~np.repeat(lonely, np.diff(seen.start))
    keep[seen.start[:-1][lonely]] = True
    seen.start = np.concatenate([[0], np.cumsum(keep)])[seen.start]
    seen.image, seen.xy, seen.keypoint = seen.image[keep], seen.xy[keep], seen.keypoint[keep]
    before = reconstruction.points.xyz.copy()
    result = bundle_adjust(reconstruction)
    assert result.dropped.points.tolist() == reconstruction.points.ids[lonely].tolist()
    assert result.dropped.one_view == 4
    np.testing.assert_array_equal(
        (reconstruction.points.xyz != before).any(axis=1), ~lonely & (np.diff(seen.start) > 0)
    )


def test_what_is_fixed_keeps_its_bits(comm):
    reconstruction = ring(comm, cameras=(RADIAL, RADIAL), images=8)
    images, points = reconstruction.images.copy(), reconstruction.points.xyz.copy()
    cameras = reconstruction.cameras.copy()
    mask = reconstruction.points.ids % 3 == 0
    fix = {"poses": [1, 4], "points": mask, "cameras": [2], "intrinsics": ["distortion"]}
    result = bundle_adjust(reconstruction, fix=fix)
    assert result.cost < 0.2 * result.initial_cost
    now = reconstruction.images
    same = (now.quaternion == images.quaternion).all(axis=1) & (
        now.translation == images.translation
    ).all(axis=1)
    assert np.flatnonzero(same).tolist() == [0, 3]
    np.testing.assert_array_equal((reconstruction.points.xyz == points).all(axis=1), mask)
    changed = reconstruction.cameras.parameters != cameras.parameters
    assert np.argwhere(changed).tolist() == [[0, 0], [0, 1], [0, 2]]


def test_a_fixed_translation_stays(comm):
    reconstruction = ring(comm)
    before = reconstruction.images.copy()
    mask = np.zeros((6, 6), bool)
    mask[2, 3:] = True
    bundle_adjust(reconstruction, fix={"poses": mask})
    scale = np.abs(before.translation).max()
    np.testing.assert_allclose(
        reconstruction.images.translation[2], before.translation[2], atol=1e-14 * scale
    )
    assert (reconstruction.images.quaternion[2] != before.quaternion[2]).any()


def test_nothing_is_observed(comm):
    reconstruction = ring(comm)
    seen = reconstruction.observations
    seen.start = np.zeros_like(seen.start)
    seen.image, seen.xy, seen.keypoint = seen.image[:0], seen.xy[:0], seen.keypoint[:0]
    result = bundle_adjust(reconstruction)
    assert result.termination == "no_residuals" and result.observations == 0
    assert result.dropped.images.tolist() == reconstruction.images.ids.tolist()


def test_images_that_see_nothing_stay(comm):
    reconstruction = ring(comm, images=8, repeat=False)
    seen = reconstruction.observations
    keep = seen.image != 5
    seen.start = np.concatenate([[0], np.cumsum(keep)])[seen.start]
    seen.image, seen.xy, seen.keypoint = seen.image[keep], seen.xy[keep], seen.keypoint[keep]
    before = reconstruction.images.copy()
    result = bundle_adjust(reconstruction)
    assert result.dropped.images.tolist() == [6]
    moved = (reconstruction.images.translation != before.translation).any(axis=1)
    assert np.flatnonzero(~moved).tolist() == [5]


def test_all_fixed(comm):
    reconstruction = ring(comm)
    result = bundle_adjust(reconstruction, fix={"poses": True, "intrinsics": True, "points": True})
    assert result.termination == "all_fixed"


@pytest.mark.parametrize("side", ["points", "poses"])
def test_points_alone(comm, side):
    """Triangulation: each point is a least-squares problem of its own, as SciPy solves it."""
    from scipy.optimize import least_squares

    reconstruction = ring(comm, points=6)
    truth = ring(points=6)
    fix = {"poses": True, "intrinsics": True}
    bundle_adjust(reconstruction, fix=fix, ftol=1e-14, eliminate=side)
    from hpckit.sfm import projection

    seen, images = truth.observations, truth.images
    for p in reconstruction.points.ids - 1:
        those = slice(seen.start[p], seen.start[p + 1])
        image = seen.image[those]

        def residual(x, image=image, those=those):
            moved = rotations.rotate(images.quaternion[image], x) + images.translation[image]
            pixels = projection.project(truth.cameras, images.camera[image], moved)
            return (pixels - seen.xy[those]).ravel()

        best = least_squares(residual, truth.points.xyz[p], xtol=1e-15, ftol=1e-15, gtol=1e-15).x
        mine = reconstruction.points.xyz[reconstruction.points.ids == p + 1][0]
        np.testing.assert_allclose(mine, best, atol=1e-7)


@pytest.mark.parametrize("solver", ["dense", "pcg"])
@pytest.mark.parametrize("side", ["points", "poses"])
@pytest.mark.parametrize("loss", [None, Huber(1.0)])
def test_same_bits_on_any_number_of_ranks(comm, solver, side, loss):
    options = {"solver": solver, "eliminate": side, "loss": loss, "reproducible": True}
    cameras = (RADIAL,) * 2 if solver == "dense" else (BAL,) * 6
    alone, shared = ring(cameras=cameras), ring(comm, cameras=cameras)
    one, other = bundle_adjust(alone, **options), bundle_adjust(shared, **options)
    assert [step.cost for step in one.history] == [step.cost for step in other.history]
    whole = gather(shared)
    if whole is not None:
        for a, b in (
            (whole.points.xyz, alone.points.xyz),
            (whole.images.quaternion, alone.images.quaternion),
            (whole.images.translation, alone.images.translation),
            (whole.cameras.parameters, alone.cameras.parameters),
        ):
            assert a.tobytes() == b.tobytes()


def test_close_on_any_number_of_ranks(comm):
    alone, shared = ring(points=200), ring(comm, points=200)
    one, other = bundle_adjust(alone), bundle_adjust(shared)
    for a, b in zip(one.history[:5], other.history[:5], strict=True):
        assert a.cost == pytest.approx(b.cost, rel=1e-9)
    assert one.cost == pytest.approx(other.cost, rel=1e-6)


def test_more_ranks_than_points(comm):
    result = bundle_adjust(
        ring(comm, points=2, images=4), fix={"intrinsics": True}, max_iterations=5
    )
    assert np.isfinite(result.cost)


def test_images_and_cameras_are_the_same_on_all_ranks(comm):
    for side in ("points", "poses"):
        reconstruction = ring(comm)
        bundle_adjust(reconstruction, eliminate=side)
        images, parameters = reconstruction.images, reconstruction.cameras.parameters
        bits = images.quaternion.tobytes() + images.translation.tobytes() + parameters.tobytes()
        assert len(set(comm.allgather(bits))) == 1


WRONG = [
    ({"loss": 3.0}, "loss 3.0"),
    ({"solver": "magic"}, "solver 'magic'"),
    ({"behind": "yes"}, "behind 'yes'"),
    ({"eliminate": "all"}, "eliminate 'all'"),
    ({"max_iterations": -1}, "max_iterations -1"),
    ({"max_iterations": 2.5}, "max_iterations 2.5"),
    ({"ftol": -1.0}, "ftol -1.0"),
    ({"gtol": float("nan")}, "gtol nan"),
    ({"radius": 0.0}, "radius 0.0"),
    ({"fix": {"everything": True}}, "everything"),
    ({"fix": {"poses": [99]}}, "none of id 99"),
    ({"fix": {"poses": np.ones(3, bool)}}, "mask of shape"),
    ({"fix": {"intrinsics": "zoom"}}, "zoom"),
    ({"priors": ["here"]}, "neither PositionPrior"),
    ({"checkpoint_every": 0}, "checkpoint_every 0"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_wrong_arguments(comm, options, sentence):
    reconstruction = ring(comm)
    before = reconstruction.points.xyz.copy()
    with pytest.raises(ConfigError, match=sentence):
        bundle_adjust(reconstruction, **options)
    np.testing.assert_array_equal(reconstruction.points.xyz, before)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), "wide"])
def test_scales_of_losses_are_positive(scale):
    with pytest.raises(ConfigError, match="positive number of pixels"):
        Huber(scale)


def test_numbers_that_are_not_finite(comm):
    reconstruction = ring(comm)
    if len(reconstruction.points):
        reconstruction.points.xyz[0, 0] = np.nan
    with pytest.raises(ConfigError, match="coordinates of a point are not finite"):
        bundle_adjust(reconstruction)


def test_ranks_that_ask_for_different_things(comm):
    if comm.size > 1:
        with pytest.raises(ConfigError, match="must be the same on all ranks"):
            bundle_adjust(ring(comm), max_iterations=5 + comm.rank)


def test_callback_hears_each_iteration(comm):
    heard = []
    result = bundle_adjust(ring(comm), callback=heard.append)
    assert heard == result.history  # the start first
    assert [step.number for step in result.history] == list(range(len(result.history)))


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("side", ["points", "poses"])
def test_a_resumed_solve_has_the_same_bits(comm, shared_path, side, reproducible):
    options = {"eliminate": side, "ftol": 0.0, "gtol": 1e-9, "reproducible": reproducible}
    straight = ring(comm, cameras=(BAL,) * 6)
    whole = bundle_adjust(straight, max_iterations=8, **options)
    folder = shared_path / "checkpoint"
    broken = ring(comm, cameras=(BAL,) * 6)
    first = bundle_adjust(
        broken, max_iterations=3, checkpoint=folder, checkpoint_every=2, **options
    )
    assert first.termination == "max_iterations"
    # On one rank too, where the sums are made for that.
    alone = reproducible and comm.size > 1
    again = ring(MPI.COMM_SELF if alone else comm, cameras=(BAL,) * 6)
    if not alone or comm.rank == 0:
        rest = bundle_adjust(again, max_iterations=8, checkpoint=folder, resume=True, **options)
        assert [s.cost for s in rest.history] == [s.cost for s in whole.history]
    comm.Barrier()
    images = again.images if not alone or comm.rank == 0 else straight.images
    assert images.translation.tobytes() == straight.images.translation.tobytes()


def test_a_checkpoint_of_another_solve(comm, shared_path):
    folder = shared_path / "checkpoint"
    bundle_adjust(ring(comm), max_iterations=2, checkpoint=folder)
    with pytest.raises(ConfigError):
        bundle_adjust(ring(comm, points=40), checkpoint=folder, resume=True)
