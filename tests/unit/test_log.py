import io
import logging

import pytest

from hpckit import log, units
from hpckit.errors import ConfigError


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def restored():
    logger = logging.getLogger("hpckit")
    state = logger.handlers[:], logger.propagate, logger.level
    yield logger
    logger.handlers[:], logger.propagate, logger.level = state
    logger.setLevel(state[2])


def test_progress_prints_whole_lines_now_and_then(clock):
    out = io.StringIO()
    with log.progress(1000, "steps", file=out) as done:
        for _ in range(1000):
            clock[0] += 1 / 128
            done()
    lines = out.getvalue().split("\n")
    assert lines == [
        " 640/1000 steps, 64 %, 128 steps/s, 2.8 s left",
        "1000/1000 steps, 100 %, 128 steps/s, 7.8 s in all",
        "",
    ]


def test_progress_tells_where_a_failure_stopped_it(clock):
    out = io.StringIO()

    def work(done):
        done(1)
        clock[0] += 2
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), log.progress(4, file=out) as done:
        work(done)
    assert out.getvalue() == "1/4 steps, 25 %, 0.5 steps/s, 2.0 s in all\n"


def test_nothing_to_do_is_done_at_once(clock):
    out = io.StringIO()
    with log.progress(0, file=out):
        pass
    assert out.getvalue().startswith("0/0 steps")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.25, "1.2 s"),
        (42, "42 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (float("inf"), "unknown time"),
    ],
)
def test_durations_read_well(seconds, text):
    assert units.duration(seconds) == text


@pytest.mark.mpi
def test_only_rank_0_prints_progress(comm):
    out = io.StringIO()
    with log.progress(3, comm=comm, file=out) as done:
        done(3)
    assert bool(out.getvalue()) == (comm.rank == 0)


@pytest.mark.mpi
def test_lines_name_their_rank(comm, restored, capsys):
    log.configure(comm, "info")
    log.get_logger("halo").info("chosen")
    log.get_logger("hpckit.halo").warning("slow")
    lines = capsys.readouterr().err.splitlines()
    assert ["chosen" in line for line in lines] == ([True, False] if comm.rank == 0 else [False])
    assert f"rank {comm.rank} WARNING hpckit.halo: slow" in lines[-1]


@pytest.mark.mpi
def test_the_environment_sets_the_level(comm, restored, monkeypatch):
    monkeypatch.setenv("HPCKIT_LOG", "debug")
    log.configure(comm)
    assert restored.level == logging.DEBUG
    monkeypatch.setenv("HPCKIT_LOG", "loud")
    with pytest.raises(ConfigError, match=r"'LOUD'.*must be one of DEBUG, INFO"):
        log.configure(comm)
