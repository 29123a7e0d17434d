"""Heat, tsunamis and creeping hills: `mpirun -n 4 python -m hpckit.apps.halo tsunami`.

Each equation runs on blocks of one grid, one block per rank, whose ghost cells are filled by
`hpckit.Halo` while the cells inside are computed. Without arguments: heat in a box, whose distance
from the analytic solution is printed.
"""

from __future__ import annotations

from hpckit.apps.halo.config import Config
from hpckit.apps.halo.estimate import estimate
from hpckit.program.run import run

if __name__ == "__main__":
    run(Config, program="hpckit.apps.halo", dry_run=estimate)
