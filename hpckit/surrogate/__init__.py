"""Surrogates: networks that learn what a solver computes, while it computes it.

Under one `mpirun` some ranks solve, others train; no step of a simulation touches the disk. In the
order in which a step goes through the files:

    space         parameters, and samplers that draw them; `breed` draws where the loss is high
    solver        what users write: parameters in, times and fields out, step after step
    equations     solvers that are here already
    roles         which ranks solve, in groups, and which train
    rotation      whose turn it is: lanes give their steps in an order that no rank's speed changes
    assignments   what a trainer has its lanes solve next
    message       a step with its simulation, time and parameters, as it lies in a queue;
                  `connections` are the queues
    runs          simulations under way: the solver is run, and what it gives is checked
    solving       what the ranks of a `group` do; its `root` takes turns and sends
    sources       where a trainer gets its messages
    tape          simulations in files, to train from as often as one likes

    ledger        what has come, each step once
    intake        steps become samples, as a view says (`views`), and go into a buffer (`buffers`)
    normaliser    physical units become what networks like
    engine        what takes a gradient step; a file for each library
    training      gradient steps, and `validation` now and then, by `metrics`
    saving        checkpoints, and `surrogate`: what predicts

`study` is all of it: its `settings`, which `checks` looks through, and what its ranks do at the
same time, `running` and `trainer`. `role` is for programs with loops of their own, one that solves
(`sending`) and one that trains (`samples`). `rotation` is the best file to begin with.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hpckit.surrogate.breed import Breed
    from hpckit.surrogate.buffers import FIFO, FIRO, Epochs, Reservoir
    from hpckit.surrogate.engine import Options
    from hpckit.surrogate.role import split
    from hpckit.surrogate.schedule import Free, Lockstep
    from hpckit.surrogate.solver import Solver
    from hpckit.surrogate.space import Box, Sobol, Uniform
    from hpckit.surrogate.study import Study
    from hpckit.surrogate.surrogate import Surrogate
    from hpckit.surrogate.tape import Tape

_MAP = {
    "Box": "space",
    "Breed": "breed",
    "Epochs": "buffers",
    "FIFO": "buffers",
    "FIRO": "buffers",
    "Free": "schedule",
    "Lockstep": "schedule",
    "Options": "engine",
    "Reservoir": "buffers",
    "Sobol": "space",
    "Solver": "solver",
    "Study": "study",
    "Surrogate": "surrogate",
    "Tape": "tape",
    "Uniform": "space",
    "split": "role",
}
__all__ = [
    "FIFO",
    "FIRO",
    "Box",
    "Breed",
    "Epochs",
    "Free",
    "Lockstep",
    "Options",
    "Reservoir",
    "Sobol",
    "Solver",
    "Study",
    "Surrogate",
    "Tape",
    "Uniform",
    "split",
]


def __getattr__(name: str) -> Any:
    """Names resolve at first use: ranks that solve do not load what only trainers need."""
    if name not in _MAP:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: {', '.join(_MAP)}")
    return getattr(importlib.import_module(f"{__name__}.{_MAP[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MAP])
