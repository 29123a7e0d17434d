"""The allreduce program from within: fair and checked times, its files, its estimates."""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.apps.allreduce import timing
from hpckit.apps.allreduce.config import Config
from hpckit.apps.allreduce.estimate import buffers, estimate
from hpckit.apps.allreduce.job import main
from hpckit.apps.allreduce.pictures import curves
from hpckit.apps.allreduce.rows import Row, best
from hpckit.apps.allreduce.timing import Call, Numbers, Start, interleaved
from hpckit.errors import ConfigError, HpckitError
from hpckit.units import binary, period


def _case(folder: Path, **more) -> Config:
    return Config(
        **{
            "sizes": (8, 4096),
            "seconds": 0.01,
            "pictures": False,
            "output": str(folder / "r"),
            **more,
        }
    )


def _rows(config: Config) -> list[dict]:
    return json.loads((Path(config.output) / "result.json").read_text())["rows"]


@pytest.mark.mpi
def test_every_algorithm_at_every_size(comm, shared_path):
    config = _case(shared_path)
    said = main(comm, config)
    rows = _rows(config)
    ways = {row["way"] for row in rows}
    assert {
        "native",
        "ring",
        "star",
        "oneshot",
        "twoshot",
        "recursive_doubling",
        "rabenseifner",
        "tree",
    } <= ways
    windows = {"shared, window", "auto, window"}
    assert {"shared", "auto"} <= ways and (ways & windows == (windows if comm.size > 1 else set()))
    assert said["results checked"] == len(rows) == 2 * len(ways)
    for row in rows:
        assert row["low"] <= row["median"] <= row["high"]
        assert row["bandwidth"] == pytest.approx(row["bytes"] / row["median"])
        (native,) = (r for r in rows if (r["way"], r["bytes"]) == ("native", row["bytes"]))
        assert row["ratio"] == pytest.approx(native["median"] / row["median"])
        assert row["algorithm"] in ways and (row["way"].startswith(("auto", row["algorithm"])))


@pytest.mark.mpi
def test_only_what_is_asked_for(comm, shared_path):
    config = _case(
        shared_path, sizes=(64,), algorithms=("star", "auto"), arrays=("window",), buffers=0
    )
    main(comm, config)
    # A rank alone shares no memory, and its star needs no buffer.
    wanted = ["native", "auto, window"] if comm.size > 1 else ["native", "star", "auto"]
    assert [row["way"] for row in _rows(config)] == wanted


@pytest.mark.mpi
def test_saving_measures_the_links_again(comm, shared_path, monkeypatch):
    from hpckit.apps.allreduce import job

    asked = []
    measure = job.with_links
    monkeypatch.setattr(
        job, "with_links", lambda *a, fresh: asked.append(fresh) or measure(*a, fresh=fresh)
    )
    for save in (False, True):
        main(comm, _case(shared_path, sizes=(8,), algorithms=("ring",), save=save))
    assert asked == [False, True]


@pytest.mark.mpi
def test_numbers_are_known_everywhere(comm):
    numbers = Numbers(comm, np.zeros(300))
    numbers.write(5)
    total = sum(
        np.array([i % 97 + rank * (i % 7) + 5 for i in range(300)]) for rank in range(comm.size)
    )
    mine = numbers.array.copy()
    comm.Allreduce(MPI.IN_PLACE, numbers.array)
    np.testing.assert_array_equal(numbers.array, total)
    assert numbers.check(5) and numbers.read(5) and not numbers.check(6) and not numbers.read(6)
    numbers.array[7] += 1
    assert not numbers.check(5) and not numbers.read(5)
    assert comm.size == 1 or not np.array_equal(mine, total)


@pytest.mark.mpi
def test_a_wrong_result_is_an_error(comm):
    numbers = Numbers(comm, np.zeros(8))
    calls = {"nothing": Call(lambda: numbers.array.__iadd__(1), numbers)}
    with pytest.raises(
        HpckitError, match=f"nothing gave a wrong sum of 64 bytes on rank {comm.rank}"
    ):
        interleaved(comm, calls, Start(comm, one_node=True), 0.01)


@pytest.mark.mpi
def test_times_are_the_slowest_ranks_and_the_ways_take_turns(comm, monkeypatch):
    """By a clock that only the calls move."""
    numbers, order, now = Numbers(comm, np.zeros(1)), [], [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds if comm.rank == comm.size - 1 else 1.0
            comm.Allreduce(MPI.IN_PLACE, numbers.array)

        return Call(run, numbers)

    times = interleaved(
        comm, {"slow": call("slow", 3.0), "fast": call("fast", 1.0)}, Start(comm, True), 40.0
    )
    assert len(times["slow"]) in (10, 20)  # as many as fit, by rank 0's clock
    assert (times["slow"] == 3).all() and (times["fast"] == 1).all()
    turns = [tuple(order[i : i + 2]) for i in range(0, len(order), 2)]
    assert set(turns) == {("slow", "fast"), ("fast", "slow")}
    assert len(set(comm.allgather(times["slow"].tobytes()))) == 1


@pytest.mark.mpi
def test_a_race_is_over_before_the_clock_runs(comm):
    class Racing:
        left = 7

        @property
        def algorithm(self):
            return "auto" if self.left > 0 else "ring"

        def __call__(self):
            self.left -= 1
            comm.Allreduce(MPI.IN_PLACE, numbers.array)

    numbers, plan = Numbers(comm, np.zeros(1)), Racing()
    interleaved(comm, {"racing": Call(plan, numbers, plan)}, Start(comm, True), 1e-9)
    assert plan.left == -5  # seven calls until it was settled, then the least number of timed ones


@pytest.mark.mpi
def test_ranks_agree_on_a_moment(comm):
    start = Start(comm, one_node=False)
    before = time.monotonic()
    moment = start()
    assert before < moment <= time.monotonic()
    assert len(set(comm.allgather(moment))) == 1  # one machine, one clock


def test_a_dry_run_knows_the_formulas(tmp_path):
    text = estimate(_case(tmp_path, sizes=(8, 1 << 20)), 4096)
    assert "a usual cluster's" in text and "1 MiB" in text
    ring = 2 * 4095 * (2e-6 + 3e-7 + 2**20 / 4096 * 1e-10) + 4095 / 4096 * 2**20 * 1e-10
    assert period(ring) in text


@pytest.mark.mpi
def test_a_dry_run_uses_the_links_of_the_last_run(comm, shared_path):
    config = _case(shared_path, sizes=(8,), algorithms=("ring",))
    main(comm, config)
    assert f"measured by the run in {config.output}" in estimate(config, 64)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_buffers(size):
    assert buffers("oneshot", size - 1, size, 1000) == 1000 * (size - 1)
    assert buffers("ring", 0, size, 1000) == (0 if size == 1 else 1000 // size)
    assert buffers("shared", 0, size, 1000) == buffers("native", 0, size, 1000) == 0


def test_units():
    assert [binary(n) for n in (8, 1024, 3 << 19, 64 << 20, 1 << 50)] == [
        "8 B",
        "1 KiB",
        "1.5 MiB",
        "64 MiB",
        "1024 TiB",
    ]
    assert [period(s) for s in (1.234e-6, 1e-3, 0.0456, 90)] == [
        "1.23 us",
        "1 ms",
        "45.6 ms",
        "90 s",
    ]


def _made_up() -> list[Row]:
    ways = {"native": 3.0, "ring": 2.0, "shared, window": 1.0, "auto": 2.1}
    return [
        Row(
            n,
            way,
            "ring" if way == "auto" else way.partition(",")[0],
            s * n,
            s * n,
            s * n,
            1 / s,
            3 / s,
            None,
        )
        for n in (8, 64)
        for way, s in ways.items()
    ]


def test_the_best_of_the_fixed():
    assert best(_made_up(), 8).way == "shared, window"
    assert best(_made_up(), 8, windows=False).way == "ring"


def test_the_picture(tmp_path):
    from PIL import Image

    path = curves(tmp_path / "a.png", _made_up(), "title")
    with Image.open(path) as image:
        assert math.prod(image.size) > 500_000


@pytest.mark.mpi
def test_what_is_impossible_here_is_refused(comm, shared_path, monkeypatch):
    from hpckit.apps.allreduce import job

    monkeypatch.setattr(job, "possible", lambda *_: ["native", "ring"])
    with pytest.raises(
        ConfigError, match="'shared' needs all ranks on one node: use one of native, ring, auto"
    ):
        main(comm, _case(shared_path, algorithms=("shared",)))
    assert not (shared_path / "r").exists()
