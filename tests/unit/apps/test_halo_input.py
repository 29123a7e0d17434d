"""Refining maps of elevation."""

import numpy as np

from hpckit.apps.halo.input import refine


def test_planes_stay_planes():
    rows, columns = np.mgrid[0:6, 0:7]
    fine = refine(3.0 * rows - 2.0 * columns, 4, (8, 8), (16, 20))
    at = (np.arange(8, 16)[:, None] + 0.5) / 4 - 0.5, (np.arange(8, 20)[None, :] + 0.5) / 4 - 0.5
    np.testing.assert_allclose(fine, 3.0 * at[0] - 2.0 * at[1], atol=1e-12)


def test_factor_one_changes_nothing():
    coarse = np.random.default_rng(1).normal(size=(5, 4))
    np.testing.assert_array_equal(refine(coarse, 1, (0, 0), (5, 4)), coarse)


def test_any_box_has_the_same_bits():
    coarse = np.random.default_rng(2).normal(size=(9, 11))
    whole = refine(coarse, 3, (0, 0), (27, 33))
    np.testing.assert_array_equal(refine(coarse, 3, (4, 7), (19, 33)), whole[4:19, 7:33])
