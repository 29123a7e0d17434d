"""k-medoids on any number of ranks: `mpirun -n 4 python -m hpckit.apps.kmedoids quick`.

Points or a matrix of distances are divided among the ranks, which find the same medoids, bit for
bit, whatever their number. Without arguments: clouds of generated points.
"""

from __future__ import annotations

from hpckit.apps.kmedoids.config import Config
from hpckit.apps.kmedoids.estimate import estimate
from hpckit.program.run import run

if __name__ == "__main__":
    run(Config, program="hpckit.apps.kmedoids", dry_run=estimate)
