"""Checkpoints: any ranks read them, damage is noticed, a crash at any moment loses nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpckit import files
from hpckit.errors import ConfigError, HpckitError
from hpckit.io import checkpoint_folder as module
from hpckit.io.checkpoint import Checkpoint
from hpckit.io.manifest import Field, Manifest, Part, describe

RECORD = np.dtype([("id", "<i4"), ("v", ">f8", (2,))], align=True)
STAGGER = {"u": (0, 0, 0), "v": (0, 1, 0), "w": (1, 1, 1), "r": (0, 0, 0)}
DTYPES = {"u": np.dtype(float), "v": np.dtype("f4"), "w": np.dtype("i2"), "r": RECORD}
SHAPE = (9, 8, 7)


def make(comm, **options):
    """A grid and its fields, empty."""
    from hpckit.comm.grid import Grid

    grid = Grid(comm, SHAPE, width=((1, 2), 1, 0), **options)
    return grid, {
        k: grid.zeros(DTYPES[k], STAGGER[k], order="F" if k == "v" else "C") for k in STAGGER
    }


def whole(grid, name, step):
    """The global array that stands for a field at a step."""
    shape = grid.global_shape(STAGGER[name])
    values = (np.arange(np.prod(shape)) + 1000 * step).reshape(shape)
    if name != "r":
        return values.astype(DTYPES[name])
    records = np.zeros(shape, RECORD)
    records["id"], records["v"][..., 1] = values, values / 8
    return records


def owned(grid, name, step):
    box = zip(grid.start, grid.owned_shape(STAGGER[name]), strict=True)
    return whole(grid, name, step)[tuple(slice(a, a + n) for a, n in box)]


def save(directory, comm, *steps, **options):
    grid, fields = make(comm, **options)
    checkpoint = Checkpoint(directory, grid)
    for step in steps:
        for name, array in fields.items():
            array[grid.owned] = owned(grid, name, step)
        checkpoint.save(step, step / 4, fields, {"seed": [step, "x"]})


def loaded(directory, comm, **options):
    """The step that was loaded, after every value has been compared."""
    grid, fields = make(comm, **options)
    step, when, extra = Checkpoint(directory, grid).load(fields)
    assert when == step / 4 and extra == {"seed": [step, "x"]}
    for name, array in fields.items():
        assert np.array_equal(array[grid.owned], owned(grid, name, step))
        inside = np.zeros(array.shape, bool)
        inside[grid.owned] = True
        # Ghosts are the caller's.
        assert np.array_equal(array[~inside], np.zeros_like(array[~inside]))
    return step


@pytest.mark.parametrize("writers", [1, 2, 3, 4])
def test_any_number_of_ranks_reads_it(comm, shared_path, writers):
    if writers > comm.size:
        pytest.skip(f"{writers} ranks write")
    part = comm.Split(comm.rank < writers, comm.rank)
    if comm.rank < writers:
        save(shared_path, part, 3)
    part.Free()
    comm.Barrier()
    assert loaded(shared_path, comm) == 3
    assert loaded(shared_path, comm, process_shape=(1, comm.size, 1)) == 3


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept_and_rubbish_goes(comm, shared_path, keep):
    grid, fields = make(comm)
    checkpoint = Checkpoint(shared_path, grid, keep)
    assert not checkpoint.exists()
    if comm.rank == 0:
        (shared_path / "checkpoint-000009.00000.bin.tmp").touch()
        (shared_path / "mine.txt").touch()
    comm.Barrier()
    for step in range(5):
        checkpoint.save(step, 0.0, fields, {})
    assert checkpoint.exists()
    files = comm.bcast(sorted(file.name for file in shared_path.iterdir()))
    assert len(files) == keep * (comm.size + 1) + 1 and "mine.txt" in files
    assert Checkpoint(shared_path, grid).load(fields)[0] == 4


def damage_data(directory: Path) -> None:
    file = max(directory.glob("*.bin"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def damage_length(directory: Path) -> None:
    file = max(directory.glob("*.bin"))
    os.truncate(file, file.stat().st_size - 1)


def damage_files(directory: Path) -> None:
    max(directory.glob("*.bin")).unlink()


def damage_time(directory: Path) -> None:
    file = max(directory.glob("*.json"))
    file.write_text(file.read_text().replace('"time": 0.5', '"time": 0.6'))


def damage_manifest(directory: Path) -> None:
    max(directory.glob("*.json")).write_bytes(b"\0\xff{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_data, "was changed: CRC-32"),
        (damage_length, r"has \d+ of \d+ bytes"),
        (damage_files, "No such file"),
        (damage_time, "not an undamaged"),
        (damage_manifest, "manifest"),
    ],
)
def test_damage_falls_back_and_says_so(comm, shared_path, caplog, damage, message):
    save(shared_path, comm, 1, 2)
    if comm.rank == 0:
        damage(shared_path)
    comm.Barrier()
    with caplog.at_level(logging.WARNING, "hpckit"):
        assert loaded(shared_path, comm) == 1
    if comm.rank == 0:
        assert "checkpoint-000002 is damaged, trying the one before" in caplog.text
    comm.Barrier()
    if comm.rank == 0:
        for file in shared_path.glob("checkpoint-000002*"):
            file.unlink()
        damage_data(shared_path)
    comm.Barrier()
    with pytest.raises(HpckitError, match=r"no good checkpoint in .*checkpoint-000001: .*CRC-32"):
        loaded(shared_path, comm)


def test_none_and_others(comm, shared_path):
    from hpckit.comm.grid import Grid

    with pytest.raises(HpckitError, match=r"no good checkpoint in .*: there is none"):
        loaded(shared_path, comm)
    save(shared_path, comm, 1)
    grid, fields = make(comm)
    for other, wrong in [
        ({"x": grid.zeros()}, "has no field 'x', only u, v, w, r"),
        ({"u": grid.zeros("f4")}, "'u' is float64, staggered .* but float32"),
        ({"u": grid.zeros(stagger=1)}, r"but float64, staggered \(1, 1, 1\)"),
    ]:
        with pytest.raises(ConfigError, match=wrong):
            Checkpoint(shared_path, grid).load(other)
    larger = Grid(comm, (9, 8, 8))
    with pytest.raises(
        ConfigError, match=r"of shape \(9, 8, 7\), but this run's has shape \(9, 8, 8\)"
    ):
        Checkpoint(shared_path, larger).load({"u": larger.zeros()})
    with pytest.raises(HpckitError, match="what JSON can hold"):
        Checkpoint(shared_path, grid).save(2, 0.0, fields, {"a": np.float32(1)})
    with pytest.raises(ConfigError, match="cannot write checkpoints to"):
        Checkpoint("/dev/null/checkpoints", grid)
    with pytest.raises(ConfigError, match="at least one"):
        Checkpoint(shared_path, grid, keep=0)
    assert loaded(shared_path, comm) == 1


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize(
    "damage", [damage_data, damage_length, damage_files, damage_time, damage_manifest]
)
def test_a_damaged_checkpoint_does_not_count_for_keep(comm, shared_path, caplog, damage, keep):
    """With the newest damaged, saving again keeps as many good ones as asked for, if there are."""
    grid, fields = make(comm)
    checkpoint = Checkpoint(shared_path, grid, keep)
    for step in range(4):
        checkpoint.save(step, 0.5, fields, {})
    if comm.rank == 0:
        damage(shared_path)
    comm.Barrier()
    with caplog.at_level(logging.WARNING, "hpckit"):
        checkpoint.save(4, 0.5, fields, {})
    there = comm.bcast({int(file.stem[-6:]) for file in shared_path.glob("*.json")})
    assert there == {1: {5}, 2: {3, 4, 5}, 3: {2, 3, 4, 5}}[keep]  # 4 is the damaged one
    assert (
        comm.rank
        or keep == 1
        or "checkpoint-000004 is damaged, the one before is kept" in caplog.text
    )
    assert checkpoint.load(fields)[0] == 4
    for step in range(5, 8):
        checkpoint.save(step, 0.5, fields, {})
    assert comm.bcast(len(list(shared_path.glob("*.json")))) == keep


def test_ranks_that_differ_fail_before_anything_is_written(comm, shared_path):
    if comm.size == 1:
        pytest.skip("needs two ranks")
    from hpckit.comm.grid import Grid

    save(shared_path, comm, 1)
    grid, last = Grid(comm, SHAPE), comm.rank == comm.size - 1
    u = grid.zeros()
    before = comm.bcast(sorted(file.name for file in shared_path.iterdir()))
    for theirs in (
        {"u": grid.zeros("f4")},
        {"u": grid.zeros("i8")},  # of the same size
        {"u": grid.zeros(">f8")},
        {"u": grid.zeros(RECORD)},
        {"v": u},
        {},
        {"u": u, "v": u},
        {"u": u.tolist()},
        {"u": np.ma.array(u)},
        {"u": u[:-1]},
    ):
        for call in ("save", "load"):
            mine = theirs if last else {"u": u}
            with pytest.raises(ConfigError, match=r"same on all ranks|masked|local shape"):
                getattr(Checkpoint(shared_path, grid), call)(
                    *((2, 0.0, mine, {}) if call == "save" else (mine,))
                )
        assert comm.bcast(sorted(file.name for file in shared_path.iterdir())) == before
    for mine in ({"keep": 3}, {"directory": shared_path / "other"}):
        with pytest.raises(
            ConfigError, match="the arguments of Checkpoint must be the same on all ranks"
        ):
            Checkpoint(**{"directory": shared_path, "where": grid} | (mine if last else {}))
    assert comm.bcast(not (shared_path / "other").exists())
    assert loaded(shared_path, comm) == 1


def test_what_json_would_change_is_refused(comm, shared_path):
    from hpckit.comm.grid import Grid

    grid = Grid(comm, SHAPE)
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for extra in (
        {1: 2},
        {"a": [{None: 1}]},
        {"a": {1.5}},
        {"a": deep},
        {"a": 10**5000},
        {"a": b"x"},
    ):
        with pytest.raises(ConfigError, match="what JSON can hold"):
            Checkpoint(shared_path, grid).save(1, 0.0, {}, extra)
    for when in (np.nan, np.inf, -np.inf):
        with pytest.raises(
            ConfigError, match=f"time {when} of a checkpoint: it must be a finite number"
        ):
            Checkpoint(shared_path, grid).save(1, when, {}, {})
    assert not Checkpoint(shared_path, grid).exists()
    fields = {"a/../b %\0 ü" * 50: grid.zeros(), "": grid.zeros("f4")}
    Checkpoint(shared_path, grid).save(2**70, 1e300, fields, {"": "\ud800", "n": 2**70})
    assert Checkpoint(shared_path, grid).load(fields) == (2**70, 1e300, {"": "\ud800", "n": 2**70})


def test_files_of_others_stay(comm, shared_path):
    from hpckit.comm.grid import Grid

    grid = Grid(comm, SHAPE)
    others = ["checkpoint-000777.json", "checkpoint-1.json", "checkpoint-000001.txt", "notes.json"]
    if comm.rank == 0:
        for name in others:
            (shared_path / name).write_text("{}")
        (shared_path / "checkpoint-000888.json.tmp").mkdir()
    comm.Barrier()
    checkpoint = Checkpoint(shared_path, grid, keep=1)
    assert not checkpoint.exists()
    for step in range(3):
        checkpoint.save(step, 0.0, {"u": grid.zeros()}, {})
    assert checkpoint.load({"u": grid.zeros()})[0] == 2
    there = comm.bcast({file.name for file in shared_path.iterdir()})
    assert {*others, "checkpoint-000888.json.tmp"} <= there and len(there) == 5 + 1 + comm.size


def test_old_checkpoints_are_set_aside_in_one_piece(comm, shared_path):
    """A run that starts over takes away neither others' files nor the only checkpoints."""
    folder, aside = shared_path / "checkpoint", shared_path / "checkpoint.old"

    def start_over():
        comm.Barrier()
        if comm.rank == 0:
            module.set_aside(folder)
        comm.Barrier()

    start_over()
    save(folder, comm, 1, 2)
    if comm.rank == 0:
        (folder / "notes.txt").write_text("mine")
    start_over()
    assert comm.bcast([file.name for file in folder.iterdir()]) == ["notes.txt"]
    assert loaded(aside, comm) == 2
    start_over()  # there is nothing new: what was set aside stays
    assert loaded(aside, comm) == 2
    save(folder, comm, 5)
    start_over()
    assert loaded(aside, comm) == 5
    comm.Barrier()
    if comm.rank == 0:
        (aside / "notes.txt").write_text("mine too")
    save(folder, comm, 6)
    start_over()
    assert loaded(shared_path / "checkpoint.old2", comm) == 6
    assert comm.bcast([file.name for file in aside.iterdir()]) == ["notes.txt"]
    comm.Barrier()
    if comm.rank == 0:
        (shared_path / "link").symlink_to(folder)
        (shared_path / "file").write_text("no folder")
        module.set_aside(shared_path / "file")
    save(folder, comm, 7)
    comm.Barrier()
    if comm.rank == 0:
        module.set_aside(shared_path / "link")
        assert (shared_path / "link").is_symlink() and folder.is_dir()
    comm.Barrier()
    assert loaded(shared_path / "checkpoint.old2", comm) == 7


@pytest.mark.parametrize("finished", [False, True])
def test_only_what_could_go_on_is_set_aside_with_a_warning(comm, shared_path, caplog, finished):
    folder = shared_path / "checkpoint"
    Checkpoint(folder, comm, rules="same").save(3, 0.0, {"x": np.ones(2)}, {"finished": finished})
    comm.Barrier()
    if comm.rank == 0:
        module.set_aside(folder)
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == (not finished)
        assert not list(folder.iterdir()) and (shared_path / "checkpoint.old").is_dir()


@pytest.mark.parametrize("moment", range(4))
@pytest.mark.parametrize(
    ("where", "call"), [(files, "durable_replace"), (module, "write_file")], ids=["rename", "write"]
)
def test_a_rank_that_fails_leaves_the_old_checkpoint(
    comm, shared_path, monkeypatch, where, call, moment
):
    """One rank's disk fails at its n-th file: all ranks hear of it, the old checkpoint is good."""
    save(shared_path, comm, 1)
    calls, real = iter(range(100)), getattr(where, call)

    def fails(*arguments):
        if comm.rank == moment % comm.size and next(calls) >= moment // comm.size:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(where, call, fails)
    grid, fields = make(comm)
    said = ""
    try:
        Checkpoint(shared_path, grid).save(2, 0.5, fields, {"seed": [2, "x"]})
    except HpckitError as error:
        said = str(error)
    failed = "No space left" in said
    assert failed == bool(said)
    assert comm.allgather(failed) == [failed] * comm.size
    monkeypatch.undo()
    if failed:
        assert loaded(shared_path, comm) == 1
    save(shared_path, comm, 3)
    assert loaded(shared_path, comm) == 3
    comm.Barrier()
    assert not list(shared_path.glob("*.tmp"))


def manifest() -> Manifest:
    fields = [Field("u", describe(RECORD), (0, 1))]
    parts = [
        Part((0, 0), (2, 3), 6 * RECORD.itemsize, 1),
        Part((0, 3), (2, 5), 6 * RECORD.itemsize, 2),
    ]
    return Manifest(3, 0.1, {"a": [1, None]}, (2, 5), fields, parts)


def test_the_manifest_is_json_and_comes_back():
    assert json.loads(manifest().to_json())["checkpoint"]["step"] == 3
    assert Manifest.from_json(manifest().to_json()) == manifest()
    assert Manifest.from_json(manifest().to_json()).fields[0].dtype == RECORD


@settings(max_examples=300)
@given(st.data())
def test_damaged_manifests_are_refused(data):
    text = bytearray(manifest().to_json())
    if data.draw(st.booleans()):
        del text[data.draw(st.integers(0, len(text) - 3)) :]
    else:
        text[data.draw(st.integers(0, len(text) - 2))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(HpckitError):
        # Such as a changed space between two keys.
        assert Manifest.from_json(bytes(text)) == manifest()


NAMES = st.sampled_from(["name", "descr", "extra", "start", "stop", "size", "crc32"])
NONSENSE = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
)


@settings(max_examples=100)
@given(key=st.sampled_from(["step", "shape", "fields", "parts", "extra"]), value=NONSENSE)
def test_nonsense_with_a_good_checksum_is_refused(key, value):
    import zlib

    from hpckit.io.manifest import json_text

    content = json.loads(manifest().to_json())["checkpoint"] | {key: value}
    outer = {
        "format": "hpckit checkpoint 1",
        "crc32": zlib.crc32(json_text(content).encode()),
        "checkpoint": content,
    }
    try:
        Manifest.from_json(json.dumps(outer).encode())
    except HpckitError:
        return
    assert key in {"step", "extra"} or content["shape"] == [2, 5]


def everywhere(value, path=()):
    """Every place within JSON, with what is there."""
    yield path, value
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in inner:
        yield from everywhere(each, (*path, key))


@pytest.mark.parametrize(
    "other",
    [
        None,
        True,
        -1,
        2**70,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        [],
        [[]],
        {},
        {"x": 1},
        [1, "2"],
        [None],
    ],
    ids=repr,
)
def test_every_value_of_every_other_type_is_refused_or_the_same(other):
    """With a sum that is right: a manifest is what `Manifest` says, type by type, or none."""
    import copy
    import zlib

    from hpckit.io.manifest import json_text

    content = json.loads(manifest().to_json())["checkpoint"]
    for path, value in list(everywhere(content)):
        changed = copy.deepcopy(content)
        if not path or (type(value) is type(other) and path[0] in ("extra", "step", "time")):
            continue
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = other
        outer = {
            "format": "hpckit checkpoint 1",
            "crc32": zlib.crc32(json_text(changed).encode()),
            "checkpoint": changed,
        }
        try:
            read = Manifest.from_json(json.dumps(outer).encode())
        except HpckitError:
            continue
        assert type(read.step) is int and type(read.time) is float and np.isfinite(read.time)
        assert type(read.extra) is dict and (read.shape, read.parts[0].start) == ((2, 5), (0, 0))
        assert all(
            type(n) is int
            for part in read.parts
            for n in (*part.start, *part.stop, part.size, part.crc32)
        )
        assert all(type(field.name) is str and field.dtype == RECORD for field in read.fields)


def test_boxes_that_lie_upon_each_other_are_refused():
    twice = [Part((0, 0), (2, 2), 4 * RECORD.itemsize, 1)] * 2 + [
        Part((0, 4), (2, 5), 2 * RECORD.itemsize, 1)
    ]
    wrong = Manifest(3, 0.1, {}, (2, 5), [Field("u", describe(RECORD), (0, 0))], twice)
    with pytest.raises(HpckitError, match="lies upon another"):
        Manifest.from_json(wrong.to_json())


SAVER = """
import sys
import numpy as np
from mpi4py import MPI
from hpckit.comm.grid import Grid
from hpckit.io.checkpoint import Checkpoint
grid = Grid(MPI.COMM_SELF, (64, 64, 64))
checkpoint, u = Checkpoint(sys.argv[1], grid), grid.zeros()
for step in range(100000):
    u[...] = step
    checkpoint.save(step, step, {"u": u}, {})
    if step == 1:
        print("saving", flush=True)
"""


@pytest.mark.mpi
def test_killed_at_any_moment(comm, shared_path):
    """Five processes that save without pause, killed at random, each going on from the last."""
    from hpckit.comm.grid import Grid

    if comm.rank == 0:
        from mpi4py import MPI

        grid = Grid(MPI.COMM_SELF, (64, 64, 64))
        u = grid.zeros()
        delays = np.random.default_rng(3).uniform(0, 0.05, 5)
        for delay in delays:
            process = subprocess.Popen(
                [sys.executable, "-c", SAVER, str(shared_path)],
                env=alone(),
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout.readline() == "saving\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            step, when, _ = Checkpoint(shared_path, grid).load({"u": u})
            assert step == when and step >= 1 and (u[grid.owned] == step).all()


def alone() -> dict[str, str]:
    """The environment of a process that is no rank of this job."""
    launcher = (
        "PMI_",
        "PMIX_",
        "HYDI_",
        "HYDRA_",
        "MPI_LOCAL",
        "OMPI_",
        "OPAL_",
        "PRTE_",
        "SLURM_",
    )
    root = str(Path(module.__file__).parents[2])
    clean = {k: v for k, v in os.environ.items() if not k.startswith(launcher)}
    return clean | {
        "PYTHONPATH": root,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
