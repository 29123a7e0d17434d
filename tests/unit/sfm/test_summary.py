"""Counts against plain loops and a search through the graph."""

import numpy as np
import pytest
from scenes import whole

from hpckit.sfm.cameras import Cameras
from hpckit.sfm.distribute import from_arrays, scatter
from hpckit.sfm.reconstruction import Images
from hpckit.sfm.summary import summarise


def _components(tracks: list[set[int]]) -> list[list[int]]:
    """Sets that overlap are joined until none does."""
    parts: list[set[int]] = []
    for track in filter(None, tracks):
        touched = [each for each in parts if each & track]
        parts = [each for each in parts if not each & track] + [track.union(*touched)]
    return sorted((sorted(each) for each in parts), key=lambda each: (-len(each), each[0]))


def _made(comm, images, tracks):
    """Images that see points as the tracks, lists of places of images, say."""
    if comm.rank > 0:
        return from_arrays(*(None,) * 6, comm=comm)
    point = np.repeat(np.arange(len(tracks)), [len(t) for t in tracks])
    image = np.array([i for t in tracks for i in t], int)
    poses = np.zeros((images, 7))
    poses[:, 0] = 1
    names = [str(i) for i in range(images)]
    return from_arrays(
        Cameras.of(("SIMPLE_PINHOLE", 0, 0, [100.0, 0, 0])),
        Images.of(names, [0] * images, poses[:, :4], poses[:, 4:], np.arange(images) + 10),
        np.zeros((len(tracks), 3)),
        point,
        image,
        np.zeros((len(point), 2)),
        comm=comm,
    )


@pytest.mark.parametrize("seed", range(6))
def test_summary(comm, seed):
    rng = np.random.default_rng(seed)
    images = int(rng.integers(3, 40))
    groups = rng.integers(0, 3, images)
    tracks = []
    for _ in range(int(rng.integers(1, 30))):
        group = np.flatnonzero(groups == rng.integers(0, 3))
        count = int(rng.integers(0, 5)) if len(group) else 0
        tracks.append(rng.choice(group, count).tolist() if count else [])
    summary = summarise(_made(comm, images, tracks))
    assert (summary.cameras, summary.images, summary.points) == (1, images, len(tracks))
    assert summary.observations == sum(map(len, tracks))
    assert summary.track_lengths.tolist() == np.bincount([len(t) for t in tracks]).tolist()
    assert summary.one_view_points == sum(len(set(t)) == 1 for t in tracks)
    assert summary.unobserved_points == sum(not t for t in tracks)
    unseen = set(range(images)) - {i for t in tracks for i in t}
    assert (summary.unobserved_images - 10).tolist() == sorted(unseen)
    assert [(c - 10).tolist() for c in summary.components] == _components([set(t) for t in tracks])


def test_a_long_chain_is_one_component(comm):
    order = np.random.default_rng(1).permutation(3000)
    tracks = [order[k : k + 2].tolist() for k in range(2999)]
    (component,) = summarise(_made(comm, 3000, tracks)).components
    assert len(component) == 3000


def test_nothing(comm):
    summary = summarise(scatter(whole(0) if comm.rank == 0 else None, comm))
    assert summary.observations == 0 and summary.components == []
    assert summary.mean_track_length == 0 and len(summary.unobserved_images) == 5
