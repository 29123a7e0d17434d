"""What a GPU does for hpckit, the most valuable first, in under nine minutes on one GPU.

`python -m benchmarks.gpu` runs section after section, each in processes of its own with a time
limit, so that none takes another down. Every result is one JSON line, printed at once: what is
known when the time is over is known. `--json FILE` keeps them too.

    --device stand-in --quick     all that makes sense without a GPU: does the script itself work
    --openmpi FOLDER              an Open MPI with CUDA support to compare with (docs/gpu.md)
    --only pack,ways              these sections

Ranks share the GPU here: without MPS its work is time-sliced between them, so what several ranks
reach says little of several GPUs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import _gpu_alone, _gpu_ranks
from benchmarks._gpu import emit
from benchmarks._harness import _commit, _environment, _host, _mpirun, _versions, parser


class Section(NamedTuple):
    """A function of this name, in the module of those for one process or for several ranks."""

    name: str
    ranks: int
    limit: float
    """seconds"""
    openmpi: bool = False
    """by the Open MPI of `--openmpi`, where one is given"""
    settings: tuple[tuple[str, str], ...] = ()
    """of its environment"""


OFF = (("OMPI_MCA_opal_cuda_support", "0"),)
SECTIONS = (
    Section("moves_are_right", 1, 45),
    Section("halos_are_right", 2, 45),
    Section("pack", 1, 75),
    Section("launches", 1, 15),
    Section("halos", 2, 45),
    Section("halos", 2, 45, openmpi=True),
    Section("ways", 2, 60),
    Section("allreduces", 2, 45),
    Section("allreduces", 2, 45, openmpi=True),
    Section("allreduces", 2, 30, openmpi=True, settings=OFF),
    Section("staging", 1, 15),
    Section("program", 1, 60),
    Section("halos", 4, 45),
)


def main() -> None:
    options = _options()
    if options.section:
        _here(options.section, options.device, options.quick)
        return
    began = time.monotonic()
    facts = {"commit": _commit(), "host": _host(), **_versions(), "quick": options.quick}
    lines = [emit("start", options.device, **facts), *_probe(options)]
    for section in SECTIONS:
        wanted = section.name in options.only.split(",") if options.only else True
        if wanted and (options.openmpi or not section.openmpi):
            lines += _run(section, options)
    lines.append(emit("end", options.device, seconds=time.monotonic() - began))
    if options.json:
        options.json.write_text("\n".join(lines) + "\n")


def _here(name: str, device: str, quick: bool) -> None:
    """Run a section in this process, which is a rank of its job."""
    if name == "program":
        _gpu_ranks.program(device, quick)
        return
    from mpi4py import MPI

    from hpckit import abort_on_exception
    from hpckit.comm.places import open_device

    comm = MPI.COMM_WORLD
    abort_on_exception(comm)
    found = open_device(comm, device, share=True)
    if hasattr(_gpu_alone, name):
        getattr(_gpu_alone, name)(found, quick)
    else:
        getattr(_gpu_ranks, name)(comm, found, quick)


def _probe(options: argparse.Namespace) -> Iterator[str]:
    """Whether the MPI libraries take addresses of the GPU: methods and peers ask for that."""
    for home in ["", options.openmpi] if options.openmpi else [""]:
        launcher, settings = _launcher(home, 2)
        words = ["--gpu", "--device", options.device, "--launcher", " ".join(launcher)]
        command = [sys.executable, "-m", "hpckit.apps.doctor", *words]
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, check=False
        )
        said = done.stdout.splitlines() + done.stderr.splitlines()
        yield emit("doctor", home or "the MPI beside this Python", said=said)


def _run(section: Section, options: argparse.Namespace) -> list[str]:
    """What it prints, passed on line by line, and whether it ended badly."""
    home = options.openmpi if section.openmpi else ""
    launcher, settings = _launcher(home, section.ranks)
    words = ["--section", section.name, "--device", options.device]
    program = [sys.executable, "-m", "benchmarks.gpu", *words, *["--quick"] * options.quick]
    if section.name == "program":
        launcher = []  # it starts ranks itself
    case = " ".join([*launcher, *map("=".join, section.settings)])
    found = [emit(section.name, "begins", by=case)]
    environment = os.environ | settings | dict(section.settings)
    with subprocess.Popen(
        [*launcher, *program], env=environment, stdout=subprocess.PIPE, text=True
    ) as job:
        # Quick runs are those of tests, on machines that may be busy.
        limit = threading.Timer(section.limit * (20 if options.quick else 1), job.terminate)
        limit.start()
        for line in job.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("{"):
                found.append(line.rstrip())
        limit.cancel()
    if job.returncode:
        found.append(emit(section.name, "failed, or late", by=case, code=job.returncode))
    return found


def _launcher(home: str, ranks: int) -> tuple[list[str], dict[str, str]]:
    """What starts ranks, by that Open MPI if one is named; and its environment."""
    if not home:
        return [_mpirun(), "-n", str(ranks)], _environment()
    paths = f"{home}/lib:{os.environ.get('LD_LIBRARY_PATH', '')}"
    settings = {"OPAL_PREFIX": home, "LD_LIBRARY_PATH": paths, "MPI4PY_MPIABI": "openmpi"}
    return [f"{home}/bin/mpirun", "-n", str(ranks)], _environment() | settings


def _options() -> argparse.Namespace:
    found = parser("gpu")
    found.add_argument("--device", default="cuda", help="or stand-in, which has no speed")
    found.add_argument("--openmpi", default="", metavar="FOLDER", help="an Open MPI with CUDA")
    found.add_argument("--only", default="", metavar="SECTIONS", help="pack,ways,...")
    found.add_argument("--section", default="", help=argparse.SUPPRESS)
    return found.parse_args()


if __name__ == "__main__":
    main()
