"""Times between measured points, and beyond them."""

import pytest

from hpckit.machine.steps import interpolate

TABLE = {8: [(100, 1e-6), (10_000, 4e-6)], 32: [(100, 1e-6), (10_000, 1e-6)]}


def test_measured_points_are_returned():
    assert interpolate(TABLE, 100, 8) == pytest.approx(1e-6)
    assert interpolate(TABLE, 10_000, 8) == pytest.approx(4e-6)


def test_between_points_times_are_interpolated_in_logarithms():
    assert interpolate(TABLE, 1000, 8) == pytest.approx(2e-6)
    assert interpolate(TABLE, 10_000, 16) == pytest.approx(2e-6)


def test_between_points_of_equal_times_is_their_time():
    for time in (1e-6, 3.3e-6, 7.7e-6):
        assert {
            interpolate({8: [(512, time), (4096, time)]}, nbytes, 8) for nbytes in range(512, 4096)
        } == {time}


def test_beyond_the_points():
    assert interpolate(TABLE, 1, 8) == pytest.approx(1e-6)
    assert interpolate(TABLE, 30_000, 8) == pytest.approx(12e-6)
    assert interpolate(TABLE, 10_000, 1) == pytest.approx(4e-6)
    assert interpolate(TABLE, 10_000, 4096) == pytest.approx(1e-6)
