"""What was measured: a row for each algorithm and size, the fastest of them, and their table."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hpckit.units import amount, period

WINDOW = ", window"  # what a name ends with whose arrays lie in shared memory


class Row(msgspec.Struct):
    """What was measured of one way at one size; times are those of the slowest rank."""

    bytes: int
    way: str  # the algorithm, and whether arrays lie in windows
    algorithm: str  # the one that ran: what `auto` chose
    median: float  # s
    low: float  # s, a quarter of the calls were faster
    high: float  # s, a quarter were slower
    bandwidth: float  # B/s of one rank's array
    ratio: float  # time of MPI's own allreduce over ours
    predicted: float | None  # s, by the links' model


def best(rows: Iterable[Row], nbytes: int, windows: bool = True) -> Row:
    """The fastest fixed way at one size, with arrays in windows too or only the others."""
    fixed = [row for row in rows if row.bytes == nbytes and not row.way.startswith("auto")]
    return min(
        (row for row in fixed if windows or not row.way.endswith(WINDOW)),
        key=lambda row: row.median,
    )


def table(rows: list[Row], title: str) -> list[str]:
    """Lines for people, the fastest first."""
    lines = [f"{title:<32}{'time':>10}{'bandwidth':>13}{'x native':>10}{'model':>10}"]
    for row in sorted(rows, key=lambda row: row.median):
        name = f"{row.way}: {row.algorithm}" if row.way.startswith("auto") else row.way
        model = period(row.predicted) if row.predicted else "-"
        rate = f"{amount(row.bandwidth)}/s"
        numbers = f"{period(row.median):>10}{rate:>13}{row.ratio:>10.2f}{model:>10}"
        lines.append(f"  {name:<30}{numbers}")
    return lines
