"""View graphs: dealing pairs to ranks, and parts of a graph."""

import numpy as np

from hpckit.sfm.cameras import Cameras
from hpckit.sfm.reconstruction import Images
from hpckit.sfm.viewgraph import ViewGraph, deal


def graph_of(comm, pairs, counts, keypoints=8, seed=0) -> ViewGraph | None:
    """All on rank 0: so many matches per pair, at random; as many images as pairs name."""
    if comm.rank:
        return None
    rng = np.random.default_rng(seed)
    pairs = np.array(pairs, np.int32).reshape(-1, 2)
    n, m = int(pairs.max(initial=0)) + 1, len(pairs)
    cameras = Cameras.of(
        *(("PINHOLE", 0, 0, [100.0 + i, 100.0, 50.0, 50.0]) for i in range(max(1, n // 2)))
    )
    images = Images(
        10 * np.arange(n),
        [f"{i}.jpg" for i in range(n)],
        (np.arange(n) % len(cameras)).astype(np.int32),
        np.tile([1.0, 0, 0, 0], (n, 1)),
        np.zeros((n, 3)),
    )
    return ViewGraph(
        comm=comm,
        cameras=cameras,
        prior_focal=np.arange(len(cameras)) % 2 == 0,
        images=images,
        keypoint_start=np.arange(n + 1) * keypoints,
        keypoints=rng.uniform(0, 100, (n * keypoints, 2)),
        pairs=pairs,
        config=np.full(m, 3, np.int8),
        F=rng.normal(size=(m, 3, 3)),
        E=rng.normal(size=(m, 3, 3)),
        H=rng.normal(size=(m, 3, 3)),
        quaternion=rng.normal(size=(m, 4)),
        translation=rng.normal(size=(m, 3)),
        match_start=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        matches=rng.integers(0, keypoints, (int(np.sum(counts)), 2)).astype(np.int32),
    )


def test_deal(comm):
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    counts = [5, 0, 7, 1, 1, 30, 2, 2, 2, 2]
    whole = graph_of(comm, pairs, counts)
    part = deal(whole, comm)
    names = ("pairs", "config", "F", "E", "H", "quaternion", "translation", "inliers", "matches")
    gathered = {name: comm.gather(getattr(part, name)) for name in names}
    replicated = comm.gather((part.keypoints, part.cameras.parameters, part.images.names))
    if comm.rank == 0:
        for name in names:
            np.testing.assert_array_equal(np.concatenate(gathered[name]), getattr(whole, name))
        for keypoints, parameters, images in replicated:
            np.testing.assert_array_equal(keypoints, whole.keypoints)
            np.testing.assert_array_equal(parameters, whole.cameras.parameters)
            assert images == whole.images.names


def test_more_ranks_than_pairs(comm):
    part = deal(graph_of(comm, [(0, 1)], [3]), comm)
    assert comm.allreduce(len(part)) == 1 and comm.allreduce(len(part.matches)) == 3
    assert part.match_start[0] == 0 and part.match_start[-1] == len(part.matches)


def test_parts(comm):
    """Matched pixels of selected pairs are those of the whole."""
    part = deal(graph_of(comm, [(0, 1), (0, 2), (1, 2), (2, 3)], [2, 4, 0, 3]), comm)
    chosen = part.select(part.inliers > 2)
    for m, place in enumerate(np.flatnonzero(part.inliers > 2)):
        assert chosen.pairs[m].tolist() == part.pairs[place].tolist()
        for mine, whole in zip(chosen.matched(m), part.matched(place), strict=True):
            np.testing.assert_array_equal(mine, whole)
    few = part.keep_matches(np.arange(len(part.matches)) % 2 == 0)
    np.testing.assert_array_equal(few.matches, part.matches[::2])
    rows = part.global_matches()
    np.testing.assert_array_equal(rows, 8 * part.pairs[part.match_pair] + part.matches)


def test_components(comm):
    pairs = [(1, 7), (0, 3), (3, 5), (5, 9), (2, 4), (4, 8)]
    part = deal(graph_of(comm, pairs, [1] * 6), comm)
    found = [images.tolist() for images in part.components()]
    assert found == [[0, 3, 5, 9], [2, 4, 8], [1, 7], [6]]


def test_long_chain(comm):
    """One component whatever the numbers along it."""
    order = np.random.default_rng(3).permutation(200)
    pairs = np.sort(np.stack([order[:-1], order[1:]], 1), axis=1)
    part = deal(graph_of(comm, pairs, [1] * 199, keypoints=1), comm)
    assert [len(images) for images in part.components()] == [200]


def test_restrict(comm):
    part = deal(graph_of(comm, [(0, 1), (1, 3), (3, 4), (2, 4)], [1, 2, 3, 4]), comm)
    inner = part.restrict(np.array([1, 3, 4]))
    assert inner.images.ids.tolist() == [10, 30, 40]
    pairs = np.concatenate(comm.allgather(inner.pairs))
    assert pairs.tolist() == [[0, 1], [1, 2]]
    assert comm.allreduce(len(inner.matches)) == 5
    own = inner.cameras.parameters[inner.images.camera]
    np.testing.assert_array_equal(own, part.cameras.parameters[part.images.camera[[1, 3, 4]]])
    np.testing.assert_array_equal(inner.keypoints[8:16], part.keypoints[24:32])
    for m in range(len(inner)):
        place = part.pairs.tolist().index([[1, 3], [3, 4]][inner.pairs[m, 0]])
        np.testing.assert_array_equal(inner.matched(m)[0], part.matched(place)[0])
