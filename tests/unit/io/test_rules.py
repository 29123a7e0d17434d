"""Checkpoints of arrays without a grid: each rule restarts on the numbers of ranks it should."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpckit import Checkpoint, ConfigError, Grid, HpckitError
from hpckit.comm.partition import block
from hpckit.io.manifest import Manifest, Part, SavedArray, describe, json_text

RECORD = np.dtype([("id", "<i4"), ("v", ">f8", (2,))], align=True)
RULES = {"points": "rows", "poses": "same", "ring": "per rank", "one": "same", "none": "rows"}


def state(comm, uneven=False):
    """Arrays as ranks hold them before a save; `uneven`: rows not divided as we would."""
    n = 11
    low, high = block(n, comm.size, comm.rank)
    if uneven:
        low, high = (0, n) if comm.rank == comm.size - 1 else (0, 0)
    poses = np.zeros(5, RECORD)
    poses["id"], poses["v"] = np.arange(5), np.arange(10).reshape(5, 2) / 3
    return {
        "points": points(low, high),
        "poses": poses,
        "ring": np.full((comm.rank + 1, 2), comm.rank, ">i2"),
        "one": np.array(3.5),
        "none": np.empty((0, 4), "f4"),
    }


def points(low, high):
    return np.arange(3.0 * low, 3.0 * high).reshape(-1, 3)


def check(comm, arrays):
    wanted = state(comm)
    assert arrays.keys() == wanted.keys()
    for name, array in arrays.items():
        assert array.dtype == wanted[name].dtype and np.array_equal(array, wanted[name]), name


@pytest.mark.parametrize("uneven", [False, True])
def test_what_was_saved_comes_back(comm, shared_path, uneven):
    checkpoint = Checkpoint(shared_path, comm, rules=RULES)
    for step in range(3):
        checkpoint.save(step, step / 2, state(comm, uneven), {"random": [1, 2]})
    new: dict = dict.fromkeys(RULES)
    assert Checkpoint(shared_path, comm, rules=RULES).load(new) == (2, 1.0, {"random": [1, 2]})
    check(comm, new)
    filled = {name: np.zeros_like(array) for name, array in state(comm).items()}
    kept = dict(filled)
    checkpoint.load(filled)
    check(comm, filled)
    assert all(filled[name] is kept[name] for name in kept)
    some: dict = {"poses": None}
    checkpoint.load(some)
    assert np.array_equal(some["poses"], state(comm)["poses"])
    files = comm.bcast(len(list(shared_path.iterdir())))
    assert files == 2 * (comm.size + 1)


@pytest.mark.parametrize("writers", [1, 2, 3, 4])
def test_any_number_of_ranks_goes_on_but_for_per_rank(comm, shared_path, writers):
    if writers > comm.size:
        pytest.skip(f"{writers} ranks write")
    part = comm.Split(comm.rank < writers, comm.rank)
    if comm.rank < writers:
        Checkpoint(shared_path, part, rules=RULES).save(1, 0.5, state(part), {})
    part.Free()
    comm.Barrier()
    checkpoint = Checkpoint(shared_path, comm, rules=RULES)
    new: dict = dict.fromkeys(name for name, rule in RULES.items() if rule != "per rank")
    assert checkpoint.load(new) == (1, 0.5, {})
    check(comm, new | {"ring": state(comm)["ring"]})
    if writers < comm.size:
        with pytest.raises(
            ConfigError, match=f"'ring' was saved per rank by {writers} ranks?, but"
        ):
            checkpoint.load({"ring": None})


def test_beside_fields_on_a_grid(comm, shared_path):
    grid = Grid(comm, (9, 8), width=2)
    u, rules = grid.zeros(), {"points": "rows", "seed": "same"}
    u[grid.owned] = comm.rank + 1
    arrays = {"seed": np.arange(3), "u": u, "points": state(comm)["points"]}
    checkpoint = Checkpoint(shared_path, grid, rules=rules)
    checkpoint.save(7, 0.0, arrays, {})
    again: dict = {"u": grid.zeros(), "points": None, "seed": None}
    assert checkpoint.load(again)[0] == 7
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    with pytest.raises(ConfigError, match="no field 'points', only u"):
        Checkpoint(shared_path, grid).load({"points": grid.zeros()})


def test_what_all_ranks_have_is_saved_by_one(comm, shared_path):
    checkpoint = Checkpoint(shared_path, comm, rules="same")
    checkpoint.save(1, 0.0, {"weights": np.arange(5)}, {"epoch": 3})
    checkpoint.save(2, 0.0, {}, {"epoch": 4})
    assert comm.bcast(len(list(shared_path.iterdir()))) == 4
    assert checkpoint.load({}) == (2, 0.0, {"epoch": 4})


def test_json_that_was_saved_beside_an_empty_grid_is_read(comm, shared_path):
    """As k-medoids saved it before checkpoints could do without a grid."""
    if comm.rank == 0:
        from mpi4py import MPI

        Checkpoint(shared_path, Grid(MPI.COMM_SELF, (1,))).save(4, 0.0, {}, {"state": [1]})
    comm.Barrier()
    assert Checkpoint(shared_path, comm).load({}) == (4, 0.0, {"state": [1]})


def test_what_does_not_fit_is_refused_before_anything_is_written(comm, shared_path):
    with pytest.raises(ConfigError, match="rule 'row' is not known"):
        Checkpoint(shared_path, comm, rules={"a": "row"})
    with pytest.raises(ConfigError, match='rule "grid" needs a grid'):
        Checkpoint(shared_path, comm, rules="grid")
    checkpoint = Checkpoint(shared_path, comm, rules=RULES)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"other": np.ones(3)}, "'other' needs a rule"),
        ({"points": np.ma.ones((2, 3))}, "masked"),
        ({"points": [1.0]}, "not list"),
        ({"points": np.array(1.0)}, "it has no rows"),
    ]
    for arrays, said in refused:
        with pytest.raises(ConfigError, match=said):
            checkpoint.save(1, 0.0, arrays, {})
    if comm.size > 1:
        last = comm.rank == comm.size - 1
        for arrays in (
            {"poses": np.ones(3) + last},
            {"points": np.ones((3, 2 + last))},
            {"points": np.ones((3, 2), "f4" if last else "f8")},
            {"ring": np.ones(3, "f4" if last else "f8")},
            {"ring" if last else "points": np.ones(3)},
            {"ring": np.ones(3)} if last else {},
        ):
            with pytest.raises(ConfigError, match="same on all ranks"):
                checkpoint.save(1, 0.0, arrays, {})
    assert not checkpoint.exists()
    checkpoint.save(1, 0.0, state(comm), {})
    for rules, arrays, said in (
        ("rows", {"poses": None}, "saved by the rule 'same', but this run asks for 'rows'"),
        ("same", {"other": None}, "no array 'other', only points, poses"),
        ("rows", {"points": np.ones((100, 3))}, "pass None"),
        ("rows", {"points": np.zeros_like(state(comm)["points"], "f4")}, "pass None"),
    ):
        with pytest.raises(ConfigError, match=said):
            Checkpoint(shared_path, comm, rules=rules).load(arrays)


def manifest() -> Manifest:
    arrays = [
        SavedArray("p", describe(np.dtype(float)), "rows", [(2, 3), (1, 3)]),
        SavedArray("s", describe(RECORD), "same", [(2,)]),
        SavedArray("r", describe(np.dtype("i4")), "per rank", [(), (2, 2)]),
    ]
    parts = [Part((), (), 48 + 2 * RECORD.itemsize + 4, 1), Part((), (), 24 + 16, 2)]
    return Manifest(3, 0.1, {"a": [1, None]}, (), [], parts, arrays)


def test_the_manifest_comes_back_and_says_its_version():
    assert Manifest.from_json(manifest().to_json()) == manifest()
    assert manifest().to_json().startswith(b'{"format": "hpckit checkpoint 2", "crc32": ')


@settings(max_examples=300)
@given(st.data())
def test_nonsense_with_a_good_checksum_is_refused(data):
    content = json.loads(manifest().to_json())["checkpoint"]
    number = data.draw(st.integers(0, 2))
    key = data.draw(st.sampled_from(["name", "descr", "rule", "shapes"]))
    sizes = st.lists(st.integers(-1, 3), max_size=3)
    other = st.none() | st.integers() | st.text(max_size=5) | sizes | st.lists(sizes, max_size=3)
    content["arrays"][number][key] = data.draw(other)
    outer = {
        "format": "hpckit checkpoint 2",
        "crc32": zlib.crc32(json_text(content).encode()),
        "checkpoint": content,
    }
    try:
        read = Manifest.from_json(json.dumps(outer).encode())
    except HpckitError:
        return
    assert [read.offset(i) for i in range(2)] == [part.size for part in manifest().parts]
