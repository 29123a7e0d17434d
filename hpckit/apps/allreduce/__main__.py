"""How fast is an allreduce here, and by what? `mpirun -n 8 python -m hpckit.apps.allreduce`.

Every algorithm of `hpckit.collectives` takes its turn at every size, MPI's own among them, and
every result is checked.
"""

from __future__ import annotations

from hpckit.apps.allreduce.config import Config
from hpckit.apps.allreduce.estimate import estimate
from hpckit.program.run import run

if __name__ == "__main__":
    run(Config, program="hpckit.apps.allreduce", dry_run=estimate)
