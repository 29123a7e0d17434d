"""COLMAP's databases: what is read of those that exist, and what is refused."""

import sqlite3

import databases
import numpy as np
import pytest
import scenes

from hpckit.errors import ConfigError
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.formats import database as module
from hpckit.sfm.formats.database import read_database
from hpckit.sfm.viewgraph import Config


def written(shared_path, comm, *change, **options):
    """A database made by rank 0, then changed by a statement of SQL and its arguments."""
    path = shared_path / "database.db"
    if comm.rank == 0:
        databases.write(path, databases.scene(), **options)
        if change:
            with sqlite3.connect(path) as database:
                database.execute(*change)
            database.close()
    comm.barrier()
    return path


def everywhere(graph, name):
    """A field of all ranks' pairs."""
    return np.concatenate(graph.comm.allgather(getattr(graph, name)))


@pytest.mark.parametrize(
    ("stored", "new"), [("F", False), ("F", True), ("E", True), ("pose", True)]
)
def test_generated(comm, shared_path, stored, new):
    scene = databases.scene()
    graph = read_database(written(shared_path, comm, stored=stored, new=new), comm)
    assert graph.images.names == [f"ä {i}.jpg" for i in range(6)]
    assert graph.images.ids.tolist() == [2, 5, 8, 11, 14, 17]
    np.testing.assert_array_equal(graph.cameras.parameters, scene.cameras.parameters)
    assert graph.prior_focal.tolist() == [True]
    assert comm.allreduce(len(graph)) == 15
    for m, (i, j) in enumerate(graph.pairs):
        first, second = graph.matched(m)
        np.testing.assert_array_equal(first, scene.xy[i].astype(np.float32))
        np.testing.assert_array_equal(second, scene.xy[j].astype(np.float32))
        F, E = databases.fundamental(scene, i, j)
        _, t = scene.pose(i, j)
        np.testing.assert_array_equal(graph.F[m], F)
        np.testing.assert_array_equal(graph.E[m], np.full((3, 3), np.nan) if stored == "F" else E)
        if stored == "pose":
            np.testing.assert_allclose(graph.translation[m], t / np.linalg.norm(t))
    assert np.isnan(graph.H).all()
    assert np.isnan(graph.quaternion).all() == (stored != "pose" or not len(graph))


def test_lund(comm):
    graph = read_database(scenes.data("lund/database-nodesc.db"), comm)
    assert len(graph.images) == 29 and len(graph.cameras) == 1
    assert comm.allreduce(len(graph)) == 158
    assert comm.allreduce(len(graph.matches)) == 2394 + 9481 + 75
    count = np.bincount(everywhere(graph, "config"), minlength=10)
    assert count[Config.CALIBRATED] == 31 and count[Config.UNCALIBRATED] == 125
    assert count[Config.PLANAR_OR_PANORAMIC] == 2
    assert np.isnan(graph.quaternion).all()


def test_maupertuis(comm):
    graph = read_database(scenes.data("cases/real/maupertuis/colmap.db"), comm)
    assert comm.allreduce(len(graph)) == 6 and comm.allreduce(len(graph.matches)) == 6036
    assert graph.prior_focal.tolist() == [False]
    assert (everywhere(graph, "config") == Config.UNCALIBRATED).all()
    for m in range(len(graph)):  # COLMAP's own F: inliers lie within 4 pixels of epipolar lines
        first, second = (np.column_stack([xy, np.ones(len(xy))]) for xy in graph.matched(m))
        line = first @ graph.F[m].T
        distance = np.abs((line * second).sum(1)) / np.linalg.norm(line[:, :2], axis=1)
        assert np.median(distance) < 1


def test_rigs(comm, shared_path):
    with pytest.raises(ConfigError, match=r"rigs of several cameras \(1 of them\)"):
        read_database(scenes.data("cases/rigs/database.db"), comm)
    with pytest.raises(ConfigError, match="rigs of several cameras"):
        read_database(written(shared_path, comm, rigs=True), comm)


def test_dealt_alike(comm, shared_path):
    """Pairs of all ranks in turn are those that one rank reads."""
    path = written(shared_path, comm, stored="E")
    graph, alone = read_database(path, comm), read_database(path, comm.Split(comm.rank))
    for name in ("pairs", "config", "F", "E", "inliers", "matches"):
        np.testing.assert_array_equal(everywhere(graph, name), getattr(alone, name))
    np.testing.assert_array_equal(graph.keypoints, alone.keypoints)
    most = max(comm.allgather(len(graph.matches)))
    assert most <= len(alone.matches) / comm.size + 60  # one pair more
    alone.comm.Free()


def test_mixed_models(comm, shared_path):
    cameras = Cameras.of(
        ("PINHOLE", 640, 480, [500.0, 510.0, 320.0, 240.0]),
        ("OPENCV_FISHEYE", 640, 480, [300.0, 301.0, 320.0, 240.0, 0.1, 0.0, 0.0, 0.01]),
    )
    path = shared_path / "database.db"
    if comm.rank == 0:
        databases.write(path, databases.scene(cameras=cameras))
    comm.barrier()
    graph = read_database(path, comm)
    assert graph.images.camera.tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(graph.cameras.parameters, cameras.parameters)
    assert graph.cameras.model.tolist() == [1, 5]


def test_identity_is_no_pose(comm, shared_path):
    """COLMAP 3.7 stored this where it had estimated none."""
    identity = (
        "update two_view_geometries set qvec = ?, tvec = ?",
        (np.array([1.0, 0, 0, 0]).tobytes(), np.zeros(3).tobytes()),
    )
    graph = read_database(written(shared_path, comm, *identity, stored="pose"), comm)
    assert np.isnan(graph.quaternion).all() and np.isnan(graph.translation).all()


BAD = {
    "delete from images": "has no images",
    "update two_view_geometries set rows = 0, data = null, config = 1": "no pair of images",
    "drop table keypoints": "no database of COLMAP: it has no table keypoints",
    "update cameras set model = 7": "model FOV, which is not known",
    "update cameras set model = 99": "model number 99, which is not known",
    "update cameras set params = zeroblob(32)": "focal lengths above 0",
    "update cameras set params = zeroblob(31)": "camera 1 takes 31 bytes, not 32",
    "update images set camera_id = 4 where image_id = 5": "image 5 has camera 4",
    "update keypoints set rows = 61": "keypoints of image 2 takes 1440 bytes, not 1464",
    "delete from keypoints where image_id = 2": "names keypoints",
    "update two_view_geometries set F = zeroblob(71)": "takes 71 bytes, not 72",
    "update two_view_geometries set pair_id = pair_id + 100": "has image 105, which is not there",
}


@pytest.mark.parametrize("change", BAD)
def test_refused(comm, shared_path, change):
    path = written(shared_path, comm, change)
    with pytest.raises(ConfigError, match=BAD[change]) as caught:
        read_database(path, comm)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_database(comm, shared_path, monkeypatch):
    path = shared_path / "database.db"
    with pytest.raises(ConfigError, match="there is no database"):
        read_database(path, comm)
    comm.barrier()
    if comm.rank == 0:
        path.write_bytes(b"")
    comm.barrier()
    with pytest.raises(ConfigError, match="no database of COLMAP: it has no table cameras and no"):
        read_database(path, comm)
    comm.barrier()
    if comm.rank == 0:
        path.write_text("CAMERA_ID, MODEL, WIDTH, HEIGHT\n" * 100)
    comm.barrier()
    with pytest.raises(ConfigError, match=r"cannot read the database .*not a database"):
        read_database(path, comm)


def test_truncated(comm, shared_path):
    path = written(shared_path, comm)
    if comm.rank == 0:
        path.write_bytes(path.read_bytes()[:20000])
    comm.barrier()
    with pytest.raises(ConfigError, match=r"cannot read the database .*malformed"):
        read_database(path, comm)


def test_locked(comm, shared_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    path = written(shared_path, comm)
    if comm.rank == 0:
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("begin exclusive")
    with pytest.raises(ConfigError, match="another program is writing it"):
        read_database(path, comm)
    if comm.rank == 0:
        database.close()


def test_write_ahead_log(comm, shared_path):
    """What is only in the log counts; a database without one is read and left alone."""
    path = written(shared_path, comm, "pragma journal_mode = wal")
    read_database(path, comm)
    assert [each.name for each in shared_path.iterdir()] == ["database.db"]
    comm.barrier()
    if comm.rank == 0:
        database = sqlite3.connect(path)
        database.execute("update cameras set prior_focal_length = 0")
        database.commit()
    comm.barrier()
    assert read_database(path, comm).prior_focal.tolist() == [False]
    comm.barrier()
    if comm.rank == 0:
        database.close()
