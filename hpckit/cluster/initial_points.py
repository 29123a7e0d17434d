"""First medoids that are given as points: the objects nearest to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hpckit.cluster.data import check_unmasked
from hpckit.cluster.metrics import Metric, allows_nan
from hpckit.errors import ConfigError


def read(init: Any, metric: Any, d: int) -> np.ndarray | None:
    """Points (k, d) float64; None where `init` is something else than a table of numbers."""
    check_unmasked(init, "init")
    try:
        places = np.asarray(init)
    except ValueError:  # ragged
        return None
    if places.ndim != 2 or places.dtype.kind not in "biuf":
        return None
    if isinstance(metric, str) and metric == "precomputed":
        raise ConfigError(
            "init must be indices of objects: with metric='precomputed' there are no points"
        )
    if places.shape[1] != d or not len(places):
        raise ConfigError(
            f"init has shape {places.shape}, it must be (k, {d}): points like those of X"
        )
    odd = np.isinf(places) if allows_nan(metric) else ~np.isfinite(places)
    if odd.any():
        raise ConfigError(f"init has a coordinate that is {places[odd][0]}: points must be finite")
    return places.astype(np.float64)


def objects(points: np.ndarray, metric: Metric, places: np.ndarray) -> np.ndarray:
    """(k,) int64: for each place in turn the nearest point (n, d) left, above all an equal one."""
    chosen, left = [], np.ones(len(points), bool)
    for place in places:
        distances = metric.table(points, place[None])[:, 0]
        if np.isnan(distances).any():
            raise ConfigError(
                f"metric={metric.name!r} is nan between a point of init and a point of X"
            )
        equal = ((points == place) | (np.isnan(points) & np.isnan(place))).all(axis=1)
        order = np.where(left, np.where(equal, -1.0, distances), math.inf)
        chosen.append(int(order.argmin()))
        left[chosen[-1]] = False
    return np.array(chosen)
