"""Tracks against SciPy's connected components, and rules a few lines of Python long."""

from itertools import pairwise

import numpy as np
import pytest
from test_viewgraph import graph_of

from hpckit.errors import ConfigError
from hpckit.sfm.tracks import build_tracks, track_of
from hpckit.sfm.viewgraph import deal

PAIRS = [(i, j) for i in range(7) for j in range(i + 1, 7)]


def made(comm, matches=6, keypoints=40, seed=0):
    return deal(graph_of(comm, PAIRS, [matches] * len(PAIRS), keypoints, seed), comm)


def tracks_of(reconstruction):
    """All ranks' tracks: a list of (image, keypoint) each."""
    seen = reconstruction.observations
    own = list(zip(seen.image.tolist(), seen.keypoint.tolist(), strict=True))
    cuts = seen.start.tolist()
    tracks = [own[a:b] for a, b in pairwise(cuts)]
    return [track for part in reconstruction.comm.allgather(tracks) for track in part]


def expected(graph):
    """Connected components of keypoints, by SciPy."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate(graph.comm.allgather(graph.global_matches()))
    n = len(graph.keypoints)
    _, label = connected_components(coo_matrix((np.ones(len(edges)), edges.T), (n, n)), False)
    return label


@pytest.mark.parametrize("matches", [1, 3, 6, 20])
def test_components(comm, matches):
    graph = made(comm, matches)
    mine, theirs = track_of(graph), expected(graph)
    first = {}
    for keypoint, label in enumerate(theirs):
        first.setdefault(label, keypoint)
    assert mine.tolist() == [first[label] for label in theirs]


def test_chain(comm):
    """One keypoint per image, in a chain whose links lie on ranks in turn: the worst for rounds."""
    order = np.random.default_rng(1).permutation(300)
    links = np.sort(np.stack([order[:-1], order[1:]], 1), axis=1)
    shuffled = links[np.random.default_rng(2).permutation(299)]
    graph = deal(graph_of(comm, shuffled, [1] * 299, keypoints=1), comm)
    assert (track_of(graph) == 0).all()


def test_rules(comm):
    """Keypoints of one image that are close count once; where they are not, the track goes."""
    graph = made(comm, 6)
    label = expected(graph)
    image = np.arange(len(label)) // 40
    right = []
    for each in np.unique(label):
        keypoints = np.flatnonzero(label == each)
        firsts = {i: k for k, i in zip(keypoints[::-1], image[keypoints][::-1], strict=True)}
        far = [
            np.linalg.norm(graph.keypoints[k] - graph.keypoints[firsts[image[k]]]) > 30
            for k in keypoints
        ]
        if len(firsts) >= 3 and not any(far):
            right.append([(int(i), int(k) % 40) for i, k in sorted(firsts.items())])
    found = build_tracks(graph, min_length=3, max_distance=30.0)
    assert tracks_of(found) == sorted(right, key=lambda track: 40 * track[0][0] + track[0][1])
    assert 0 < len(right) < len(np.unique(label))
    seen = found.observations
    np.testing.assert_array_equal(seen.xy, graph.keypoints[40 * seen.image + seen.keypoint])
    ids = np.concatenate(comm.allgather(found.points.ids))
    assert ids.tolist() == list(range(1, len(right) + 1))


def test_inconsistent(comm):
    graph = made(comm, 6)
    everything = tracks_of(build_tracks(graph, consistent=False))
    label, image = expected(graph), np.arange(280) // 40
    views = [len(set(image[label == each])) for each in np.unique(label)]
    assert len(everything) == sum(count > 1 for count in views)
    assert any(len({i for i, _ in track}) < len(track) for track in everything)
    lengths = [len({i for i, _ in track}) for track in everything]
    bounded = tracks_of(build_tracks(graph, consistent=False, min_length=3, max_length=4))
    assert len(bounded) == sum(3 <= length <= 4 for length in lengths)


def test_max_tracks(comm):
    """Few tracks still cover all images, and long ones come first."""
    graph = made(comm, 3)
    everything = tracks_of(build_tracks(graph))
    chosen = tracks_of(build_tracks(graph, max_tracks=12))
    assert len(chosen) == 12 and all(track in everything for track in chosen)
    assert {image for track in chosen for image, _ in track} == set(range(7))
    lengths = sorted(map(len, everything), reverse=True)
    assert np.mean([len(track) for track in chosen]) > np.mean(lengths)
    assert tracks_of(build_tracks(graph, max_tracks=10**6)) == everything


def test_nothing(comm):
    graph = deal(graph_of(comm, [(0, 1)], [0]), comm)
    assert tracks_of(build_tracks(graph)) == []
    assert tracks_of(build_tracks(graph, max_tracks=5, consistent=False)) == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_length": 1}, "min_length is 1"),
        ({"min_length": 4, "max_length": 3}, "max_length is 3"),
        ({"max_tracks": 0}, "max_tracks is 0"),
        ({"max_distance": -1.0}, "max_distance is -1"),
        ({"max_distance": float("nan")}, "max_distance is nan"),
    ],
)
def test_refused(comm, limits, message):
    with pytest.raises(ConfigError, match=message):
        build_tracks(made(comm), **limits)
