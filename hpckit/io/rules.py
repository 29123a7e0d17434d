"""How the ranks hold an array that a checkpoint saves, and how other ranks get it back.

| rule | the ranks hold | any number of ranks gets |
| --- | --- | --- |
| `"grid"` | a field with ghosts on the checkpoint's grid | its boxes, on any process grid |
| `"rows"` | blocks of rows of one array, rank after rank | its block as `partition` divides them |
| `"same"` | the same array | the same array; rank 0 saves it |
| `"per rank"` | an array each, of any shape | nothing: only as many ranks as saved it |

The first is `checkpoint`'s own business; here are the other three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.lib import recfunctions

from hpckit.comm.partition import block
from hpckit.errors import ConfigError, same, together
from hpckit.io.box import check_array
from hpckit.io.manifest import Manifest, SavedArray

RULES = ("grid", "rows", "same", "per rank")
Arrays = Mapping[str, tuple[str, np.ndarray | None]]  # name to rule and array


def check(comm: MPI.Intracomm, arrays: Arrays) -> None:
    """Raise `ConfigError` on all ranks unless they hold the arrays as the rules say."""
    with together(comm):
        for name, (rule, array) in arrays.items():
            if array is not None:
                check_array(f"array {name!r}", array)
                if rule == "rows" and array.ndim == 0:
                    raise ConfigError(f"array {name!r} is one number: it has no rows")
    held = [(name, rule, _alike(rule, array)) for name, (rule, array) in arrays.items()]
    same(comm, "the arrays of a checkpoint, as far as their rules ask,", held)


def check_targets(comm: MPI.Intracomm, arrays: Arrays) -> None:
    """As `check`, of arrays that are about to be filled: what is in them does not count."""
    with together(comm):
        for name, (_, array) in arrays.items():
            if array is not None:
                check_array(f"array {name!r}", array)


def is_held_by_all(arrays: Arrays) -> bool:
    """Whether every rank has something to save."""
    return any(rule != "same" for rule, _ in arrays.values())


def held(arrays: Arrays, rank: int) -> list[Any]:
    """The arrays that this rank saves."""
    return [array for rule, array in arrays.values() if rule != "same" or rank == 0]


def load(
    manifest: Manifest, file: Callable[[int], Path], comm: MPI.Intracomm, arrays: Arrays
) -> dict[str, np.ndarray]:
    """This rank's arrays: those that were given, filled, and new ones in place of None.

    file : the file of each part of the manifest

    Raises `ConfigError` where the checkpoint has no such array, or it does not fit.
    """
    records = {name: _fitting(manifest, name, rule) for name, (rule, _) in arrays.items()}
    found = {}
    for name, record in records.items():
        target = _target(record, arrays[name][1], comm)
        _fill(target, record, manifest, file, comm)
        found[name] = target
    return found


def _alike(rule: str, array: np.ndarray | None) -> Any:
    """What of an array must be equal on all ranks."""
    if array is None:
        return None
    if rule == "same":  # padding between the numbers of records may differ
        return recfunctions.repack_fields(array) if array.dtype.names else array
    return str(array.dtype), array.shape[1:] if rule == "rows" else None


def _fitting(manifest: Manifest, name: str, rule: str) -> SavedArray:
    record = next((each for each in manifest.arrays if each.name == name), None)
    if record is None:
        there = ", ".join(each.name for each in manifest.arrays) or "none at all"
        raise ConfigError(f"the checkpoint has no array {name!r}, only {there}")
    if record.rule != rule:
        raise ConfigError(
            f"array {name!r} was saved by the rule {record.rule!r}, but this run asks for {rule!r}"
        )
    return record


def _target(record: SavedArray, given: np.ndarray | None, comm: MPI.Intracomm) -> np.ndarray:
    """The array to fill: the given one, which must fit, or a new one."""
    shape, name = record.shapes[0], record.name
    if record.rule == "per rank":
        if len(record.shapes) != comm.size:
            n = len(record.shapes)
            raise ConfigError(
                f"array {name!r} was saved per rank by {n} ranks, but this run has {comm.size}: "
                f"run it with mpirun -n {n}"
            )
        shape = record.shapes[comm.rank]
    elif record.rule == "rows":
        start, stop = _my_rows(record, comm)
        shape = (stop - start, *shape[1:])
    if given is None:
        return np.empty(shape, record.dtype)
    if given.shape != shape or given.dtype != record.dtype:
        raise ConfigError(
            f"array {name!r} is {given.dtype} {given.shape}, but this rank gets {record.dtype} "
            f"{shape} from the checkpoint: pass None to have it made"
        )
    return given


def _fill(
    target: np.ndarray,
    record: SavedArray,
    manifest: Manifest,
    file: Callable[[int], Path],
    comm: MPI.Intracomm,
) -> None:
    if record.rule != "rows":
        number = comm.rank if record.rule == "per rank" else 0
        if target.size:
            target[...] = _stored(record, manifest, file, number)
        return
    start, stop = _my_rows(record, comm)
    first = 0  # row of the part at hand
    for number, shape in enumerate(record.shapes):
        low, high = max(first, start), min(first + shape[0], stop)
        if low < high and target.size:
            rows = _stored(record, manifest, file, number)
            target[low - start : high - start] = rows[low - first : high - first]
        first += shape[0]


def _stored(
    record: SavedArray, manifest: Manifest, file: Callable[[int], Path], number: int
) -> np.ndarray:
    """What one file holds of an array, mapped."""
    offset = manifest.offset(number, record)
    return np.memmap(file(number), record.dtype, "r", offset, record.shapes[number])


def _my_rows(record: SavedArray, comm: MPI.Intracomm) -> tuple[int, int]:
    return block(sum(shape[0] for shape in record.shapes), comm.size, comm.rank)
