"""Surrogates on any number of ranks: `mpirun -n 2 python -m hpckit.apps.surrogate quick`.

    mpirun -n 4 python -m hpckit.apps.surrogate run heat
    mpirun -n 4 python -m hpckit.apps.surrogate record heat
    python -m hpckit.apps.surrogate report results/heat

Some ranks solve, others train a network on what is solved. Without arguments: heat in a square.
"""

from __future__ import annotations

from hpckit.apps.surrogate.config import Config
from hpckit.apps.surrogate.estimate import estimate
from hpckit.program.run import run

if __name__ == "__main__":
    run(Config, program="hpckit.apps.surrogate", dry_run=estimate)
