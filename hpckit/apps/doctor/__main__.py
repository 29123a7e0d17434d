"""What am I running on, and what is off? `mpirun -n 4 python -m hpckit.apps.doctor`.

`python -m hpckit.apps.doctor --compile` makes all kernels beforehand: on a login node, or while a
container is built.

`python -m hpckit.apps.doctor --gpu` tries what MPI does with addresses of GPUs, in a job of two
ranks of its own.
"""

from __future__ import annotations

import sys

from hpckit.apps.doctor.config import Config
from hpckit.apps.doctor.gpu import probe_gpus
from hpckit.apps.doctor.kernels import compile_kernels
from hpckit.program.run import run

if __name__ == "__main__":
    if "--compile" in sys.argv and "--help" not in sys.argv:
        sys.exit(compile_kernels(sys.argv[1:]))
    if "--gpu" in sys.argv and "--help" not in sys.argv:
        sys.exit(probe_gpus(sys.argv[1:]))
    run(Config, program="hpckit.apps.doctor")
