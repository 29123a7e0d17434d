"""What a study is of: what solves, what is trained, how, and on which ranks."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.comm.queues import Way
from hpckit.surrogate import views
from hpckit.surrogate.buffer import Buffer
from hpckit.surrogate.buffers import Reservoir
from hpckit.surrogate.engine import Options
from hpckit.surrogate.roles import Roles
from hpckit.surrogate.schedule import Lockstep, Schedule
from hpckit.surrogate.solver import Fields, Solver
from hpckit.surrogate.space import Sampler
from hpckit.surrogate.views import BoundView


@dataclass
class Settings:
    """The arguments of a study; what each means, says `hpckit.surrogate.study.Study`."""

    solver: Solver
    model: Any
    _: KW_ONLY
    view: str = "direct"
    buffer: Buffer = field(default_factory=lambda: Reservoir(6000, threshold=1000))
    batch: int = 64
    trainers: int = 1
    group: int = 1
    lanes: int = 8
    schedule: Schedule = field(default_factory=lambda: Lockstep(16))
    sampler: Any = "uniform"
    simulations: int | None = None
    steps: int = 20_000
    validation: int = 50
    validate_every: int = 500
    seed: int = 0
    options: Options | None = None
    ranges: Any = None
    folder: str | os.PathLike[str] | None = None
    save_every: float = 600.0
    deadline: float | None = 600.0
    way: Way = "auto"
    comm: MPI.Intracomm = field(default_factory=lambda: MPI.COMM_WORLD)
    roles: Roles = field(init=False, repr=False)

    @property
    def trains(self) -> bool:
        """Whether this rank is a trainer."""
        return self.roles.trainer is not None

    @property
    def trainer(self) -> int:
        """Which one it is."""
        assert self.roles.trainer is not None
        return self.roles.trainer

    def bound_view(self) -> BoundView:
        """The view of the solver's simulations, before any has come."""
        return views.parse(self.view).bind(self.solver.space.size, Fields.of(self.solver.fields))

    def bound_sampler(self) -> Sampler:
        """The sampler of the solver's space, before it has learned anything."""
        return self.sampler.bind(self.solver.space, self.seed)

    def identity(self) -> dict[str, Any]:
        """What bits depend on, by name, as JSON: the same on all ranks, and when it is resumed."""
        return {
            "solver": type(self.solver).__name__,
            "about": getattr(self.solver, "about", {}),
            "space": repr(self.solver.space),
            "fields": {name: list(shape) for name, shape in self.solver.fields.items()},
            "steps of a simulation": int(self.solver.steps),
            "view": self.view,
            "buffer": repr(self.buffer),
            "batch": self.batch,
            "trainers": self.trainers,
            "lanes": self.lanes,
            "schedule": repr(self.schedule),
            "sampler": repr(self.sampler),
            "simulations": self.simulations,
            "validation": self.validation,
            "seed": self.seed,
            "ranges": np.asarray(self.ranges, object).tolist(),
        }
