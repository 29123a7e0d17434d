"""Sizes and times as people read them."""

import pytest

from hpckit import units


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (512, "512 B"), (1_500_000, "1.5 MB"), (2e21, "2e+03 EB")]
)
def test_amounts(nbytes, text):
    assert units.amount(nbytes) == text


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (8, "8 B"), (32 << 10, "32 KiB"), (1 << 40, "1 TiB")]
)
def test_powers_of_two(nbytes, text):
    assert units.binary(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.23e-6, "1.23 us"), (0.0456, "45.6 ms"), (0.9999, "1 s"), (72, "72 s")]
)
def test_periods(seconds, text):
    assert units.period(seconds) == text
