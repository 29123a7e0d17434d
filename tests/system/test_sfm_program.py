"""The program for structure from motion as users start it."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = sorted(path.stem for path in (ROOT / "apps/sfm").glob("*.toml"))
PROGRAM = ("-m", "hpckit.apps.sfm")
LUND = ROOT / "apps/sfm/data/lund"
SMALL = ("--generate.scene", "turntable", "--generate.images", "8", "--pictures", "false")
SMALL += ("--generate.points-per-image", "20")
DATA = Path(os.environ.get("HPCKIT_DATA", ROOT.parent / "shared/data"))


def test_there_are_cases():
    assert {"quick", "ladybug", "lund", "loop1000", "weak"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_every_case_can_be_planned(mpirun, case):
    if case == "ladybug" and not (DATA / "sfm/bal").is_dir():
        pytest.skip(f"no {DATA / 'sfm/bal'}: set HPCKIT_DATA")
    command = (*PROGRAM, f"apps/sfm/{case}.toml", "--dry-run", "--ranks", "64")
    done = mpirun(1, *command, HPCKIT_DATA=str(DATA))
    assert done.returncode == 0, done.stdout
    assert "64 ranks" in done.stdout and "memory" in done.stdout


def test_ladybug_ends_where_ceres_does(mpirun, tmp_path):
    if not (DATA / "sfm/bal/ladybug-problem-49-7776-pre.txt").exists():
        pytest.skip(f"no {DATA / 'sfm/bal'}: set HPCKIT_DATA")
    command = (*PROGRAM, "ladybug", "--output", tmp_path / "r", "--json")
    done = mpirun(2, *command, HPCKIT_DATA=str(DATA))
    assert done.returncode == 0, done.stdout
    results = _results(done)
    assert results["cost before"] == pytest.approx(850_912.5, rel=1e-6)
    assert results["cost"] <= 1.001 * 13_344.36


def test_the_quick_case_on_three_ranks(mpirun, tmp_path):
    done = mpirun(3, *PROGRAM, "quick", "--output", tmp_path, "--json")
    assert done.returncode == 0, done.stdout
    results = _results(done)
    cost, _, deviation = results["cost, expected of the optimum"].split()
    assert abs(results["cost"] - float(cost)) < 4 * float(deviation)
    assert results["observations per second, million"] > 0
    assert {"bundle adjustment", "pictures"} <= {
        line[:20].rstrip() for line in done.stdout.splitlines()
    }
    assert {path.name for path in tmp_path.iterdir()} >= {
        "model",
        "config.toml",
        "scene.png",
        "errors.png",
        "cost.png",
    }


def test_stopped_for_time_and_resumed(mpirun, tmp_path):
    case = (*SMALL, "--output", tmp_path / "r", "--resume")
    stopped = mpirun(2, *PROGRAM, *case, "--max-seconds", "1e-6")
    assert stopped.returncode == 75, stopped.stdout
    assert not (tmp_path / "r/model").exists()
    done = mpirun(2, *PROGRAM, *case)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "r/model").exists()
    assert "nothing was left to do" not in done.stdout


def test_a_finished_run_says_so_and_its_checkpoint_is_no_matter(mpirun, tmp_path):
    case = (*SMALL, "--output", tmp_path / "r")
    first = mpirun(2, *PROGRAM, *case, "--json")
    assert first.returncode == 0, first.stdout
    again = mpirun(2, *PROGRAM, *case, "--resume", "--json")
    assert again.returncode == 0, again.stdout
    assert "nothing was left to do" in again.stdout
    assert _results(again)["cost"] == _results(first)["cost"]
    over = mpirun(1, *PROGRAM, *case)
    assert over.returncode == 0 and "starts over" not in over.stdout, over.stdout


def test_words_are_task_input_and_target(mpirun, tmp_path):
    done = mpirun(2, *PROGRAM, "convert", LUND, tmp_path / "x.ply")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "x.ply").read_bytes().startswith(b"ply\n")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("adjust",), "task adjust: invalid enum value 'adjust'"),
        (("info", LUND, "a", "b"), "'b' is a word too many"),
        (("ba", "nowhere.txt"), "there is no nowhere.txt"),
        (("convert", LUND, "x.doc"), "what to write to x.doc is not clear"),
        (("ba", "--solver", "fast"), "solver 'fast'"),
        (("map", LUND / "cameras.bin"), "cameras.bin"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(mpirun, tmp_path, wrong, message):
    done = mpirun(2, *PROGRAM, *wrong, *SMALL, "--output", tmp_path / "r")
    assert done.returncode == 2, done.stdout
    lines = done.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("hpckit.apps.sfm: ")]
    assert message in line
    assert not (tmp_path / "r/model").exists()


def _results(done):
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(line)["results"]
