"""Distances in ticks: near the true ones, and with the same bits whoever asks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpckit import native
from hpckit.cluster import inputs, quantization
from hpckit.cluster.distances import load_distances
from hpckit.cluster.metrics import WITH_KERNEL as METRICS
from hpckit.errors import ConfigError


def plain(points, metric):
    """All distances in float64, straight from the definitions."""
    difference = points[:, None] - points
    if metric == "cosine":
        lengths = np.linalg.norm(points, axis=1)
        return 1 - points @ points.T / np.outer(lengths, lengths)
    return {
        "euclidean": lambda: np.sqrt((difference**2).sum(axis=-1)),
        "sqeuclidean": lambda: (difference**2).sum(axis=-1),
        "manhattan": lambda: np.abs(difference).sum(axis=-1),
        "chebyshev": lambda: np.abs(difference).max(axis=-1),
        "hamming": lambda: (difference != 0).mean(axis=-1),
    }[metric]()


def load(points, metric, by_candidate=False, comm=None):
    problem = inputs.check(points, 1, init="first", metric=metric, comm=comm)
    return load_distances(problem, by_candidate=by_candidate)


@pytest.mark.parametrize("scale", [1.0, 1e-70, 1e60])
@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_right_to_a_tick(metric, scale):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(290, 5)), rng.integers(1, 3, (20, 5))])
    expected = plain(points, metric)
    degree = {"cosine": 0, "hamming": 0, "sqeuclidean": 2}.get(metric, 1)
    loaded = load(points * scale, metric)
    got = np.ldexp(loaded.view.astype(float), loaded.exponent) / scale**degree
    tick = np.ldexp(1.0, loaded.exponent) / scale**degree
    # Bits that are lost: the largest distance is only bounded.
    lost = 2 if metric in ("sqeuclidean", "cosine") else 1
    assert expected.max() * 2.0**-25 < tick <= expected.max() * 2.0 ** (lost - 23)
    assert np.abs(got - expected).max() <= 0.5001 * tick
    np.testing.assert_array_equal(got, got.T)
    assert not got.diagonal().any()


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_equal_points_far_from_the_origin_are_at_distance_zero(metric):
    points = np.random.default_rng(1).normal(size=(40, 30)) + 1e6
    distances = load(np.concatenate([points, points]), metric).view
    assert not distances[np.arange(40), np.arange(40) + 40].any()
    if metric != "cosine":
        np.testing.assert_allclose(
            distances[:40, :40] / distances.max(),
            plain(points, metric) / plain(points, metric).max(),
            atol=1e-7,
        )


@pytest.mark.mpi
@pytest.mark.parametrize("metric", METRICS)
def test_every_rank_has_its_part_of_the_same_matrix(comm, metric):
    points = np.random.default_rng(2).normal(size=(517, 11))
    whole = load(points, metric)
    for by_candidate in (False, True):
        mine = load(points, metric, by_candidate, comm)
        np.testing.assert_array_equal(mine.view, whole.view[:, mine.first : mine.first + mine.m])
        assert mine.exponent == whole.exponent


@given(
    st.lists(st.floats(0, 1e100, allow_subnormal=False), min_size=1, max_size=50),
    st.sampled_from(["f4", "f8"]),
)
def test_ticks_are_the_nearest_whole_numbers(values, dtype):
    x = np.minimum(np.array([values]), 1e30).astype(dtype)
    top = quantization.largest(x)
    assert top == x.max()
    if 0 < top < 1e-140:
        with pytest.raises(ConfigError, match="use other units"):
            quantization.exponent(top, 24, "largest distance")
        return
    exponent = quantization.exponent(top, 24, "largest distance")
    ticks = np.empty(x.shape, np.float32)
    quantization.to_ticks(x, exponent, ticks)
    assert ticks.max() <= 2**24
    np.testing.assert_array_equal(ticks, np.rint(np.ldexp(x.astype(float), -exponent)))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_ticks_of_any_layout(dtype):
    """Whole tiles and their rests, along and across the rows, into padded rows and in place."""
    x = np.random.default_rng(5).random((300, 400)).astype(dtype)
    for part in (
        x[:150, :203],
        x[:203, :150].T,
        np.asfortranarray(x)[::2, ::3],
        x[:, ::-2],
        x[:1, :128],
        x[:64, :64].T,
    ):
        expected = np.rint(part.astype(float) * 2**24)
        ticks = np.full((len(part), part.shape[1] + 5), -1, np.float32)
        quantization.to_ticks(part, -24, ticks[:, :-5])
        np.testing.assert_array_equal(ticks[:, :-5], expected)
        assert (ticks[:, -5:] == -1).all()
        if dtype == "f4":
            same = part.copy()
            quantization.to_ticks(same, -24, same)
            np.testing.assert_array_equal(same, expected)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf, -1e-300])
def test_bad_values_are_found_anywhere(bad):
    for place in range(40):
        x = np.linspace(0, 5, 40).reshape(5, 8)
        x.flat[place] = bad
        for layout in (x, x.T, x[:, ::-1]):
            with pytest.raises(ConfigError, match="finite and not negative"):
                quantization.largest(layout)
    assert quantization.largest(np.array([[-0.0, 0.5]])) == 0.5


def test_whole_weights_are_kept_and_others_nearly():
    whole, unit = quantization.weights(np.array([1.0, 2, 3, 2**27]))
    assert np.ldexp(whole, unit).tolist() == [1, 2, 3, 2**27]
    given_weights = np.random.default_rng(3).random(1000)
    rounded, unit = quantization.weights(given_weights)
    assert rounded.sum() <= 2**29
    np.testing.assert_allclose(
        np.ldexp(rounded, unit), given_weights, atol=given_weights.sum() * 2**-28
    )


def test_masks_find_what_single_comparisons_find():
    """The kernel and plain NumPy: the same proposal, and the same candidates that improve."""
    kernels, rng = native.load("hpckit.cluster.kernels.fasterpam"), np.random.default_rng(4)
    for n, k in [(1, 1), (64, 3), (65, 2), (502, 7), (503, 400)]:
        rows = rng.integers(0, 50, (n, n)).astype(np.float32)
        dn, ds = np.sort(rng.integers(0, 50, (2, n)), axis=0).astype(np.float32)
        near, weights = rng.integers(0, k, n, dtype=np.int32), rng.integers(1, 9, n).astype(float)
        taken = (rng.random(n) < 0.1).astype(np.int64)
        removal = np.bincount(near, weights * (ds - dn), k)
        after, affected, proposal = np.empty(k), np.empty(4 * (n + 5), np.int64), np.empty(3)
        candidates, places = np.arange(n), np.arange(n)
        objects = map(native.address, (taken, near, dn, ds, weights))
        judged = native.address(removal), native.address(ds), 1.0
        scratch = map(native.address, (after, affected, proposal))
        todo = native.address(candidates), native.address(places), n
        count = kernels.evaluate(native.address(rows), n, *todo, n, *objects, k, *judged, *scratch)
        swaps = []
        for j in np.flatnonzero(taken == 0):
            d, concerned = rows[j], rows[j] < ds
            moved = weights * np.where(concerned, np.maximum(d, dn) - ds, 0)
            gain = (weights * np.where(concerned, np.minimum(d, dn) - dn, 0)).sum()
            changes = gain + removal + np.bincount(near, moved, k)
            if changes.min() < 0:
                swaps.append((changes.min(), j, changes.argmin()))
        assert candidates[:count].tolist() == [j for _, j, _ in swaps]
        assert tuple(proposal) == min(swaps, default=(0, -1, -1))


@pytest.mark.parametrize(
    "ds", [0, 1, 2, 7, 8, 2**22 - 1, 2**22, 2**23 - 1, 2**23, 2**23 + 1, 2**24 - 1, 2**24]
)
def test_limits_tell_what_rounds_to_less(ds):
    """Just below its limit a distance rounds to less than ds, at the limit it does not."""
    # Object 0: slots 0 and 1, at 0 and ds.
    change = np.array([0, 0, 1, 0, np.float32(ds).view(np.int32)], np.int32)
    dn, second, limit, dn_was, ds_was = np.zeros((5, 1), np.float32)
    near, seco, near_was, changed = (np.zeros(1, dtype) for dtype in ("i4", "i4", "i4", "i8"))
    kept = np.ones(1), np.zeros(2), changed, near_was, dn_was, ds_was
    for tick in (1.0, 2.0**-20, 2.0**60):
        served = map(native.address, (near, seco, dn, second, limit))
        native.load("hpckit.cluster.kernels.state").change(
            native.address(change), 1, *served, tick, *map(native.address, kept)
        )
        below = np.nextafter(limit, np.float32(-np.inf))
        assert second == ds
        assert (
            np.rint(below / np.float32(tick))
            < max(ds, 1)
            <= max(1, np.rint(limit / np.float32(tick)))
        )
