"""A study: what solves, what is trained, and how; and its runs, on all ranks at once."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hpckit.errors import HpckitError, same, together
from hpckit.surrogate.buffers import Epochs
from hpckit.surrogate.checks import check_settings, sampler_of
from hpckit.surrogate.offline import Collector, recorded
from hpckit.surrogate.result import Result, result
from hpckit.surrogate.roles import share_out
from hpckit.surrogate.running import Running
from hpckit.surrogate.settings import Settings
from hpckit.surrogate.sources import Source
from hpckit.surrogate.trainer import Trainer
from hpckit.surrogate.training import Training


@dataclass
class Study(Settings):
    """A surrogate in training: some ranks solve, others train (collective in all methods).

    ::

        class Decay:
            space = Box(rate=(0.1, 2.0))
            fields = {"u": (8,)}
            steps = 5

            def run(self, parameters, comm):
                for step in range(self.steps):
                    yield 0.1 * step, {"u": np.full(8, np.exp(-0.1 * step * parameters["rate"]))}

        study = Study(
            Decay(), "mlp", buffer=Reservoir(100, threshold=40), batch=16, steps=20, validation=4,
            validate_every=10, schedule=Lockstep(4), folder="model", comm=comm,
        )
        result = study.run()
        result.history.scores[-1].mean  # relative L2 error of validation samples

    solver : what computes: `hpckit.surrogate.solver.Solver`
    model : what learns: a name, function or object, as `hpckit.surrogate.engine.make` takes it
    view : what a sample is: "direct", "initial", "pairs:D" or "window:n"
    buffer : where samples wait, and how they are mixed; by default `Reservoir(6000, 1000)`
    batch : samples of a gradient step, of each trainer
    trainers : ranks that train; the others solve, in groups of `group`; where there are none each
        trainer solves for itself
    lanes : simulations that are solved at the same time; a multiple of `trainers`
    schedule : `Lockstep(samples)`, the default, gives the same weights on any number of solver
        ranks, and with `resume`; `Free()` waits for nobody
    sampler : of parameters: "uniform", "sobol" or "breed", or an object
    simulations : how many there are; None: as many as it takes
    steps : gradient steps
    validation : simulations that are only judged by, every `validate_every` gradient steps
    seed : of everything that is drawn
    options : of gradient steps
    ranges : what becomes -1 and 1 of each parameter, the time and each field, (d + 1 + fields, 2);
        None: mean and deviation of the first samples become 0 and 1
    folder : for checkpoints, every `save_every` seconds, and for the surrogate; None: nothing is
        kept
    deadline : seconds to wait for a rank before an error names it; None: for ever
    way : how steps travel: see `hpckit.comm.queues.open_queues`
    comm : the ranks; None: all

    Raises `ConfigError` on all ranks for what cannot be.
    """

    _at_work: Trainer | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        with together(self.comm):
            check_settings(self)
            self.sampler = sampler_of(self.sampler)
        same(self.comm, "the study", self.identity())
        self.roles = share_out(self.comm, self.trainers, self.group)
        with together(self.comm):
            self.roles.check_lanes(self.lanes)

    def run(
        self,
        *,
        resume: bool = False,
        tape: str | os.PathLike[str] | None = None,
        each: Callable[[Study], object] | None = None,
        asked: Callable[[], int] = lambda: 0,
    ) -> Result:
        """Train while the solvers solve.

        resume : go on with the last checkpoint in the folder, if there is one
        tape : a folder, in which all steps are recorded too
        each : called on trainers after each gradient step; where it raises `Checkpointed`, on all
            trainers at once, all ranks stop, and raise it
        asked : the exit code that a signal asked this rank for, 0: none; `wish` gathers them
        """
        with Running(self, solving=True, asked=asked) as running:
            source = partial(running.source, self.simulations)
            return self._train(running, source, tape, resume, each)

    def train(
        self,
        tape: str | os.PathLike[str],
        simulations: int | None = None,
        *,
        resume: bool = False,
        each: Callable[[Study], object] | None = None,
    ) -> Result:
        """Train on what a tape has recorded, in epochs, without solving anything.

        simulations : the first so many; None: all

        Engine, view, batches and validation samples are those of `run`. Raises `ConfigError` where
        the tape is of another solver, or has too few simulations.
        """
        offline = copy.copy(self)
        offline.buffer = Epochs()
        offline.simulations = simulations
        with Running(self, solving=False) as running:
            with together(self.comm):
                source = recorded(offline, tape)
            return offline._train(running, source, None, resume, each)

    def record(
        self, tape: str | os.PathLike[str], simulations: int, *, resume: bool = False
    ) -> Result:
        """Solve and record so many simulations, and those for validation; train nothing.

        resume : go on with the tape, if there is one: what is whole on it is not solved again
        """
        with Running(self, solving=True) as running:
            with together(self.comm):
                worker = Collector(self, running, tape, resume) if self.trains else None
            reports = running.go(worker, partial(running.source, simulations))
        return result(reports)

    def save(self) -> None:
        """Keep where the training is (on the trainers): for `each`, at any gradient step."""
        if self._at_work:
            self._at_work.save()

    def wish(self) -> int:
        """The exit code that signals asked solver ranks for, as far as this trainer knows; 0: none.

        For `each`, which stops the study where all trainers agree on it.
        """
        return self.training.source.wish()

    @property
    def training(self) -> Training:
        """What this trainer does now: for `each`."""
        if self._at_work is None:
            raise HpckitError("nothing is trained now, or not on this rank")
        return self._at_work.training

    def _train(
        self,
        running: Running,
        source: Callable[..., Source],
        tape: Any,
        resume: bool,
        each: Callable[[Study], object] | None,
    ) -> Result:
        """Train on the trainers, with this source; what it came to on all ranks."""
        after = partial(each, self) if each else None
        with together(self.comm):
            worker = Trainer(self, running, tape, resume, after) if self.trains else None
        self._at_work = worker
        try:
            reports = running.go(worker, source)
        finally:
            self._at_work = None
        return result(reports, worker.surrogate, worker.training) if worker else result(reports)
