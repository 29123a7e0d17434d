"""`doctor --gpu`: the GPUs here, which rank gets which, and whether MPI takes their addresses.

An MPI library that cannot take them kills its process, so two ranks of a job of their own try
(`gpu_probe`), started as the site starts jobs. What they find is kept for `gpu_awareness.known`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from hpckit.apps.doctor.config import Config
from hpckit.errors import ConfigError, HpckitError
from hpckit.names import DEVICES, load
from hpckit.program import stop
from hpckit.program.options import parse
from hpckit.program.run import launched_ranks

TIMEOUT = 300.0  # seconds that the job may take, with its time in a queue
_HINTS = (  # of the environment: they change what MPI does with GPUs, or which there are
    "CUDA_VISIBLE_DEVICES",
    "CUDA_MPS_PIPE_DIRECTORY",
    "MPICH_GPU_SUPPORT_ENABLED",
    "MPIR_CVAR_ENABLE_GPU",
    "OMPI_MCA_opal_cuda_support",
    "UCX_TLS",
)
_MPS = "nvidia-cuda-mps-control"


def probe_gpus(words: list[str]) -> int:
    """`--gpu`: print all that; the exit code."""
    stop.release()
    try:
        _, config = parse(Config, words)
        if launched_ranks():
            raise ConfigError(
                "start the doctor without mpirun for --gpu: it starts two ranks itself, with "
                "another launcher by --launcher 'srun -n 2'"
            )
        print(*_devices(config.device), *_surroundings(), sep="\n", flush=True)
        found, end = _run(_command(config))
        print(*_told(found, end), sep="\n")
    except HpckitError as error:
        print(f"hpckit.apps.doctor: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _devices(name: str) -> list[str]:
    kind = load({name: DEVICES[name]})[name]
    return [f"device    {line}" for line in kind.describe()]


def _surroundings() -> list[str]:
    """What around the GPUs changes what they do."""
    found = [f"hint      {name}={os.environ[name]}" for name in _HINTS if name in os.environ]
    if any(process.name().startswith(_MPS) for process in psutil.process_iter()):
        found.append("mps       runs here: ranks that share a GPU use it at the same time")
    return found


def _command(config: Config) -> list[str]:
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    launcher = shlex.split(config.launcher) or [mpirun or "mpirun", "-n", "2"]
    return [*launcher, sys.executable, "-m", "hpckit.apps.doctor.gpu_probe", config.device]


def _run(command: list[str]) -> tuple[list[dict[str, Any]], str]:
    """What the ranks told, and how the job ended.

    Raises `HpckitError` where they did not come to try.
    """
    try:
        job = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise HpckitError(
            f"the launcher {command[0]!r} does not start: {error.strerror or error}"
        ) from None
    try:
        output, _ = job.communicate(timeout=TIMEOUT)
        end = f"the job ended with {job.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        output, _ = job.communicate()
        end = f"no end after {TIMEOUT:g} s"
    lines = output.splitlines()
    found = [json.loads(line) for line in lines if line.startswith('{"')]
    if not any("machine" in each for each in found):
        why = next((each["error"] for each in found if "error" in each), f"{end}\n{output.strip()}")
        raise HpckitError(f"two ranks did not come to try: {why}")
    return found, end


def _told(found: list[dict[str, Any]], end: str) -> list[str]:
    """Lines for people; what is certain is kept."""
    from hpckit.comm import gpu_awareness

    ready = sorted((each for each in found if "machine" in each), key=lambda each: each["rank"])
    tried = [each["aware"] for each in found if "aware" in each]
    aware = tried == [True, True]
    for each in ready:
        gpu_awareness.keep(each["machine"], aware)
    said = {each["peer"] for each in ready} - {""}
    return [
        *(f"rank {r['rank']}    {r['machine']['host']}, {r['device']}" for r in ready),
        f"mpi       {ready[0]['mpi']}",
        f"peer      {'no: ' + ', '.join(said) if said else 'ranks of a node read each other'}",
        f"aware     {_verdict(aware, tried, end)}",
    ]


def _verdict(aware: bool, tried: list[bool], end: str) -> str:
    if aware:
        return 'yes: MPI carries bytes from GPU to GPU; method "device" may be chosen'
    how = "wrong bytes came" if tried else end
    return f"no ({how}): MPI never gets addresses of this device, other methods are used"
