"""The job scripts: their logic with stand-ins, and the real thing where Slurm answers."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs/halo.sbatch"
KMEDOIDS, ALLREDUCE = ROOT / "jobs/kmedoids.sbatch", ROOT / "jobs/allreduce.sbatch"
SFM, SURROGATE = ROOT / "jobs/sfm.sbatch", ROOT / "jobs/surrogate.sbatch"


@pytest.fixture
def stand_in(tmp_path):
    """`stand_in(name, text)` puts a bash script beside the job's python, first on its PATH."""

    def write(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def start(tmp_path, stand_in):
    """`start(program, job=JOB, **environment)` starts the job with a stand-in for the program."""

    def start(program, job=JOB, **environment):
        stand_in("scontrol", f'echo "$@" > {tmp_path}/scontrol.log')
        python = stand_in("python", program)
        environment = (
            os.environ | {"PYTHON": str(python), "LAUNCH": "env", "SLURM_JOB_ID": "7"} | environment
        )
        words = ["bash", job, "case.toml"]
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    return start


def test_the_exit_code_is_the_program_s(start, tmp_path):
    job = start('echo "$@"; exit 3')
    output, _ = job.communicate(timeout=500)
    assert job.returncode == 3
    assert output == "-m hpckit.apps.halo case.toml\n"
    assert not (tmp_path / "scontrol.log").exists()


def test_a_restarted_job_resumes(start):
    output, _ = start('echo "$@"', SLURM_RESTART_COUNT="1").communicate(timeout=500)
    assert output == "-m hpckit.apps.halo case.toml --resume\n"


def test_the_signal_reaches_the_program_and_the_job_is_queued_again(start, tmp_path):
    ready = tmp_path / "ready"
    job = start(f"trap 'sleep 0.5; exit 75' USR1; touch {ready}; while :; do sleep 0.1; done")
    while not ready.exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=500)
    assert job.returncode == 75
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"


def _slurm_answers():
    if not shutil.which("sinfo"):
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        return (
            subprocess.run(["sinfo"], capture_output=True, timeout=20, check=False).returncode == 0
        )
    return False


def test_another_program_and_its_signal(start):
    output, _ = start('echo "$@"', KMEDOIDS).communicate(timeout=500)
    assert output == "-m hpckit.apps.kmedoids case.toml\n"
    output, _ = start('echo "$@"', ALLREDUCE).communicate(timeout=500)
    assert output == "-m hpckit.apps.allreduce case.toml\n"
    output, _ = start('echo "$@"', SFM, SLURM_RESTART_COUNT="2").communicate(timeout=500)
    assert output == "-m hpckit.apps.sfm case.toml --resume\n"
    output, _ = start('echo "$@"', SURROGATE).communicate(timeout=500)
    assert output == "-m hpckit.apps.surrogate case.toml\n"
    options = [
        line
        for line in JOB.read_text().splitlines()
        if line.startswith("#SBATCH") and "job-name" not in line
    ]
    for other in (KMEDOIDS, SFM, SURROGATE):
        assert set(options) <= set(other.read_text().splitlines())


@pytest.mark.skipif(not _slurm_answers(), reason="no Slurm on this machine")
def test_the_quick_case_under_slurm(tmp_path):
    output = tmp_path / "job.out"
    command = ["sbatch", "--wait", f"--output={output}", "--time=5", JOB, "apps/halo/quick.toml"]
    job = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHON": sys.executable}, timeout=500, check=False
    )
    assert job.returncode == 0, output.read_text()
