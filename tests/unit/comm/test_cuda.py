"""The GPU behind the seam, without one: NVIDIA's bindings call a stub of the driver."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("ranks", [1, 2])
def test_all_verbs_on_the_stub(mpirun, cuda_stub, ranks):
    job = mpirun(ranks, "-m", "pytest", "--with-mpi", "-q", HERE / "on_stub_cuda.py", **cuda_stub)
    assert job.returncode == 0, job.stdout


def say(code):
    """A program that prints what an error says."""
    return (
        "from hpckit.comm.cuda import Cuda\n"
        f"try:\n    {code}\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )


@pytest.mark.parametrize(
    ("code", "environment", "said"),
    [
        ("Cuda.count()", {"STUB_CUDA_DEVICES": "0"}, ["ConfigError", "CUDA_VISIBLE_DEVICES"]),
        ("Cuda(2)", {}, ["HpckitError", "GPU 2", "INVALID_DEVICE"]),
        ("Cuda(0).allocate(1 << 40)", {}, ["1.1 TB of device memory", "1.07 GB are free"]),
    ],
)
def test_what_is_missing_is_told(mpirun, cuda_stub, code, environment, said):
    job = mpirun(None, "-c", say(code), **cuda_stub, **environment)
    assert all(word in job.stdout for word in said), job.stdout


def test_without_a_driver(mpirun):
    pytest.importorskip("cuda.bindings")
    job = mpirun(None, "-c", say("Cuda.count()"), LD_LIBRARY_PATH="")
    assert job.stdout.startswith("ConfigError there is no NVIDIA driver here"), job.stdout


def test_without_the_package(mpirun):
    hide = "import sys; sys.modules['cuda.bindings'] = None\n"
    job = mpirun(None, "-c", hide + say("Cuda.count()"))
    assert job.stdout.startswith("ConfigError GPUs need the package cuda-bindings"), job.stdout
    assert "hpckit[gpu]" in job.stdout


def test_the_host_dies_of_device_memory(mpirun, cuda_stub):
    read = "from hpckit.comm.cuda import Cuda; import ctypes; m = Cuda(0).allocate(8); "
    job = mpirun(None, "-c", read + "ctypes.c_int.from_address(m.address).value", **cuda_stub)
    assert job.returncode == -11
