"""`python -m hpckit.accelerate script.py`: a script whose `MPI.COMM_WORLD` is accelerated.

::

    mpirun -n 4 python -m hpckit.accelerate script.py --its arguments
    mpirun -n 4 python -m hpckit.accelerate -m module --its arguments

An exception that a rank does not catch ends the job, as by `hpckit.abort_on_exception`.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import NoReturn

from hpckit.errors import no_mpi
from hpckit.names import ACCELERATE_METHODS


def main() -> None:
    """Run what the command line names, as Python itself would."""
    options = _options()
    if not options.module and not Path(options.script).is_file():
        _refuse(f"there is no script {options.script}")
    _accelerate(options.method)
    sys.argv = [options.script, *options.arguments]
    if options.module:
        runpy.run_module(options.script, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(options.script).resolve().parent)
        runpy.run_path(options.script, run_name="__main__")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hpckit.accelerate",
        description="Run a script with MPI.COMM_WORLD as hpckit.accelerate gives it.",
    )
    parser.add_argument(
        "--method",
        choices=ACCELERATE_METHODS,
        default="auto",
        help="who packs: hpckit where it pays (auto), always hpckit, always MPI",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="it is a module's name")
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own")
    return parser.parse_args()


def _accelerate(method: str) -> None:
    """Put accelerated communicators in the place of MPI's, before the script takes them."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        _refuse(str(no_mpi(error) or error))
    from hpckit.abort import abort_on_exception
    from hpckit.accelerate import requests
    from hpckit.accelerate.methods import accelerated

    requests.install()
    abort_on_exception(MPI.COMM_WORLD)
    MPI.COMM_WORLD = accelerated(MPI.COMM_WORLD, method)
    MPI.COMM_SELF = accelerated(MPI.COMM_SELF, "datatype")  # to itself, MPI makes one copy of all


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"python -m hpckit.accelerate: {why}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
