"""`doctor --gpu` on stand-ins: what a job of two ranks finds, and what is kept of it."""

import sys
from pathlib import Path

import pytest

from hpckit.apps.doctor import gpu
from hpckit.errors import HpckitError

KNOWN = """
from mpi4py import MPI
from hpckit import device
from hpckit.comm.gpu_awareness import known
print(known(device(MPI.COMM_WORLD, "{}")))
"""
BESIDE = Path(sys.executable).with_name("mpirun")
READABLE = {"HPCKIT_STAND_IN": "readable"}  # the host, and so MPI, may touch its memory


@pytest.fixture
def kept(tmp_path):
    """An empty folder for what is found, by its name in the environment."""
    return {"HPCKIT_CACHE": str(tmp_path)}


@pytest.fixture
def doctor(mpirun, kept):
    def doctor(*flags, ranks=None, **environment):
        return mpirun(ranks, "-m", "hpckit.apps.doctor", "--gpu", *flags, **kept, **environment)

    return doctor


@pytest.fixture
def known(mpirun, kept):
    """What `gpu_awareness.known` says, in a process of its own."""

    def known(name="stand-in", **environment):
        return mpirun(None, "-c", KNOWN.format(name), **kept, **environment).stdout.strip()

    return known


def test_mpi_dies_of_a_stand_in(doctor, known):
    assert known() == "None"
    job = doctor("--device", "stand-in")
    assert job.returncode == 0, job.stdout
    assert "64 times a stand-in" in job.stdout
    assert "rank 0 " in job.stdout and "stand-in-1" in job.stdout
    assert "peer      ranks of a node read each other" in job.stdout
    assert "aware     no (the job ended with " in job.stdout
    assert known() == "False"
    assert known(**READABLE) == "None"


def test_mpi_takes_a_readable_one(doctor, known):
    job = doctor("--device", "stand-in", **READABLE)
    assert "aware     yes" in job.stdout, job.stdout
    assert known(**READABLE) == "True"
    assert known() == "None"


def test_a_driver(doctor, known, cuda_stub):
    hint = {"CUDA_VISIBLE_DEVICES": "0"}
    job = doctor(**cuda_stub, **hint)
    assert job.returncode == 0, job.stdout
    for said in [
        "driver for CUDA 13.0",
        "0: Stub 0 (GPU-00010203-0405-0607-0809-0a0b0c0d0e00), 1.07 GB, compute capability 8.0",
        "hint      CUDA_VISIBLE_DEVICES=0",
        "peer      ranks of a node read each other",
        "aware     no",
    ]:
        assert said in job.stdout, job.stdout
    assert known("cuda", **cuda_stub) == "False"
    assert known("cuda", STUB_CUDA_DRIVER="12040", **cuda_stub) == "None"


def test_two_ranks_and_one_gpu_that_cannot_be_opened_by_others(doctor, cuda_stub):
    job = doctor(**cuda_stub, STUB_CUDA_FAIL="cuIpcOpenMemHandle")
    assert "peer      no: memory of another rank's GPU cannot be opened" in job.stdout, job.stdout


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("nothing -n 2", "the launcher 'nothing' does not start: No such file"),
        (
            f"{BESIDE if BESIDE.exists() else 'mpirun'} -n 1",
            "the launcher started 1 ranks in a job, not 2",
        ),
        ("sh -c 'echo no queue; exit 3'", "the job ended with 3\nno queue"),
    ],
)
def test_launchers_that_do_not_start_two_ranks(doctor, known, launcher, said):
    job = doctor("--device", "stand-in", "--launcher", launcher)
    assert job.returncode == 1
    assert said in job.stdout, job.stdout
    assert known() == "None"


def test_it_is_not_for_ranks(doctor):
    job = doctor("--device", "stand-in", ranks=1)
    assert job.returncode == 2
    assert "start the doctor without mpirun for --gpu" in job.stdout


def test_without_a_gpu(doctor):
    job = doctor(LD_LIBRARY_PATH="")
    assert job.returncode == 2
    assert "hpckit.apps.doctor: " in job.stdout and "Traceback" not in job.stdout


def test_a_job_without_end_is_ended(monkeypatch):
    monkeypatch.setattr(gpu, "TIMEOUT", 0.2)
    with pytest.raises(HpckitError, match=r"did not come to try: no end after 0.2 s\nstarting"):
        gpu._run(["sh", "-c", "echo starting; sleep 500"])
