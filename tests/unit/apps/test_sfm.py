"""The program for structure from motion from within: right on any ranks, restarts, bad input."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from scipy.spatial.transform import Rotation

from hpckit.apps.sfm import data, pictures
from hpckit.apps.sfm.config import Config, Generate, Rotations, Size
from hpckit.apps.sfm.errors import errors
from hpckit.apps.sfm.estimate import database_counts, estimate, problem_counts, shape_of, system
from hpckit.apps.sfm.job import TASKS, main
from hpckit.apps.sfm.monitor import Monitor
from hpckit.apps.sfm.pose_graph import off_truth, read_pose_graph
from hpckit.apps.sfm.tasks import adjust
from hpckit.apps.sfm.view import best_view, cloud
from hpckit.errors import Checkpointed, ConfigError
from hpckit.sfm import synthetic
from hpckit.sfm.formats import read, write
from hpckit.sfm.projection import centres

SCENE = Generate(scene="turntable", images=8, points_per_image=20)
ROOT = Path(__file__).parents[3]
LUND = ROOT / "apps/sfm/data/lund"


def _case(folder: Path, **more) -> Config:
    return Config(**{"generate": SCENE, "output": str(folder / "r"), "pictures": False, **more})


def _model(config: Config):
    return read(Path(config.output) / "model", MPI.COMM_SELF)


def _same_bits(one, other) -> None:
    for a, b in (
        (one.points.xyz, other.points.xyz),
        (one.images.quaternion, other.images.quaternion),
        (one.images.translation, other.images.translation),
        (one.cameras.parameters, other.cameras.parameters),
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.mpi
def test_bundle_adjustment_ends_where_statistics_say(comm, shared_path):
    said = main(comm, _case(shared_path))
    made = data.generate(MPI.COMM_SELF, SCENE)
    coordinates, points = 2 * len(made.truth.observations), len(made.truth.points)
    free = 8 * (6 + 3) + 3 * points - 7
    wanted = 0.5 * 0.6**2 * (coordinates - free)
    assert abs(said["cost"] - wanted) < 4 * 0.6**2 * np.sqrt((coordinates - free) / 2)
    assert said["error of the centres, rms % of the extent"] < 0.2
    assert said["cost, expected of the optimum"].startswith(f"{wanted:.6g}")
    model = _model(_case(shared_path))
    assert errors(model).cost == pytest.approx(said["cost"], rel=1e-6)


@pytest.mark.mpi
def test_reproducible_runs_of_any_ranks_give_the_same_bits(comm, shared_path):
    config = _case(shared_path, reproducible=True)
    main(comm, config)
    if comm.rank == 0:
        alone = _case(shared_path / "alone", reproducible=True)
        main(MPI.COMM_SELF, alone)
        _same_bits(_model(config), _model(alone))


@pytest.mark.mpi
def test_stopped_and_resumed_changes_no_bit(comm, shared_path, monkeypatch, forget_signals):
    whole = _case(shared_path / "whole", ftol=1e-12)
    main(comm, whole)
    call = Monitor.__call__

    def signalled(monitor, iteration):
        if iteration.number == 2 and comm.rank == comm.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return call(monitor, iteration)

    stopped = _case(shared_path / "stopped", ftol=1e-12)
    monkeypatch.setattr(Monitor, "__call__", signalled)
    with pytest.raises(Checkpointed, match=r"stopped after \d iterations: run again with --resume"):
        main(comm, stopped)
    assert not (Path(stopped.output) / "model").exists()
    monkeypatch.undo()
    comm.Barrier()
    stopped.resume = True
    forget_signals()
    main(comm, stopped)
    if comm.rank == 0:
        _same_bits(_model(whole), _model(stopped))


@pytest.mark.mpi
def test_info_counts(comm, shared_path, capsys):
    said = main(comm, _case(shared_path, task="info", input=str(LUND)))
    assert said["images"] == 29 and said["points"] == 976 and said["observations"] == 4099
    assert said["camera models"] == "1 SIMPLE_RADIAL" and said["components"] == "29 images"
    assert not (shared_path / "r").exists()


@pytest.mark.mpi
@pytest.mark.parametrize("target", ["out", "out.ply", "out.vtkhdf"])
def test_convert(comm, shared_path, target):
    path = shared_path / target
    main(comm, _case(shared_path, task="convert", input=str(LUND), target=str(path)))
    assert path.exists()
    if target == "out":
        one, other = read(path, MPI.COMM_SELF), read(LUND, MPI.COMM_SELF)
        np.testing.assert_array_equal(one.points.xyz, other.points.xyz)
        np.testing.assert_array_equal(one.observations.xy, other.observations.xy)
        np.testing.assert_allclose(one.images.quaternion, other.images.quaternion, atol=1e-15)


@pytest.mark.mpi
def test_positions_come_back(comm, shared_path):
    config = _case(shared_path, task="positions", generate=Generate(images=30), pictures=True)
    said = main(comm, config)
    assert said["off the input, most % of the extent"] < 0.5
    assert (Path(config.output) / "positions.png").stat().st_size > 5000


@pytest.mark.mpi
def test_triangulation_of_exact_rays_finds_the_truth(comm, shared_path):
    exact = Generate(scene="turntable", images=8, points_per_image=20, noise=0.0, drift=0.0)
    config = _case(shared_path, task="triangulate", generate=exact, pictures=True)
    said = main(comm, config)
    truth = data.generate(MPI.COMM_SELF, exact).truth
    assert said["points"] + said["points left out"] == len(truth.points)
    assert said["points left out"] < 10
    if comm.rank == 0:
        found = _model(config)
        at = np.searchsorted(truth.points.ids, found.points.ids)
        np.testing.assert_allclose(found.points.xyz, truth.points.xyz[at], atol=1e-6)


@pytest.mark.mpi
def test_rotations_survive_wrong_pairs(comm, shared_path):
    scene = Generate(scene="turntable", images=60, points_per_image=1)
    case = {"task": "rotations", "generate": scene, "pictures": True}
    config = _case(shared_path, **case, rotations=Rotations(noise=0.5, outliers=0.1))
    said = main(comm, config)
    assert said["images are off, median degrees"] < 0.6
    assert said["pairs that are off by more than 10 degrees"] > 10
    assert len((Path(config.output) / "rotations.txt").read_text().splitlines()) == 61
    assert (Path(config.output) / "angles.png").stat().st_size > 5000


@pytest.mark.mpi
def test_rotations_of_the_street_in_lund(comm, shared_path):
    database = str(ROOT / "apps/sfm/data/lund.db")
    config = _case(shared_path, task="rotations", input=database)
    said = main(comm, config)
    assert said["components"] == 1
    if comm.rank == 0:
        found = np.loadtxt(Path(config.output) / "rotations.txt")
        wanted = read(LUND, MPI.COMM_SELF).images
        at = np.searchsorted(wanted.ids, found[:, 0])
        off = off_truth(found[:, 1:], wanted.quaternion[at])
        assert np.degrees(np.median(off)) < 3 and len(found) == 29


@pytest.mark.mpi
def test_the_street_in_lund_is_mapped(comm, shared_path):
    database = str(ROOT / "apps/sfm/data/lund.db")
    config = _case(shared_path, task="map", input=database, pictures=True)
    said = main(comm, config)
    assert said["models"] == 1 and said["images"] == 29
    assert said["points"] >= 950 and said["observations"] >= 4000
    assert said["reprojection error, mean px"] <= 0.89
    if comm.rank == 0:
        assert len(read(Path(config.output) / "models/0", MPI.COMM_SELF).images) == 29


@pytest.mark.mpi
def test_pictures(comm, shared_path):
    main(comm, _case(shared_path, pictures=True, solver="pcg"))
    main(comm, _case(shared_path / "plot", task="plot", input=str(LUND), pictures=True))
    for name in ("r/scene.png", "r/errors.png", "r/cost.png", "plot/r/scene.png"):
        assert (shared_path / name).stat().st_size > 5000


@pytest.mark.mpi
def test_errors_are_those_of_numpy(comm):
    problem = data.generate(comm, SCENE)
    found = errors(problem.start)
    whole = data.generate(MPI.COMM_SELF, SCENE).start
    assert found.counts.sum() == len(whole.observations)
    alone = errors(whole)
    np.testing.assert_allclose(found.per_image, alone.per_image, rtol=1e-12)
    assert (found.cost, found.mean) == pytest.approx((alone.cost, alone.mean), rel=1e-12)
    assert np.average(found.per_image**2, weights=np.bincount(whole.observations.image)) == (
        pytest.approx(2 * found.cost / len(whole.observations))
    )


BAD = {
    "missing": ({"task": "info", "input": "none"}, "there is no .*none: give a file"),
    "no target": ({"task": "convert", "input": str(LUND)}, "convert needs a target"),
    "no input": ({"task": "map"}, "map needs an input"),
    "not a database": ({"task": "map", "input": "text.txt"}, "text.txt"),
    "no pose graph": ({"task": "rotations", "input": "text.txt"}, "it is no pose graph"),
    "bad edge": ({"task": "rotations", "input": "edge.txt"}, "edge.txt, line 2: .* is no edge"),
    "no model": ({"input": "text.txt"}, "text.txt, line 1"),
    "solver": ({"solver": "fast"}, "solver 'fast': give"),
    "all fixed": ({"fix": ("intrinsics", "poses", "points")}, "everything is fixed"),
    "one image": ({"generate": Generate(images=3)}, "3 images of a loop"),
    "model": ({"generate": Generate(model="LENS")}, "camera model 'LENS' is not known"),
    "output below a file": ({"output": "text.txt/r"}, "cannot write results to"),
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_on_all_ranks(comm, shared_path, name):
    if comm.rank == 0:
        (shared_path / "text.txt").write_text("nothing of the kind\n")
        (shared_path / "edge.txt").write_text("EDGE3 0 1 0 0 0 0 0 0\nEDGE3 0 x\n")
    comm.Barrier()
    wrong, message = BAD[name]
    config = _case(shared_path, **wrong)
    for key in ("input", "output"):
        if value := getattr(config, key):
            setattr(config, key, str(shared_path / value))
    with pytest.raises(ConfigError, match=message) as caught:
        main(comm, config)
    assert len(set(comm.allgather(str(caught.value)))) == 1
    assert not (Path(config.output) / "model").exists()


@pytest.mark.mpi
def test_points_with_one_view_are_nothing_to_adjust(comm, shared_path):
    lonely = synthetic.turntable(MPI.COMM_SELF, 2, 3).truth
    lonely.observations.image[:] = 0
    if comm.rank == 0:
        write(lonely, shared_path / "lonely")
    comm.Barrier()
    with pytest.raises(ConfigError, match="no point is seen by two images"):
        main(comm, _case(shared_path, input=str(shared_path / "lonely")))


def test_every_task_has_its_file():
    folder = Path(adjust.__file__).parent
    assert {f"{name}.py" for name in TASKS.values()} == {
        path.name for path in folder.glob("[a-z]*.py")
    }


def test_an_estimate_is_arithmetic():
    final = Size(images=13682, points=4456117, observations=28987644)
    text = estimate(Config(size=final), 512)
    assert "13,682 images" in text and "on 512 ranks" in text and "123,138 unknowns" in text
    with pytest.raises(ConfigError, match="size needs all three"):
        estimate(Config(size=Size(images=3)), 1)
    with pytest.raises(ConfigError, match="solver 'fast'"):
        estimate(Config(solver="fast"), 1)


def test_estimates_count_what_is_there():
    assert problem_counts(Config(input=str(LUND)), 3) == (29, 1, 976, 4099)
    assert database_counts(ROOT / "apps/sfm/data/lund.db") == (29, 12071, 158, 11950)
    made = data.counts(synthetic.loop(MPI.COMM_SELF, 300, 60).truth)
    said = data.generated_counts(Generate(images=300, points_per_image=60), 1)
    assert said[:2] == made[:2]
    assert said[2:] == pytest.approx(made[2:], rel=0.1)
    many = data.generated_counts(Generate(images=10, per_rank=True), 7)
    assert many.images == 70


def test_the_estimate_of_a_system_is_that_of_the_solve():
    from hpckit.sfm.bundle.adjust import bundle_adjust

    start = synthetic.loop(MPI.COMM_SELF, 60, 60).start
    result = bundle_adjust(start, solver="pcg", max_iterations=1)
    said = system(shape_of(data.counts(start), 1))
    assert 0.6 < said / result.memory < 1.7


def test_a_pose_graph_is_read_as_its_convention_says(tmp_path):
    turns = Rotation.from_euler("xyz", [[0.1, 0.2, 0.3], [-1.0, 0.4, 2.0], [0.3, -0.2, 0.1]])
    lines = []
    for i, j in ((0, 1), (1, 2), (0, 2)):
        between = turns[i].inv() * turns[j]  # of body j, as body i sees it
        if j == 2:
            angles = between.as_euler("xyz")  # fixed axes: R = Rz Ry Rx
            lines.append(f"EDGE3 {i} {j} 1 2 3 {' '.join(map(repr, map(float, angles)))} 9 0 0")
        else:
            numbers = map(repr, map(float, between.as_quat()))
            lines.append(f"EDGE_SE3:QUAT {10 * i} {10 * j} 1 2 3 {' '.join(numbers)} 9 0 0")
    lines[1:] = [line.replace("EDGE3 0 2", "EDGE3 0 20") for line in lines[1:]]
    lines[1] = lines[1].replace("EDGE3 1 2", "EDGE3 10 20")
    (tmp_path / "graph.g2o").write_text("VERTEX_SE3:QUAT 0 0 0 0 0 0 0 1\n" + "\n".join(lines))
    graph = read_pose_graph(tmp_path / "graph.g2o")
    assert graph.ids.tolist() == [0, 10, 20]
    for (i, j), relative in zip(graph.pairs, graph.relative, strict=True):
        wanted = (turns[int(j)].inv() * turns[int(i)]).as_matrix()  # world to camera: inverse
        found = Rotation.from_quat(np.roll(relative, -1)).as_matrix()
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_rotations_are_compared_up_to_a_turn_of_the_world():
    some = Rotation.random(20, random_state=1)
    turn = Rotation.random(random_state=2)
    a, b = (np.roll(each.as_quat(), 1, axis=1) for each in (some, some * turn))
    np.testing.assert_allclose(off_truth(a, b), 0, atol=1e-7)
    off = Rotation.from_rotvec([[0.1, 0, 0], *np.zeros((19, 3))])
    b = np.roll((off * some * turn).as_quat(), 1, axis=1)
    assert off_truth(a, b).max() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("model", ["BAL", "PINHOLE"])
def test_a_view_is_upright_and_holds_the_scene(model):
    truth = synthetic.loop(MPI.COMM_SELF, 60, 40, model=model).truth
    truth.points.xyz[0] = 1e9  # as some points of any reconstruction are
    shown = cloud(truth)
    view = best_view(shown)
    assert view.up[2] > 0.5 and abs(view.right[2]) < 0.1
    np.testing.assert_allclose(np.cross(view.right, view.up), view.towards, atol=1e-9)
    paper, _ = view.project(centres(truth.images))
    inside = (paper > view.low) & (paper < view.high)
    assert inside.all()
    assert (view.high - view.low).max() < 300  # metres
    np.testing.assert_allclose(shown.axes[:, 1] @ [0, 0, 1], np.ones(60), atol=0.1)


def test_pictures_of_odd_scenes(tmp_path):
    truth = synthetic.turntable(MPI.COMM_SELF, 2, 1).truth
    truth.images.translation[:] = 0
    shown = cloud(truth)
    shown.rgb[:] = 0
    for points in (slice(0, 1), slice(0, 0)):
        shown.xyz, shown.rgb = shown.xyz[points], shown.rgb[points]
        assert pictures.scene(tmp_path / "scene.png", {"One": shown}).stat().st_size > 1000
