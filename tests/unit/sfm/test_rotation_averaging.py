"""Rotations from pairs: against truth, SciPy and a public problem with known truth."""

import os
from pathlib import Path

import numpy as np
import pytest

from hpckit import native
from hpckit.errors import ConfigError
from hpckit.native import address
from hpckit.sfm import rotations
from hpckit.sfm.rotation_averaging import average_rotations

DATA = Path(os.environ.get("HPCKIT_DATA", Path(__file__).parents[4] / "shared/data"))
REAL = DATA / "sfm/cases/real"
ONE = np.array([1.0, 0.0, 0.0, 0.0])


def random_rotations(g, n):
    q = g.normal(size=(n, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def relative_of(q, edges):
    return rotations.multiply(q[edges[:, 1]], rotations.conjugate(q[edges[:, 0]]))


def problem(n, m, *, noise=0.0, outliers=0.0, seed=0):
    """A chain and random pairs: truth, pairs, their relative rotations; `noise` in degrees."""
    g = np.random.default_rng(seed)
    truth = random_rotations(g, n)
    chain = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)
    more = g.integers(0, n, (m, 2))
    pairs = np.vstack([chain, more[more[:, 0] != more[:, 1]]])
    edges = np.unique(np.sort(pairs, axis=1), axis=0)
    wrong = rotations.exp(np.radians(noise) * g.normal(size=(len(edges), 3)))
    relative = rotations.multiply(relative_of(truth, edges), wrong)
    bad = g.random(len(edges)) < outliers
    relative[bad] = random_rotations(g, int(bad.sum()))
    return truth, edges, relative


def own(comm, *arrays):
    """This rank's part, of uneven sizes: the last rank has least."""
    n = len(arrays[0])
    cut = [n - n * (comm.size - r) ** 2 // comm.size**2 for r in range(comm.size + 1)]
    return [a[cut[comm.rank] : cut[comm.rank + 1]] for a in arrays]


def errors(q, truth):
    """Degrees between rotations, after the one rotation of the world that fits them best."""
    turn = rotations.multiply(rotations.conjugate(q), truth)
    best = np.linalg.eigh(turn.T @ turn)[1][:, -1]
    for _ in range(10):  # towards the least sum of angles: outliers do not turn it
        off = np.arccos(np.clip(abs(turn @ best), 0.0, 1.0))
        best = np.linalg.eigh(turn.T / np.maximum(off, 1e-4) @ turn)[1][:, -1]
    return between(rotations.multiply(q, best), truth)


def between(a, b):
    off = rotations.log(rotations.multiply(a, rotations.conjugate(b)))
    return np.degrees(np.linalg.norm(off, axis=-1))


@pytest.mark.parametrize("loss", ["robust", "l1", "l2"])
@pytest.mark.parametrize("n", [2, 30, 700])
def test_exact_pairs_give_exact_rotations(comm, n, loss):
    truth, edges, relative = problem(n, 4 * n)
    q, report = average_rotations(comm, n, *own(comm, edges, relative), loss=loss)
    expected = rotations.multiply(truth, rotations.conjugate(truth[0]))
    assert between(q, expected).max() < 1e-9
    assert between(q[0], ONE) < 1e-9
    assert report.angle.max(initial=0) < 1e-9
    assert report.termination == "converged"


def test_least_squares_against_scipy(comm):
    optimize = pytest.importorskip("scipy.optimize")
    truth, edges, relative = problem(12, 30, noise=5.0)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(edges))

    def residuals(x):
        q = rotations.multiply(truth, rotations.exp(np.vstack([np.zeros(3), x.reshape(-1, 3)])))
        ends = rotations.conjugate(q[edges[:, 1]]), relative, q[edges[:, 0]]
        e = rotations.log(rotations.multiply(ends[0], rotations.multiply(*ends[1:])))
        return (np.sqrt(weights)[:, None] * e).ravel()

    best = optimize.least_squares(residuals, np.zeros(33), xtol=1e-15, ftol=1e-15, gtol=1e-12)
    part = own(comm, edges, relative, weights)
    q, report = average_rotations(comm, 12, *part, loss="l2", max_iterations=50)
    expected = rotations.multiply(
        truth, rotations.exp(np.vstack([np.zeros(3), best.x.reshape(-1, 3)]))
    )
    expected = rotations.multiply(expected, rotations.conjugate(expected[0]))
    assert between(q, expected).max() < 1e-4
    assert report.cost == pytest.approx(best.cost, rel=1e-8)


@pytest.mark.parametrize(
    ("n", "outliers", "limit"),
    [(200, 0.1, 0.5), (1000, 0.1, 0.5), (200, 0.3, 0.6), (1000, 0.3, 0.6)],
)
def test_wrong_pairs_are_survived(comm, n, outliers, limit):
    """Noise of 1 degree per axis, 20 pairs an image: its mean would be about 0.4 degrees off."""
    truth, edges, relative = problem(n, 10 * n, noise=1.0, outliers=outliers)
    q, report = average_rotations(comm, n, *own(comm, edges, relative))
    off = errors(q, truth)
    assert np.median(off) < limit
    assert off.max() < 4.0
    assert report.termination == "converged"


def test_long_chain_with_outliers(comm):
    """Pairs of neighbours only: corrections have a long way to go."""
    n = 1200
    g = np.random.default_rng(0)
    truth = random_rotations(g, n)
    edges = np.concatenate([np.stack([np.arange(n - k), np.arange(k, n)], 1) for k in range(1, 7)])
    relative = relative_of(truth, edges)
    bad = g.random(len(edges)) < 0.1
    relative[bad] = random_rotations(g, int(bad.sum()))
    q, report = average_rotations(comm, n, *own(comm, edges, relative))
    assert errors(q, truth).max() < 0.1
    assert report.solver_iterations < 40 * report.iterations


def test_components_one_by_one(comm):
    """Two scenes, and an image of no pair: each begins with the identity."""
    truth, edges, relative = problem(40, 150)
    apart = (edges[:, 0] < 25) == (edges[:, 1] < 25)
    edges, relative = edges[apart] + (edges[apart] >= 25), relative[apart]
    q, report = average_rotations(comm, 41, *own(comm, edges, relative))
    assert report.component.tolist() == [0] * 25 + [25] + [26] * 15
    world = rotations.conjugate(truth[np.repeat([0, 25], [25, 15])])
    expected = np.insert(rotations.multiply(truth, world), 25, ONE, axis=0)
    assert between(q, expected).max() < 1e-9


def test_weights_decide_between_contradictions(comm):
    """Three pairs say one thing, the heavy one another."""
    turn = rotations.exp([0.0, 0.0, 1.0])
    edges, relative = np.array([(0, 1)] * 4), np.array([ONE, ONE, ONE, turn])
    part = own(comm, edges, relative, np.array([1.0, 1.0, 1.0, 97.0]))
    q, report = average_rotations(comm, 2, *part, loss="l2")
    assert rotations.log(q[1]) == pytest.approx([0, 0, 0.97], abs=1e-6)
    assert report.cost == pytest.approx(0.5 * (3 * 0.97**2 + 97 * 0.03**2), rel=1e-6)


def test_ranks_agree_with_one_rank(comm):
    from mpi4py import MPI

    _, edges, relative = problem(600, 3000, noise=2.0, outliers=0.2)
    q, report = average_rotations(comm, 600, *own(comm, edges, relative))
    alone, one = average_rotations(MPI.COMM_SELF, 600, edges, relative)
    assert between(q, alone).max() < 1e-6
    assert report.cost == pytest.approx(one.cost, rel=1e-9)
    assert len({each.tobytes() for each in comm.allgather(q)}) == 1
    assert np.concatenate(comm.allgather(report.angle)) == pytest.approx(one.angle, abs=1e-8)


def test_no_pairs(comm):
    q, report = average_rotations(comm, 3, np.empty((0, 2), int), np.empty((0, 4)))
    assert q.tolist() == [ONE.tolist()] * 3
    assert report.termination == "no_pairs"
    assert report.component.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n": 0}, "n must be a number of images"),
        ({"edges": [(0, 2)]}, "edge 0 has"),
        ({"edges": [(1, 1)]}, "two different images of 0 to 1"),
        ({"edges": [(0.0, 1.0)]}, "must be integers"),
        ({"edges": [(0, 1), (1, 0)]}, "2 edges, but 1 relative rotations"),
        ({"relative": [[0.0] * 4]}, "a quaternion has a length"),
        ({"relative": [[np.nan] * 4]}, "a quaternion has a length"),
        ({"weights": [0.0]}, "weights are positive"),
        ({"loss": "huber"}, "loss must be"),
        ({"max_iterations": -1}, "max_iterations"),
        ({"tolerance": np.nan}, "tolerance"),
    ],
)
def test_bad_input_of_one_rank_is_an_error_of_all(comm, change, text):
    arguments = {"n": 2, "edges": [(0, 1)], "relative": [ONE]}
    if comm.rank == comm.size - 1:
        arguments |= change
    with pytest.raises(ConfigError, match=text):
        average_rotations(comm, **arguments)


def test_sphere2500(comm):
    """A public problem with its truth: least squares as the data's README says."""
    if not (REAL / "sphere2500.txt").exists():
        pytest.skip(f"no {REAL / 'sphere2500.txt'}: set HPCKIT_DATA")
    edges, relative = pose_graph(REAL / "sphere2500.txt")
    chain, step = pose_graph(REAL / "sphere2500_groundtruth.txt")
    truth = np.tile(ONE, (2500, 1))
    for (i, j), turn in zip(chain, step, strict=True):
        if j == i + 1:
            truth[j] = rotations.multiply(turn, truth[i])
    q, report = average_rotations(comm, 2500, *own(comm, edges, relative), loss="l2")
    assert report.cost <= 2.21685
    assert report.cost == pytest.approx(2.2168409, rel=1e-6)
    assert errors(q, truth).mean() <= 1.763


def pose_graph(path):
    """Pairs and their relative rotations, world to image, of a file of EDGE3 lines."""
    lines = [line.split() for line in path.read_text().splitlines() if line.startswith("EDGE3")]
    edges = np.array([[int(text) for text in line[1:3]] for line in lines])
    angles = np.array([[float(text) for text in line[6:9]] for line in lines])
    about = [rotations.exp(angles[:, [axis]] * np.eye(3)[axis]) for axis in range(3)]
    turn = rotations.multiply(about[2], rotations.multiply(about[1], about[0]))
    return edges, rotations.conjugate(turn)


def test_spanning_tree_is_the_largest():
    csgraph = pytest.importorskip("scipy.sparse.csgraph")
    from scipy.sparse import csr_array

    _, edges, _ = problem(60, 300, seed=3)
    weights = np.random.default_rng(4).permutation(len(edges)) + 1.0
    order, parent, taken = np.argsort(-weights), np.arange(60), np.empty(60, np.int64)
    kernels = native.load("hpckit.sfm.kernels.averaging")
    count = kernels.forest(len(edges), *map(address, (edges, order, parent, taken)))
    graph = csr_array((1000.0 - weights, edges.T), (60, 60))
    assert count == 59
    least = csgraph.minimum_spanning_tree(graph).sum()
    assert (1000.0 - weights[taken[:count]]).sum() == least


@pytest.mark.parametrize("size", [1, 4, 10])
def test_pieces_of_a_tree_are_connected(size):
    n = 200
    g = np.random.default_rng(5)
    above = np.array([0] + [int(g.integers(max(0, k - 5), k)) for k in range(1, n)])
    order, count, cluster = np.arange(n), np.empty(n, np.int64), np.empty(n, np.int64)
    kernels = native.load("hpckit.sfm.kernels.averaging")
    pieces = kernels.clusters(
        n, *map(address, (order, above)), size, *map(address, (count, cluster))
    )
    assert sorted(set(cluster)) == list(range(pieces))
    assert pieces <= n // size + 1
    tops = sum(above[i] == i or cluster[above[i]] != cluster[i] for i in range(n))
    assert tops == pieces
