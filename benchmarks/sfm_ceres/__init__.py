"""Bundle adjustment by the Ceres that is installed here: built when it is first needed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("bundle.cpp")
HEADERS = Path("/usr/include/ceres/ceres.h"), Path("/usr/local/include/ceres/ceres.h")


def missing() -> str | None:
    """Why there is no Ceres to compare with; None where there is."""
    if not shutil.which("c++"):
        return "there is no C++ compiler"
    if not any(header.exists() for header in HEADERS):
        return "there is no Ceres with its headers (Debian: libceres-dev)"
    return None


def build(folder: str | Path) -> Path:
    """The program, compiled for this machine's processor into `folder` if it is not there."""
    program = Path(folder) / "ceres-bundle"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        command = ["c++", "-std=c++17", "-O3", "-march=native", "-DNDEBUG", "-I/usr/include/eigen3"]
        command += [str(SOURCE), "-o", str(program), "-lceres", "-lglog"]
        subprocess.run(command, check=True)
    return program


def solve(program: Path, problem: str | Path, **options: object) -> dict:
    """What it says of a BAL file (plain text), with options such as `solver="sparse"`, `threads=2`.

    ::

        program = build("build")
        solve(program, "problem-49-7776-pre.txt", solver="dense")["cpu_seconds"]
    """
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    found = subprocess.run([program, problem, *given], check=True, capture_output=True, text=True)
    return json.loads(found.stdout)
