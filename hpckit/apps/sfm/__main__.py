"""Structure from motion on any number of ranks: `mpirun -n 4 python -m hpckit.apps.sfm quick`.

    python -m hpckit.apps.sfm info MODEL
    mpirun -n 4 python -m hpckit.apps.sfm ba MODEL
    mpirun -n 4 python -m hpckit.apps.sfm map DATABASE

Points and what images see of them are divided among the ranks. Without arguments: bundle adjustment
of a street that is generated.
"""

from __future__ import annotations

from hpckit.apps.sfm.config import Config
from hpckit.apps.sfm.estimate import estimate
from hpckit.program.run import run

if __name__ == "__main__":
    run(Config, program="hpckit.apps.sfm", dry_run=estimate)
