"""Checkpoints that survive a crash at any moment, for any number of ranks; see docs/io.md."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from collections.abc import Mapping
from functools import partial
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.comm.partition import block
from hpckit.comm.staggering import Stagger
from hpckit.errors import ConfigError, HpckitError, same, together
from hpckit.io import checkpoint_folder as folder
from hpckit.io import rules as by_rule
from hpckit.io.box import field_box, staggering_of
from hpckit.io.manifest import Field, Manifest, Part, SavedArray, describe, json_text

_log = logging.getLogger(__name__)


class Checkpoint:
    """Checkpoints in one folder, which is made if need be; collective in every method.

    ::

        checkpoint = Checkpoint("checkpoints", grid)  # of fields
        checkpoint.save(step, time, {"h": h, "u": u}, {"seed": 1})
        step, time, extra = checkpoint.load({"h": h, "u": u})

        state = {"points": points, "poses": poses}  # without a grid
        checkpoint = Checkpoint("model", comm, rules={"points": "rows", "poses": "same"})
        checkpoint.save(step, time, state, {})

    A checkpoint is one file of raw values per rank, and a JSON manifest that is written last, when
    all files are on the disk. The newest `keep` that are whole are kept; an older one goes when the
    new one is complete.

    Parameters
    ----------
    where : the grid on which the fields live, or a communicator where there is none.
    rules : how the ranks hold each array, by name, or one rule for all: `"grid"`, a field with
        ghosts (what has no rule, where there is a grid); `"rows"`, blocks of rows of one array, in
        the order of the ranks; `"same"`, the same array on all ranks; `"per rank"`, arrays of their
        own, which only as many ranks can load.

    Raises `ConfigError` on all ranks when the arguments are impossible or differ between ranks.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        where: Grid | MPI.Intracomm,
        keep: int = 2,
        *,
        rules: str | Mapping[str, str] | None = None,
    ) -> None:
        self._grid = where if isinstance(where, Grid) else None
        self._comm: MPI.Intracomm = where.comm if isinstance(where, Grid) else where
        # Those known to be good, with this rank's files and their states.
        self._whole: dict[int, dict[Path, tuple[int, ...]]] = {}
        with together(self._comm):
            self.directory = Path(directory)
            self._keep = index(keep)
            one = isinstance(rules, str)
            self._rules: dict[str, str] = {} if one else dict(rules or {})
            self._rule = rules if one else "grid" if self._grid else None  # of all other arrays
            if keep < 1:
                raise ConfigError(f"keep {keep}: at least one checkpoint must be kept")
            for rule in (rules,) if one else self._rules.values():
                self._check_rule(rule)
        said = (self.directory, self._keep, self._rule, self._rules)
        same(self._comm, "the arguments of Checkpoint", said)
        with together(self._comm):
            if self._comm.rank == 0:
                folder.make_folder(self.directory)

    def exists(self) -> bool:
        """Whether there is any checkpoint, good or bad."""
        return bool(self._saved())

    def save(
        self, step: int, time: float, arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]
    ) -> None:
        """Save the arrays, of fields the owned cells; `step`, `time` and `extra` are rank 0's.

        Raises `ConfigError` for what cannot be saved and `HpckitError` when writing fails: the
        checkpoints that were there are still good then.
        """
        fields, others = self._sorted(arrays)
        staggered = self._staggered(fields)
        by_rule.check(self._comm, others)
        text, number = "", 0
        with together(self._comm):
            if not math.isfinite(time):
                raise ConfigError(f"time {time} of a checkpoint: it must be a finite number")
            text = json_text({"step": int(index(step)), "time": float(time), "extra": dict(extra)})
            if self._comm.rank == 0:
                folder.remove(folder.rubbish(self.directory))
                number = folder.next_number(self.directory)
        number = self._comm.bcast(number)
        # What is the same everywhere, and JSON, are rank 0's to save.
        writers = self._comm.size if self._grid or by_rule.is_held_by_all(others) else 1
        part = None
        with together(self._comm):
            if self._comm.rank < writers:
                part = self._write_part(number, fields, others)
        told = self._comm.gather((part, [array.shape for _, array in others.values()]))
        with together(self._comm):
            if told is not None:
                manifest = Manifest(
                    **json.loads(text),
                    shape=self._grid.shape if self._grid else (),
                    fields=[Field(k, describe(v.dtype), staggered[k]) for k, v in fields.items()],
                    parts=[part for part, _ in told if part],
                    arrays=_records(others, [shapes for _, shapes in told]),
                )
                folder.write_file(self._manifest(number), [manifest.to_json()])
        mine = [self._file(number)] if part else []
        mine += [self._manifest(number)] if self._comm.rank == 0 else []
        self._whole[number] = {file: folder.state(file) for file in mine}
        self._clean(number)

    def load(self, arrays: Mapping[str, np.ndarray | None]) -> tuple[int, float, dict[str, Any]]:
        """Fill the arrays, of fields the owned cells, from the newest good checkpoint.

        None instead of an array that is no field asks for a new one, which takes its place in
        `arrays`, as where its number of rows is not known. A checkpoint that is damaged is passed
        over with a warning. Returns step, time and extra.

        Raises `HpckitError` when none is good, and `ConfigError` when it holds another grid, other
        arrays, or arrays by other rules.
        """
        fields, others = self._sorted(arrays)
        staggered = self._staggered(fields)
        by_rule.check_targets(self._comm, others)
        failures = []
        for number in self._saved():
            try:
                manifest = self._verified(number)
            except HpckitError as error:
                failures.append(f"checkpoint-{number:06}: {error}")
                self._warn("is damaged, trying the one before", number, error)
                continue
            with together(self._comm):
                if self._grid:
                    manifest.check(self._grid, fields, staggered)
                file = partial(self._file, number)
                made = by_rule.load(manifest, file, self._comm, others)
                self._read_fields(number, manifest, fields)
                for name, array in made.items():
                    if arrays[name] is None:
                        arrays[name] = array  # type: ignore[index]
            return manifest.step, manifest.time, manifest.extra
        found = "; ".join(failures) or "there is none"
        raise HpckitError(f"no good checkpoint in {self.directory}: {found}")

    def _check_rule(self, rule: object) -> None:
        if rule not in by_rule.RULES:
            raise ConfigError(f"rule {rule!r} is not known: use one of {', '.join(by_rule.RULES)}")
        if rule == "grid" and self._grid is None:
            raise ConfigError('rule "grid" needs a grid: make it Checkpoint(directory, grid)')

    def _sorted(self, arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields, and the other arrays with their rules (collective)."""
        rules: dict[str, str] = {}
        with together(self._comm):
            for name in arrays:
                rules[name] = self._rule_of(name)
        same(self._comm, "the names of the arrays, with their rules,", rules)
        fields = {name: arrays[name] for name, rule in rules.items() if rule == "grid"}
        others = {n: (rule, arrays[n]) for n, rule in rules.items() if rule != "grid"}
        return fields, others

    def _rule_of(self, name: str) -> str:
        rule = self._rules.get(name, self._rule)
        if rule is None:
            raise ConfigError(
                f"array {name!r} needs a rule that says how the ranks hold it, such as "
                f'rules={{{name!r}: "rows"}}: "rows", "same" or "per rank"'
            )
        return rule

    def _staggered(self, fields: Mapping[str, np.ndarray]) -> dict[str, Stagger]:
        return staggering_of(self._grid, fields) if self._grid else {}

    def _write_part(
        self, number: int, fields: Mapping[str, np.ndarray], others: by_rule.Arrays
    ) -> Part:
        """This rank's file: its cells of one field after the other, then its arrays."""
        start = stop = ()
        owned = ()
        if self._grid:
            start, stop = field_box(self._grid, self._grid.rank, (0,) * self._grid.ndim)
            owned = self._grid.owned
        cells = (array[owned] for array in fields.values())  # one copy at a time
        pieces = itertools.chain(cells, by_rule.held(others, self._comm.rank))
        size, crc = folder.write_file(
            self._file(number),
            (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in pieces),
        )
        return Part(start, stop, size, crc)

    def _clean(self, new: int) -> None:
        """Remove what is older than the newest `keep` whole ones, of which `new` is the last."""
        older, whole = [number for number in self._saved() if number < new], 1
        for i, number in enumerate(older):
            if whole == self._keep:
                with together(self._comm):
                    if self._comm.rank == 0:
                        files = folder.ours(self.directory)
                        folder.remove(file for file, its, _ in files if its in older[i:])
                return
            if number != older[-1]:  # whether the oldest is whole decides nothing
                whole += self._is_whole(number)

    def _is_whole(self, number: int) -> bool:
        """Whether the checkpoint is good: files as we wrote them, or else read again."""
        known = self._whole.get(number)
        untouched = known is not None and all(
            folder.state(file) == state for file, state in known.items()
        )
        if not self._comm.allreduce(int(untouched), MPI.MIN):
            try:
                self._verified(number)
            except HpckitError as error:
                self._warn("is damaged, the one before is kept in its stead", number, error)
                return False
        return True

    def _saved(self) -> list[int]:
        """The numbers of the checkpoints that are there, good or bad, the newest first."""
        found: set[int] = set()
        with together(self._comm):
            if self._comm.rank == 0:
                found = folder.saved(self.directory)
        return sorted(self._comm.bcast(found), reverse=True)

    def _warn(self, what: str, number: int, error: HpckitError) -> None:
        if self._comm.rank == 0:
            _log.warning("%s/checkpoint-%06d %s: %s", self.directory, number, what, error)

    def _verified(self, number: int) -> Manifest:
        """The manifest, once the ranks together have found every file of it whole."""
        manifest = None
        with together(self._comm):
            if self._comm.rank == 0:
                manifest = Manifest.from_json(folder.read_manifest(self._manifest(number)))
        manifest = self._comm.bcast(manifest)
        with together(self._comm):
            for rank in range(*block(len(manifest.parts), self._comm.size, self._comm.rank)):
                folder.verify(self._file(number, rank), manifest.parts[rank])
        return manifest

    def _read_fields(
        self, number: int, manifest: Manifest, fields: Mapping[str, np.ndarray]
    ) -> None:
        """Fill the owned cells from all files whose boxes meet them."""
        for record in manifest.fields:
            if self._grid is None or record.name not in fields:
                continue
            mine = field_box(self._grid, self._grid.rank, record.extra)
            owned = fields[record.name][self._grid.owned]
            for rank, part in enumerate(manifest.parts):
                start, stop = manifest.box(part, record)
                target, source = _common(mine, (start, stop))
                if target is not None:
                    shape = tuple(b - a for a, b in zip(start, stop, strict=True))
                    offset = manifest.offset(rank, record)
                    data = np.memmap(self._file(number, rank), record.dtype, "r", offset, shape)
                    owned[target] = data[source]

    def _manifest(self, number: int) -> Path:
        return folder.manifest_file(self.directory, number)

    def _file(self, number: int, rank: int | None = None) -> Path:
        """That of a rank, by default this one's."""
        return folder.data_file(self.directory, number, self._comm.rank if rank is None else rank)


def _records(
    others: Mapping[str, tuple[str, np.ndarray]], shapes: list[list[tuple[int, ...]]]
) -> list[SavedArray]:
    """What the manifest says of arrays; shapes : of each array, per rank."""
    return [
        SavedArray(
            name,
            describe(array.dtype),
            rule,  # type: ignore[arg-type]
            [each[i] for each in (shapes[:1] if rule == "same" else shapes)],
        )
        for i, (name, (rule, array)) in enumerate(others.items())
    ]


def _common(mine, other) -> tuple[tuple[slice, ...] | None, tuple[slice, ...]]:
    """The cells that two boxes share, counted within each; None where there are none."""
    start = [max(a, b) for a, b in zip(mine[0], other[0], strict=True)]
    stop = [min(a, b) for a, b in zip(mine[1], other[1], strict=True)]
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        return None, ()
    within = [
        tuple(slice(a - low, b - low) for a, b, low in zip(start, stop, box[0], strict=True))
        for box in (mine, other)
    ]
    return within[0], within[1]
