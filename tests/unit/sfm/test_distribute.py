"""Scattered, gathered, and refused."""

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI
from scenes import whole

from hpckit.errors import ConfigError
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.distribute import from_arrays, gather, scatter
from hpckit.sfm.reconstruction import Images


def _arrays(reconstruction) -> dict:
    """All that is in it, by name, as bytes."""
    found = {}
    for part in ("cameras", "images", "points", "observations"):
        for field in dataclasses.fields(getattr(reconstruction, part)):
            value = getattr(getattr(reconstruction, part), field.name)
            is_array = isinstance(value, np.ndarray)
            found[part, field.name] = (value.dtype, value.tobytes()) if is_array else value
    return found


@pytest.mark.parametrize("points", [0, 1, 2, 23, 500])
def test_scatter_and_gather(comm, points):
    whole_one = whole(points)
    whole_one.behind = "keep"
    whole_one.keypoints = [np.zeros((10**4, 2))] * 5
    mine = scatter(whole_one if comm.rank == 0 else None, comm)
    back = gather(mine)
    assert (back is None) == (comm.rank > 0)
    if back is not None:
        assert _arrays(back) == _arrays(whole_one)
        assert back.behind == "keep" and back.comm == MPI.COMM_SELF
        assert back.keypoints is whole_one.keypoints
    replicated = comm.allgather(
        (_arrays(mine)["images", "names"], mine.images.quaternion.tobytes())
    )
    assert set(map(str, replicated)) == {str(replicated[0])} and mine.behind == "keep"


def test_parts_are_even_and_in_order(comm):
    whole_one = whole(500)
    mine = scatter(whole_one if comm.rank == 0 else None, comm)
    ids = np.concatenate(comm.allgather(mine.points.ids))
    np.testing.assert_array_equal(ids, whole_one.points.ids)
    counts = comm.allgather(len(mine.observations))
    assert max(counts) <= len(whole_one.observations) / comm.size + 7
    first = int(np.flatnonzero(whole_one.points.ids == mine.points.ids[0])[0])
    expected = whole_one.observations.xy[whole_one.observations.start[first] :]
    np.testing.assert_array_equal(mine.observations.xy, expected[: len(mine.observations)])


def test_from_arrays_sorts_by_point(comm):
    point, image = [2, 0, 2, 0, 2], [1, 0, 0, 1, 1]
    xy = [[k, -k] for k in range(5)]
    given = (None,) * 6
    if comm.rank == 0:
        cameras = Cameras.of(("SIMPLE_PINHOLE", 0, 0, [100.0, 0, 0]))
        images = Images.of(["a", "b"], [0, 0], [[2, 0, 0, 0], [0, 1, 0, 0]], np.zeros((2, 3)))
        given = cameras, images, np.eye(3), point, image, xy
    back = gather(from_arrays(*given, comm=comm))
    if back is not None:
        seen = back.observations
        np.testing.assert_array_equal(seen.start, [0, 2, 2, 5])
        np.testing.assert_array_equal(seen.xy[:, 0], [1, 3, 0, 2, 4])
        np.testing.assert_array_equal(seen.image, [0, 1, 1, 0, 1])
        np.testing.assert_array_equal(seen.point, [0, 0, 2, 2, 2])
        np.testing.assert_array_equal(back.images.quaternion[0], [1, 0, 0, 0])
        np.testing.assert_array_equal(back.points.ids, [1, 2, 3])


def _with(change):
    one = whole()
    change(one)
    return one


def _set(part, name, index, value):
    def change(one):
        getattr(getattr(one, part), name)[index] = value

    return change


BAD = {
    "camera .* parameters": _set("cameras", "parameters", (1, 0), np.nan),
    "focal length -5": _set("cameras", "parameters", (0, 0), -5),
    "of model 77": _set("cameras", "model", 0, 77),
    "two cameras have the id 2": _set("cameras", "ids", 0, 2),
    "names camera 2, but there are 2": _set("images", "camera", 0, 2),
    "quaternion of length 0": _set("images", "quaternion", 0, 0),
    "translation .*inf": _set("images", "translation", 0, np.inf),
    "two images": lambda one: one.images.ids.__setitem__(0, one.images.ids[1]),
    "both called 'a b.jpg'": _set("images", "names", 3, "a b.jpg"),
    "one line of text": _set("images", "names", 3, "a\nb"),
    "two points": lambda one: one.points.ids.__setitem__(0, one.points.ids[1]),
    "has the xyz": _set("points", "xyz", (3, 1), np.nan),
    "start must rise": _set("observations", "start", 0, 1),
    "names image -1": _set("observations", "image", 2, -1),
    "observation 2 has the xy": _set("observations", "xy", 2, np.nan),
    "behind is 'away'": lambda one: setattr(one, "behind", "away"),
    "points.rgb must be": lambda one: setattr(one.points, "rgb", np.zeros((23, 3))),
    "4 images, but 5": lambda one: setattr(one, "keypoints", [np.zeros((1000, 2))] * 4),
    "is keypoint .* which has 3": lambda one: setattr(one, "keypoints", [np.zeros((3, 2))] * 5),
}


@pytest.mark.parametrize("said", BAD)
def test_refused_on_all_ranks(comm, said):
    one = _with(BAD[said]) if comm.rank == 0 else None
    with pytest.raises(ConfigError, match=said):
        scatter(one, comm)


def test_no_arrays(comm):
    with pytest.raises(ConfigError, match="rank 0 must pass"):
        from_arrays(None, None, None, None, None, None, comm=comm)
    with pytest.raises(ConfigError, match="rank 0 must pass"):
        scatter(None, comm)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("point", [0, 3], "is of point 3, but there are 3"),
        ("point", [0, -1], "is of point -1"),
        ("point", [0.5, 1], "point must be integers"),
        ("image", [0, 9], "names image 9, but there are 1"),
        ("image", [0], "1 images"),
        ("xy", [[0, 0, 0]], r"xy must be numbers of shape \(n, 2\)"),
        ("xyz", [["a", "b", "c"]], "xyz must be numbers"),
        ("rgb", [[0.5] * 3] * 3, "rgb must be uint8"),
        ("ids", [1, 1, 2], "two points have the id 1"),
    ],
)
def test_bad_arrays(comm, name, value, said):
    cameras = Cameras.of(("SIMPLE_PINHOLE", 0, 0, [100.0, 0, 0]))
    images = Images.of(["a"], [0], [[1, 0, 0, 0]], np.zeros((1, 3)))
    given = {"xyz": np.eye(3), "point": [0, 1], "image": [0, 0], "xy": np.zeros((2, 2))}
    with pytest.raises(ConfigError, match=said):
        from_arrays(cameras, images, **{**given, name: value}, comm=comm)
