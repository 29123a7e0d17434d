"""Signals at chosen moments: a program sends them to itself as it imports a module."""

import signal

import pytest

SEND = """
import os, signal, sys

class Send:
    def find_spec(self, name, path=None, target=None):
        rank = next((os.environ[n] for n in ("PMI_RANK", "PMIX_RANK") if n in os.environ), "0")
        if name == os.environ["AT"] and rank == "0":
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))

sys.meta_path.insert(0, Send())
"""
SMALL = {
    "halo": ("--shape", "8,8", "--steps", "3", "--pictures", "false"),
    "kmedoids": ("--generate.n", "50", "--k", "3", "--pictures", "false"),
    "allreduce": ("--sizes", "8", "--seconds", "0.01", "--pictures", "false"),
    "doctor": ("--copy", "1"),
}
DEAF = """
import os, sys, time
import msgspec
from hpckit.program import run as program
from hpckit.program import stop

class Config(msgspec.Struct):
    signals: tuple[int, ...] = ()

def main(comm, config):
    for number in config.signals:
        os.kill(os.getpid(), number)
        time.sleep(0.6)
    time.sleep(100)

stop.GRACE = 0.1 if len(sys.argv) < 4 else 100.0
program.run(Config, main, program="deaf")
"""


@pytest.fixture
def told(tmp_path, mpirun):
    """`told(n, program, number, at)`: rank 0 gets the signal when it is about to import `at`."""
    (tmp_path / "sitecustomize.py").write_text(SEND)

    def told(n, program, number, at):
        output = () if program == "doctor" else ("--output", tmp_path / "r")
        environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "AT": at, "SIGNAL": str(int(number))}
        return mpirun(n, "-m", f"hpckit.apps.{program}", *SMALL[program], *output, **environment)

    return told


ROOT = __file__.partition("/tests/")[0]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_before_mpi_starts(told, number):
    """MPICH replaces the handler of SIGUSR1 while it starts."""
    job = told(2, "halo", number, "mpi4py.MPI")
    assert job.returncode == 75, job.stdout
    assert (
        job.stdout.count("hpckit.apps.halo: stopped, there was nothing to save: run it again\n")
        == 1
    )


@pytest.mark.parametrize("program", SMALL)
def test_in_every_program(told, program):
    job = told(None, program, signal.SIGUSR1, "mpi4py.MPI")
    assert job.returncode == 75, job.stdout
    assert (
        f"hpckit.apps.{program}: stopped, there was nothing to save: run it again\n" in job.stdout
    )
    assert "Traceback" not in job.stdout


def test_while_it_gets_ready(told):
    job = told(None, "halo", signal.SIGTERM, "hpckit.apps.halo.job")
    assert job.returncode == 75, job.stdout
    assert "nothing to save" in job.stdout


def test_ctrl_c_is_one_line_and_130(told):
    job = told(None, "kmedoids", signal.SIGINT, "mpi4py.MPI")
    assert job.returncode == 130
    assert "hpckit.apps.kmedoids: stopped, there was nothing to save: run it again\n" in job.stdout
    assert "Traceback" not in job.stdout


@pytest.mark.parametrize(
    ("numbers", "code", "line"),
    [
        ([signal.SIGTERM], 75, "deaf: stopped at once, there was nothing to save\n"),
        ([signal.SIGINT], 130, "deaf: stopped at once, there was nothing to save\n"),
        (
            [signal.SIGINT, signal.SIGINT, signal.SIGINT],
            130,
            "deaf: stopped at once, interrupted twice",
        ),
    ],
)
def test_a_program_that_does_not_ask_is_ended(tmp_path, mpirun, numbers, code, line):
    (tmp_path / "deaf.py").write_text(DEAF)
    patience = ["--signals", ",".join(str(int(n)) for n in numbers)]
    job = mpirun(None, tmp_path / "deaf.py", *patience, *(["--json"] if len(numbers) > 1 else []))
    assert job.returncode == code, job.stdout
    assert line in job.stdout
