"""The halo program as users start it."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = sorted(path.stem for path in (ROOT / "apps/halo").glob("*.toml"))
PROGRAM = ("-m", "hpckit.apps.halo")


def test_there_are_cases():
    assert {"quick", "tsunami", "terrain", "weak", "strong"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_every_case_can_be_planned(mpirun, case):
    done = mpirun(1, *PROGRAM, f"apps/halo/{case}.toml", "--dry-run", "--ranks", "4096")
    assert done.returncode == 0, done.stdout
    assert "4096 ranks" in done.stdout


def test_one_json_line(mpirun, tmp_path):
    trace = tmp_path / "trace.json"
    shape = ("--shape", "16,16,16", "--steps", "5", "--output", tmp_path / "r")
    done = mpirun(2, *PROGRAM, "apps/halo/quick.toml", *shape, "--json", "--trace", trace)
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    results = json.loads(line)["results"]
    assert 0 < results["largest error against the analytic solution"] < 0.01
    assert {
        "cell updates, million/s",
        "memory traffic, GB/s",
        "halo share, % of the steps",
    } <= results.keys()
    assert {event["pid"] for event in json.loads(trace.read_text())["traceEvents"]} == {0, 1}
    assert {path.name for path in (tmp_path / "r").iterdir()} >= {
        "heat.png",
        "heat.vtkhdf",
        "config.toml",
    }


def test_the_tsunami_and_its_pictures(mpirun, tmp_path):
    coarse = ("--refine", "1", "--duration", "2400", "--snapshots", "3", "--output", tmp_path)
    done = mpirun(2, *PROGRAM, "apps/halo/tsunami.toml", *coarse)
    assert done.returncode == 0, done.stdout
    for name in ("arrival.png", "height.png", "waves.png"):
        assert 20_000 < (tmp_path / name).stat().st_size < 400_000


def test_the_terrain_and_its_picture(mpirun, tmp_path):
    coarse = ("--refine", "1", "--output", tmp_path, "--layout", "files")
    done = mpirun(3, *PROGRAM, "apps/halo/terrain.toml", *coarse)
    assert done.returncode == 0, done.stdout
    assert 20_000 < (tmp_path / "terrain.png").stat().st_size < 400_000


def test_stopped_for_time_and_resumed(mpirun, tmp_path):
    case = ("--shape", "16,16,16", "--steps", "20", "--output", tmp_path / "r", "--resume")
    stopped = mpirun(2, *PROGRAM, *case, "--max-seconds", "1e-6")
    assert stopped.returncode == 75, stopped.stdout
    assert not (tmp_path / "r/heat.vtkhdf").exists()
    done = mpirun(3, *PROGRAM, *case)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "r/heat.vtkhdf").exists()


def test_ranks_use_one_device_only_when_they_may_share_it(mpirun, tmp_path):
    case = (
        "--shape",
        "12,12,12",
        "--steps",
        "5",
        "--output",
        tmp_path / "r",
        "--device",
        "stand-in",
    )
    one = {"HPCKIT_STAND_IN_DEVICES": "1"}
    refused = mpirun(2, *PROGRAM, *case, **one)
    assert refused.returncode == 2, refused.stdout
    assert "ranks 0-1 would use one device" in refused.stdout
    done = mpirun(2, *PROGRAM, *case, "--share", **one)
    assert done.returncode == 0, done.stdout
    assert "devices   1 x stand-in for a GPU" in done.stdout
    assert "memory traffic, % of copying" in done.stdout


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--shape", "8,8", "--device", "stand-in", "--threads", "2"), "use threads=1"),
        (("--shape", "8,8", "--device", "gpu"), "--device gpu"),
        (("--shape", "8,8", "--step", "3"), "unknown flag --step, did you mean --steps?"),
        (("--shape", "8,eight"), "--shape 8,eight"),
        (("--shape", "8,8", "--process-shape", "3,1"), "needs 3 ranks"),
        (("--shape", "1,1", "--steps", "1"), "no process grid of 2 ranks fits"),
        (("--shape", "8,8", "--input", "nowhere.npy"), "there is no file nowhere.npy"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(mpirun, tmp_path, wrong, message):
    done = mpirun(2, *PROGRAM, *wrong, "--output", tmp_path / "r")
    assert done.returncode == 2, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("hpckit.apps.halo: ")]
    assert message in line
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "r").exists()


def test_unknown_key_in_the_case_file(mpirun, tmp_path):
    case = tmp_path / "case.toml"
    case.write_text("[tsunami]\ntreshold = 0.1\n")
    done = mpirun(2, *PROGRAM, case)
    assert done.returncode == 2
    assert "unknown key tsunami.treshold, did you mean threshold?" in done.stdout


def test_only_rank_0_pays_for_files_and_pictures(mpirun, tmp_path):
    """Sixty-four ranks on a laptop cannot afford as many imports of h5py, matplotlib or numba."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from mpi4py import MPI\n"
        "from hpckit.apps.halo.config import Config\n"
        "from hpckit.apps.halo.job import main\n"
        f"main(MPI.COMM_WORLD, Config(shape=(16, 16), output={str(tmp_path / 'r')!r}))\n"
        "if MPI.COMM_WORLD.rank == 1:\n"
        "    print('heavy:', sorted({'h5py', 'matplotlib', 'numba', 'petsc4py', 'PIL'} & "
        "sys.modules.keys()))\n"
    )
    # Else the kernels may yet have to be compiled, and by rank 1.
    mpirun(1, script, PYTHONPATH=str(ROOT))
    done = mpirun(2, script, PYTHONPATH=str(ROOT))
    assert "heavy: []" in done.stdout, done.stdout
