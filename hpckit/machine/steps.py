"""Times of elementary steps, measured for some numbers of bytes and of bytes per contiguous row.

Between the measured points times are interpolated in log(bytes), log(seconds) and log(row); beyond
the largest one they grow with the bytes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

Table = dict[int, list[tuple[int, float]]]
"""by bytes per contiguous row: (bytes, seconds), bytes ascending"""


def interpolate(table: Table, nbytes: int, row: int) -> float:
    """Seconds for `nbytes` in rows of `row` bytes; others than the table's count as the nearest."""
    rows = list(table)
    row = min(max(row, rows[0]), rows[-1])
    above = bisect_left(rows, row)
    if rows[above] == row:
        return _along(table[row], nbytes)
    low, high = rows[above - 1], rows[above]
    part = math.log(row / low) / math.log(high / low)
    return _along(table[low], nbytes) ** (1 - part) * _along(table[high], nbytes) ** part


def parse(found: Any) -> dict[str, Table]:
    """The tables of a file, by step; none where they are damaged."""
    try:
        tables = {
            step: {
                int(row): [(int(n), float(t)) for n, t in points] for row, points in table.items()
            }
            for step, table in found.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
    lines = [points for table in tables.values() for points in table.values()]
    numbers = [number for points in lines for pair in points for number in pair]
    good = "pack" in tables and all(lines) and all(0 <= number < math.inf for number in numbers)
    return tables if good else {}


def _along(points: list[tuple[int, float]], nbytes: int) -> float:
    (smallest, least), (largest, most) = points[0], points[-1]
    if nbytes <= smallest:
        return least
    if nbytes >= largest:
        return most * nbytes / largest if largest else most
    above = next(i for i, (n, _) in enumerate(points) if n > nbytes)
    (n0, t0), (n1, t1) = points[above - 1], points[above]
    part = math.log(nbytes / n0) / math.log(n1 / n0)
    return min(max(t0 ** (1 - part) * t1**part, t0), t1)  # rounding may not make more bytes faster
