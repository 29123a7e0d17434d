"""The allreduce program as users start it."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = sorted(path.stem for path in (ROOT / "apps/allreduce").glob("*.toml"))
PROGRAM = ("-m", "hpckit.apps.allreduce")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    """Cases are named relative to the project."""
    monkeypatch.chdir(ROOT)


def test_there_are_cases():
    assert set(CASES) >= {"quick", "sweep", "links"}


@pytest.mark.parametrize("case", CASES)
def test_every_case_can_be_planned(mpirun, tmp_path, case):
    done = mpirun(
        2,
        *PROGRAM,
        f"apps/allreduce/{case}.toml",
        "--dry-run",
        "--ranks",
        "4096",
        "--output",
        tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ranks     4096\n") == 1  # rank 0 alone says it


def test_the_quick_case_on_three_ranks(mpirun, tmp_path):
    done = mpirun(
        3, *PROGRAM, "apps/allreduce/quick.toml", "--seconds", "0.1", "--output", tmp_path, "--json"
    )
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    results = json.loads(line)["results"]
    assert {
        "results checked",
        "speed-up by auto, geometric mean",
        "model off by a factor of, median",
    } <= results.keys()
    assert {path.name for path in tmp_path.iterdir()} >= {
        "result.json",
        "config.toml",
        "allreduce.png",
    }
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert results["results checked"] == len(rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--sizes", "8,12"), "multiple of 8"),
        (("--algorithms", "ring,rings"), "invalid enum value 'rings'"),
        (("--seconds", "0"), "--seconds 0"),
        (("--size", "8"), "unknown flag --size"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(mpirun, tmp_path, wrong, message):
    done = mpirun(2, *PROGRAM, *wrong, "--output", tmp_path / "r")
    assert done.returncode == 2, done.stdout
    lines = done.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("hpckit.apps.allreduce: ")]
    assert message in line
    assert not (tmp_path / "r").exists()
