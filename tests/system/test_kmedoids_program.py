"""The k-medoids program as users start it."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = sorted(path.stem for path in (ROOT / "apps/kmedoids").glob("*.toml"))
PROGRAM = ("-m", "hpckit.apps.kmedoids")
SMALL = ("--generate.n", "300", "--pictures", "false")


def test_there_are_cases():
    assert {"quick", "letter", "million", "weak"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_every_case_can_be_planned(mpirun, case):
    done = mpirun(1, *PROGRAM, f"apps/kmedoids/{case}.toml", "--dry-run", "--ranks", "4096")
    assert done.returncode == 0, done.stdout
    assert "4096 ranks" in done.stdout


def test_the_quick_case_on_three_ranks(mpirun, tmp_path):
    done = mpirun(3, *PROGRAM, "apps/kmedoids/quick.toml", "--output", tmp_path, "--json")
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    results = json.loads(line)["results"]
    assert results["loss"] == pytest.approx(106_598, rel=0.01)
    assert {"swaps", "distances read, GB", "distances read, % of copying"} <= results.keys()
    assert {"distances", "swaps", "pictures"} <= {
        line.split()[0] for line in done.stdout.splitlines() if line
    }
    assert {path.name for path in tmp_path.iterdir()} >= {
        "result.h5",
        "config.toml",
        "clusters.png",
        "loss.png",
    }


def test_stopped_for_time_and_resumed(mpirun, tmp_path):
    case = (*SMALL, "--output", tmp_path, "--resume")
    stopped = mpirun(2, *PROGRAM, *case, "--max-seconds", "1e-6")
    assert stopped.returncode == 75, stopped.stdout
    assert not (tmp_path / "result.h5").exists()
    done = mpirun(3, *PROGRAM, *case)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "result.h5").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--ks", "3"), "unknown flag --ks"),
        (("--method", "pan"), "--method pan: invalid enum value"),
        (("--k", "301"), "there are only 300 objects"),
        (("--input", "nowhere.npy"), "there is no file nowhere.npy"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(mpirun, tmp_path, wrong, message):
    done = mpirun(2, *PROGRAM, *SMALL, *wrong, "--output", tmp_path / "r")
    assert done.returncode == 2, done.stdout
    lines = done.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("hpckit.apps.kmedoids: ")]
    assert message in line
    assert not (tmp_path / "r").exists()


def test_only_rank_0_pays_for_files_and_pictures(mpirun, tmp_path):
    """Sixty-four ranks on a laptop cannot afford as many imports of h5py, matplotlib or numba."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from mpi4py import MPI\n"
        "from hpckit.apps.kmedoids.config import Config, Generate\n"
        "from hpckit.apps.kmedoids.job import main\n"
        f"main(MPI.COMM_WORLD, Config(generate=Generate(n=300), output={str(tmp_path / 'r')!r}))\n"
        "if MPI.COMM_WORLD.rank == 1:\n"
        "    print('heavy:', sorted({'h5py', 'matplotlib', 'numba', 'sklearn', 'PIL'} & "
        "sys.modules.keys()))\n"
    )
    # Else the kernels may yet have to be compiled, and by rank 1.
    mpirun(1, script, PYTHONPATH=str(ROOT))
    done = mpirun(2, script, PYTHONPATH=str(ROOT))
    assert "heavy: []" in done.stdout, done.stdout
