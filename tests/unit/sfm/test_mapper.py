"""The global mapper: generated databases against their truth, real ones against COLMAP's models."""

import itertools

import databases
import numpy as np
import pytest
import scenes
from mpi4py import MPI

from hpckit.errors import ConfigError
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.filters import centres
from hpckit.sfm.formats import read, read_database, write
from hpckit.sfm.mapper import global_mapper
from hpckit.sfm.projection import residuals
from hpckit.sfm.viewgraph import Config


def written(shared_path, comm, scene, **options):
    path = shared_path / "database.db"
    if comm.rank == 0:
        databases.write(path, scene, **options)
    comm.barrier()
    return path


def total(model, *numbers):
    return model.comm.allreduce(np.array(numbers, float))


def mean_error(model):
    error = np.linalg.norm(residuals(model)[0], axis=1)
    sums = total(model, error.sum(), len(error))
    return sums[0] / sums[1]


def places(model):
    """Which of the generated images those of a model are."""
    return [(i - 2) // 3 for i in model.images.ids]


@pytest.mark.parametrize(("stored", "new"), [("F", False), ("E", True), ("pose", True)])
def test_truth(comm, shared_path, stored, new):
    """Keypoints are in float32: what comes out is right to that."""
    scene = databases.scene(images=7, points=80)
    (model,) = global_mapper(written(shared_path, comm, scene, stored=stored, new=new), comm)
    assert model.images.names == [f"ä {i}.jpg" for i in range(7)]
    assert total(model, len(model.points), len(model.observations)).tolist() == [80, 560]
    assert databases.off(centres(model.images), scene.centres) < 1e-6
    assert mean_error(model) < 1e-4
    np.testing.assert_allclose(
        model.cameras.parameters[0, :4], scene.cameras.parameters[0, :4], rtol=1e-5, atol=1e-6
    )
    s, R, t = databases.similarity(centres(model.images), scene.centres)
    seen = model.observations
    keypoint = np.concatenate([order[None] for order in scene.order])
    truth = scene.xyz[keypoint[seen.image, seen.keypoint]]
    np.testing.assert_allclose((s * model.points.xyz @ R.T + t)[seen.point], truth, atol=1e-5)


def test_frame(comm, shared_path):
    """The first image is not turned; centres have mean 0 and spread 1; points count from 1."""
    scene = databases.scene()
    path = written(shared_path, comm, scene, stored="E")
    (model,) = global_mapper(path, comm)
    np.testing.assert_allclose(np.abs(model.images.quaternion[0]), [1, 0, 0, 0], atol=1e-12)
    centre = centres(model.images)
    np.testing.assert_allclose(centre.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose((centre**2).sum(1).mean(), 1)
    ids = np.concatenate(comm.allgather(model.points.ids))
    assert ids.tolist() == list(range(1, 61))
    keypoints = comm.bcast(model.keypoints)
    for i, each in enumerate(keypoints):
        np.testing.assert_array_equal(each, scene.xy[i][scene.order[i]].astype(np.float32))


def test_wrong_focal_length(comm, shared_path):
    """A guess that is 30 % off, and so says the database or not."""
    scene = databases.scene(images=8, points=150, noise=0.3)
    true = scene.cameras.parameters[0, 0]
    scene.cameras.parameters[0, 0] *= 1.3
    graph = read_database(written(shared_path, comm, scene, stored="F"), comm)
    # F in pixels is that of the true camera
    scene.cameras.parameters[0, 0] = true
    for m, (i, j) in enumerate(graph.pairs):
        graph.F[m] = databases.fundamental(scene, i, j)[0]
    for known in (True, False):
        graph.prior_focal[:] = known
        (model,) = global_mapper(graph, comm)
        assert abs(model.cameras.parameters[0, 0] / true - 1) < 0.01
        assert databases.off(centres(model.images), scene.centres) < 2e-3
        assert 0.1 < mean_error(model) < 0.5
    assert graph.cameras.parameters[0, 0] == 1.3 * true  # is the caller's


def test_wrong_matches(comm, shared_path):
    """Some matches, which join what does not belong together, and one pair as a whole are wrong."""
    scene = databases.scene(images=8, points=200, noise=0.3)
    graph = read_database(written(shared_path, comm, scene, stored="E"), comm)
    rng = np.random.default_rng(4)  # the same on all ranks, pair by pair
    for i, j in itertools.combinations(range(8), 2):
        shuffled = rng.permutation(200)[:3]
        turned = np.roll(shuffled, 1)
        for m in np.flatnonzero((graph.pairs == [i, j]).all(1)):
            rows = graph.match_start[m]
            graph.matches[rows + shuffled, 1] = graph.matches[rows + turned, 1]
            if (i, j) == (2, 5):
                graph.E[m], graph.F[m] = graph.E[m].T.copy(), graph.F[m].T.copy()
    (model,) = global_mapper(graph, comm)
    assert len(model.images) == 8
    assert databases.off(centres(model.images), scene.centres) < 5e-3
    assert total(model, len(model.points))[0] > 100 and mean_error(model) < 0.6


def flat(scene):
    scene.xyz[:, 2] = 0.0


def in_line(scene):
    scene.centres = np.linspace([-2, 0, -6], [2, 0, -6], len(scene.centres))


def forward(scene):
    scene.centres = np.linspace([0, 0, -8], [0, 0, -5], len(scene.centres))
    scene.R = np.tile(np.eye(3), (len(scene.centres), 1, 1))


@pytest.mark.parametrize("change", [flat, in_line, forward])
def test_special_scenes(comm, shared_path, change):
    """Points in a plane; images in a line, and one behind the other."""
    scene = databases.scene()
    change(scene)
    (model,) = global_mapper(written(shared_path, comm, scene.look(), stored="E"), comm)
    assert len(model.images) == 6 and mean_error(model) < 1e-3
    assert databases.off(centres(model.images), scene.centres) < 1e-5


def test_chain(comm, shared_path):
    """Images that only match the next ones: tracks join what pairs do not."""
    scene = databases.scene(images=8, points=100)
    pairs = [(i, i + 1) for i in range(7)]
    (model,) = global_mapper(written(shared_path, comm, scene, stored="E", pairs=pairs), comm)
    assert total(model, len(model.points), len(model.observations)).tolist() == [100, 800]
    assert databases.off(centres(model.images), scene.centres) < 1e-5


def test_panorama(comm, shared_path):
    """Images from one place show no depth."""
    scene = databases.scene(noise=0.2)
    graph = read_database(written(shared_path, comm, scene, stored="E"), comm)
    graph.E[:], graph.F[:], graph.H[:] = np.nan, np.nan, np.eye(3)
    graph.config[:] = Config.PANORAMIC
    graph.keypoints[:] = graph.keypoints[0:60][np.argsort(scene.order[0])][
        np.concatenate(scene.order)
    ]
    with pytest.raises(ConfigError, match=r"no 3 of the 6 images .* from different places"):
        global_mapper(graph, comm)


def test_ranks_agree(comm, shared_path):
    """The same model as on one rank, to what sums in another order change."""
    scene = databases.scene(images=8, points=120, noise=0.5)
    path = written(shared_path, comm, scene, stored="E")
    (model,), (alone,) = global_mapper(path, comm), global_mapper(path, MPI.COMM_SELF)
    assert total(model, len(model.points), len(model.observations)).tolist() == [120, 960]
    np.testing.assert_allclose(centres(model.images), centres(alone.images), atol=1e-4)
    np.testing.assert_allclose(model.images.quaternion, alone.images.quaternion, atol=1e-4)
    xyz = np.concatenate(comm.allgather(model.points.xyz))
    np.testing.assert_allclose(xyz, alone.points.xyz, atol=2e-4)
    np.testing.assert_array_equal(
        np.concatenate(comm.allgather(model.observations.keypoint)), alone.observations.keypoint
    )
    different = [model.images, model.cameras]
    assert len(set(comm.allgather(repr([vars(each) for each in different])))) == 1


def test_components(comm, shared_path):
    """One model for each set of connected images; two are too few."""
    scene = databases.scene(images=11)
    pairs = [
        *itertools.combinations([0, 1, 2, 3], 2),
        *itertools.combinations([4, 5, 6, 7, 8], 2),
        (9, 10),
    ]
    path = written(shared_path, comm, scene, stored="E", pairs=pairs)
    models = global_mapper(path, comm)
    assert [places(model) for model in models] == [[4, 5, 6, 7, 8], [0, 1, 2, 3]]
    for model in models:
        assert databases.off(centres(model.images), scene.centres[places(model)]) < 1e-5
    assert [len(model.images) for model in global_mapper(path, comm, min_images=5)] == [5]
    with pytest.raises(ConfigError, match="no 6 of the 11 images are connected"):
        global_mapper(path, comm, min_images=6)


def test_two_images(comm, shared_path):
    """Tracks of two views are enough when they are asked for."""
    scene = databases.scene(images=2)
    path = written(shared_path, comm, scene, stored="E")
    with pytest.raises(ConfigError, match="no 3 of the 2 images are connected"):
        global_mapper(path, comm)
    (model,) = global_mapper(path, comm, min_images=2, min_views=2)
    assert mean_error(model) < 1e-4


def test_two_cameras(comm, shared_path):
    """Models of different kinds, of which a component may hold one only."""
    cameras = Cameras.of(
        ("PINHOLE", 1000, 800, [900.0, 910.0, 500.0, 400.0]),
        ("SIMPLE_RADIAL", 1000, 800, [700.0, 500.0, 400.0, 0.03]),
    )
    scene = databases.scene(images=8, cameras=cameras)
    pairs = [(i, j) for i, j in itertools.combinations(range(8), 2) if (j - i) % 2 == 0]
    path = written(shared_path, comm, scene, stored="E", pairs=pairs)
    models = global_mapper(path, comm)
    assert [model.cameras.ids.tolist() for model in models] == [[1], [2]]
    for model in models:
        assert databases.off(centres(model.images), scene.centres[places(model)]) < 1e-4


def test_max_tracks(comm, shared_path):
    path = written(shared_path, comm, databases.scene(), stored="E")
    (model,) = global_mapper(path, comm, max_tracks=25)
    assert total(model, len(model.points)).tolist() == [25]
    assert len(model.images) == 6


def test_stages(comm, shared_path):
    stages = []
    path = written(shared_path, comm, databases.scene(), stored="E", prior=False)
    global_mapper(path, comm, callback=stages.append)
    names = [stage.name for stage in stages]
    order = ["view graph", "focal lengths", "relative poses", "rotations", "tracks", "positions"]
    assert list(dict.fromkeys(names)) == [*order, "adjustment"]
    numbers = {stage.name: stage.numbers for stage in stages}
    assert numbers["view graph"] == {"images": 6, "pairs": 15, "matches": 900}
    assert numbers["tracks"]["tracks"] == 60 and numbers["tracks"]["observations"] == 360
    assert "pairs 15" in str(stages[0]) and "of model 0" in str(stages[-1])
    assert len({repr([stage.numbers for stage in each]) for each in comm.allgather(stages)}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_images": 1}, "min_images is 1"),
        ({"min_views": 2.5}, "min_views is 2.5"),
        ({"max_error": 0}, "max_error is 0"),
        ({"max_tracks": 0}, "max_tracks is 0"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refused(comm, shared_path, arguments, message):
    path = written(shared_path, comm, databases.scene(images=3, points=20), stored="E")
    with pytest.raises(ConfigError, match=message):
        global_mapper(path, comm, **arguments)


@pytest.mark.mpi(min_size=2)
def test_ranks_differ(comm, shared_path):
    path = written(shared_path, comm, databases.scene(images=3, points=20), stored="E")
    with pytest.raises(ConfigError, match="must be the same on all ranks"):
        global_mapper(path, comm, seed=comm.rank)


def off_colmap(model, reference):
    """Largest distance of centres to those of COLMAP's model, relative to its extent."""
    theirs = dict(zip(reference.images.names, centres(reference.images), strict=True))
    b = np.array([theirs[name] for name in model.images.names])
    return databases.off(centres(model.images), b)


def check_lund(comm, seed):
    """29 photographs: as many points as COLMAP's global mapper finds, and the same poses."""
    (model,) = global_mapper(scenes.data("lund/database-nodesc.db"), comm, seed=seed)
    assert len(model.images) == 29
    points, seen = total(model, len(model.points), len(model.observations))
    assert points >= 950 and seen >= 4000 and mean_error(model) <= 0.89
    assert off_colmap(model, read(scenes.data("lund/sparse-global"), comm)) < 0.005
    return model


def check_maupertuis(comm, seed):
    """4 photographs without E and without a known focal length."""
    (model,) = global_mapper(scenes.data("cases/real/maupertuis/colmap.db"), comm, seed=seed)
    assert len(model.images) == 4
    points, seen = total(model, len(model.points), len(model.observations))
    assert points >= 850 and seen >= 2900 and mean_error(model) <= 0.37
    reference = read(scenes.data("cases/real/maupertuis/reconstruction"), comm)
    assert off_colmap(model, reference) < 0.005
    assert abs(model.cameras.parameters[0, 0] / 1847.54 - 1) < 0.005


def test_lund(comm, shared_path):
    """What is written for COLMAP is what was found."""
    model = check_lund(comm, 0)
    write(model, shared_path / "sparse", format="colmap")
    back = read(shared_path / "sparse", comm)
    for of in (lambda m: len(m.points), lambda m: len(m.observations)):
        assert total(back, of(back)) == total(model, of(model))
    assert mean_error(back) == pytest.approx(mean_error(model), rel=1e-9)


def test_maupertuis(comm):
    check_maupertuis(comm, 0)


@pytest.mark.parametrize("seed", range(1, 5))
def test_starts(seed):
    """All random starts come to the same model; on one rank."""
    check_lund(MPI.COMM_SELF, seed)
    check_maupertuis(MPI.COMM_SELF, seed)
