"""Who came last, and how long calls took: a table of what all ranks recorded, on one clock."""

from __future__ import annotations

import numpy as np

_HEADER = f"{'calls':>7} {'time ms':>9} {'GB/s':>7} {'wait ms':>9}  {'last to come':<16} collective"


def table(everyone: list[dict[int, tuple]]) -> str:
    """everyone : for each rank, by number of the call: (kind, place, bytes), time of entering, of
    leaving.
    """
    places: dict[tuple[str, str], list[int]] = {}
    for number in sorted(set.intersection(*map(set, everyone))):
        places.setdefault(everyone[0][number][0][:2], []).append(number)
    return "\n".join(
        [_HEADER, *(_row(place, numbers, everyone) for place, numbers in places.items())]
    )


def _row(place: tuple[str, str], numbers: list[int], everyone: list[dict[int, tuple]]) -> str:
    entered, left = (np.array([[rank[n][i] for n in numbers] for rank in everyone]) for i in (1, 2))
    seconds, wait = left.max(axis=0) - entered.max(axis=0), np.ptp(entered, axis=0)
    rate = sum(everyone[0][n][0][2] for n in numbers) / seconds.sum() / 1e9
    last = np.bincount(entered.argmax(axis=0))
    who = f"rank {last.argmax()}, {100 * last.max() / len(numbers):.0f} %"
    return (
        f"{len(numbers):7} {1e3 * np.median(seconds):9.3f} {f'{rate:7.2f}' if rate else '':7} "
        f"{1e3 * wait.mean():9.3f}"
        f"  {who:<16} {place[0]} at {place[1]}"
    )
