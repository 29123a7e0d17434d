"""Programs as the user starts them: each test runs `mpirun` on a small program."""

import json
import os
import signal
import time

import pytest

PROGRAM = '''
import os, sys, time
from typing import Annotated
import msgspec
from hpckit.program import run as program
from hpckit.errors import Checkpointed, ConfigError
from hpckit.trace import span

class Config(msgspec.Struct):
    """A program that fails as it is told."""
    way: str = ""
    threads: int = 1
    out: Annotated[str, msgspec.Meta(description="where to write")] = ""

def main(comm, config):
    with span("work", bytes=8):
        getattr(sys.modules[__name__], config.way or "work")(comm, config)
    return {"cells, 1": 64, "rate, GB/s": 0.5}

def work(comm, config):
    if comm.rank == 0:
        print("working")

def save(comm, config):
    program.save_config(comm, config, config.out)

def last_rank_only(comm, config):
    if comm.rank == comm.size - 1:
        raise ValueError("broken")
    comm.Barrier()

def everywhere(comm, config):
    raise ValueError("broken on all")

def wrong(comm, config):
    raise ConfigError("too thin")

def checkpoint(comm, config):
    raise Checkpointed("saved at step 3")

def wait(comm, config):
    stop = program.StopSignal(comm)
    open(f"{config.out}.{comm.rank}", "w").write(str(os.getpid()))
    while not stop.requested():
        time.sleep(0.01)
    raise Checkpointed("saved before the end")

def dry_run(config, ranks):
    return f"{ranks} ranks, MPI {'mpi4py.MPI' in sys.modules}"

# Ranks of a busy machine may be far apart.
program.PATIENCE = 2.0 if "last_rank_only" in sys.argv else 60.0
program.run(Config, main, program="demo", dry_run=dry_run)
'''


@pytest.fixture
def program(tmp_path, mpirun):
    path = tmp_path / "demo.py"
    path.write_text(PROGRAM)
    return lambda n, *flags, **more: mpirun(n, path, *flags, cwd=tmp_path, **more)


def test_a_run_says_what_it_is_and_what_it_found(program):
    job = program(3, "--threads", "2")
    assert job.returncode == 0, job.stdout
    assert job.stdout.startswith("demo, hpckit ")
    assert "3 ranks x 2 threads on " in job.stdout
    assert job.stdout.count("working") == 1
    assert "rate, GB/s  0.5" in job.stdout
    assert "work                        1 " in job.stdout


def test_json_is_one_line(program, tmp_path):
    job = program(2, "--json", "--trace", "trace.json")
    assert job.returncode == 0, job.stdout
    (line,) = [line for line in job.stdout.splitlines() if line.startswith("{")]
    found = json.loads(line)
    assert found["program"] == "demo" and found["ranks"] == 2
    assert found["results"] == {"cells, 1": 64, "rate, GB/s": 0.5}
    assert found["config"]["threads"] == 1
    assert {e["pid"] for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]} == {
        0,
        1,
    }


def test_help_and_dry_run_start_no_mpi_and_print_once(program):
    job = program(2, "--help")
    assert job.returncode == 0
    assert job.stdout.count("usage: mpirun -n N python -m demo [case]") == 1
    assert "A program that fails as it is told." in job.stdout
    assert program(None, "--dry-run", "--ranks", "4096").stdout == "4096 ranks, MPI False\n"
    assert program(2, "--dry-run").stdout == "2 ranks, MPI False\n"
    assert program(None, "--dry-run", "--ranks", "many").returncode == 2


def test_one_rank_failing_ends_the_job(program):
    job = program(3, "--way", "last_rank_only")
    assert job.returncode != 0
    assert "demo: rank 2 of 3 failed:" in job.stdout
    assert "ValueError: broken" in job.stdout


def test_all_ranks_failing_print_one_traceback(program):
    job = program(3, "--way", "everywhere")
    assert job.returncode == 1
    assert job.stdout.count("Traceback") == 1
    assert "demo: ValueError: broken on all\n" in job.stdout


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        (["--way", "wrong"], 2, "demo: too thin\n"),
        (
            ["--wya", "wrong"],
            2,
            "demo: unknown flag --wya, did you mean --way?; --help lists them\n",
        ),
        (
            ["missing.toml"],
            2,
            "demo: cannot read the case file 'missing.toml': No such file or directory\n",
        ),
        (["--way", "checkpoint"], 75, "demo: saved at step 3\n"),
        (["--way", "save", "--out", "/missing/folder/case.toml"], 1, "No such file or directory"),
    ],
)
def test_exit_codes_and_one_line(program, flags, code, line):
    job = program(2, *flags)
    assert job.returncode == code, job.stdout
    assert job.stdout.count(line) == 1


def test_what_ran_can_run_again(program, tmp_path):
    assert program(2, "--way", "save", "--out", "ran.toml", "--threads", "3").returncode == 0
    assert [p.name for p in tmp_path.glob("ran*")] == ["ran.toml"]
    (tmp_path / "ran.toml").rename(tmp_path / "case.toml")
    assert program(1, "case.toml").returncode == 0
    assert (tmp_path / "ran.toml").read_text() == (tmp_path / "case.toml").read_text().replace(
        "2 ranks", "1 ranks"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_all(program, tmp_path, number):
    from threading import Thread

    def send():
        while not (tmp_path / "pid.1").exists() or not (tmp_path / "pid.1").read_text():
            time.sleep(0.05)
        os.kill(int((tmp_path / "pid.1").read_text()), number)

    sender = Thread(target=send, daemon=True)
    sender.start()
    job = program(2, "--way", "wait", "--out", "pid")
    assert job.returncode == 75, job.stdout
    assert "demo: saved before the end\n" in job.stdout
