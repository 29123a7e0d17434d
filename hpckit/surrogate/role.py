"""Programs of your own: some ranks solve in a loop that you write, others train in another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from mpi4py import MPI

from hpckit.errors import ConfigError, HpckitError, check_comm, same, together
from hpckit.surrogate import roles
from hpckit.surrogate.checks import check_settings, sampler_of
from hpckit.surrogate.running import Running
from hpckit.surrogate.schedule import Free
from hpckit.surrogate.sending import Sending
from hpckit.surrogate.settings import Settings

if TYPE_CHECKING:
    from hpckit.surrogate.samples import Samples
    from hpckit.surrogate.space import Box
    from hpckit.surrogate.torch_samples import TorchSamples


@contextmanager
def split(
    comm: MPI.Intracomm,
    space: Box,
    fields: Mapping[str, tuple[int, ...]],
    steps: int,
    **options: Any,
) -> Iterator[Role]:
    """Share out the ranks of a program of your own (collective); at its end all ranks meet.

    ::

        box = Box(rate=(0.1, 2.0))
        with split(comm, box, {"u": (8,)}, steps=5, batch=16, simulations=20) as role:
            if role.trains:
                for x, y in role.samples():
                    assert x.shape == (len(y), 2)  # rate and time; y is u
            for number, parameters in role.simulations():
                for step in range(5):
                    u = np.full(8, np.exp(-0.1 * step * parameters["rate"]))
                    role.send(0.1 * step, {"u": u})

    space, fields, steps : as of a `hpckit.surrogate.Solver`
    options : of a `hpckit.surrogate.Study`: `trainers`, `group`, `view`, `buffer`, `batch`,
        `schedule` (by default `Free()`), `sampler`, `simulations`, `seed`, `deadline`, `way`

    Each group of solver ranks solves one simulation after the other, for one trainer. Raises
    `ConfigError` on all ranks for what cannot be; an error on one rank is one on all of them.
    """
    check_comm(comm)
    same(comm, "the arguments of split", (repr(space), fields, steps, repr(options)))
    with together(comm):
        settings = _settings(comm, _Given(space, fields, steps), options)
    settings.roles = roles.share_out(comm, settings.trainers, settings.group)
    settings.lanes = len(settings.roles.groups) or settings.trainers
    with together(comm):
        if settings.lanes % settings.trainers:
            raise ConfigError(
                f"{settings.lanes} groups of solver ranks cannot be shared by {settings.trainers}"
                " trainers: start so many ranks that each trainer has as many groups"
            )
    with Running(settings, solving=True) as running, running.alarm.guard():
        role = Role(settings, running)
        yield role
        role.end()


class Role:
    """What this rank does: it trains, or it solves together with others of its group.

    trains : whether it is a trainer
    comm : of the trainers, or of the group
    """

    def __init__(self, settings: Settings, running: Running) -> None:
        self.trains = settings.trains
        self.comm = settings.roles.team
        self._settings = settings
        self._running = running
        self._samples: Samples | None = None
        self._sending = None if settings.trains else Sending(settings, running)

    def simulations(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The number and the parameters of one simulation after the other; none on trainers."""
        return iter(()) if self._sending is None else self._sending.simulations()

    def send(self, time: float, fields: Mapping[str, Any] | None = None) -> bool:
        """Send the next step of the simulation (on all ranks of a group, whose rank 0 has it).

        time, fields : as a `hpckit.surrogate.Solver` yields them; they are copied at once

        False where trainers need no more of it. Raises `ConfigError` for what is no such step.
        """
        if self._sending is None:
            raise ConfigError("send: this rank trains, it has no simulation")
        return self._sending.send(time, fields)

    def samples(self) -> Samples:
        """What a trainer trains on: an iterator of batches (x, y), float32, in physical units."""
        from hpckit.surrogate.samples import Samples

        if not self.trains:
            raise ConfigError("samples: this rank solves, it trains nothing")
        if self._samples is None:
            self._samples = Samples(self._settings, self._running)
        return self._samples

    def dataset(self) -> TorchSamples:
        """The same for torch, an `IterableDataset`: `DataLoader` takes it with batch_size=None."""
        from hpckit.surrogate.torch_samples import TorchSamples

        return TorchSamples(self.samples())

    def end(self) -> None:
        """Tell solver ranks that all is over, or make sure that they know."""
        if self._sending:
            self._sending.end()
        elif self._samples is None:
            raise HpckitError("a trainer ended without any samples: it has to ask for them")
        else:
            self._samples.close()


class _Given(NamedTuple):
    """What is known of a solver that is not ours to run."""

    space: Box
    fields: Mapping[str, tuple[int, ...]]
    steps: int

    def run(self, parameters: dict[str, float], comm: MPI.Intracomm) -> NoReturn:
        """What a trainer does where there is nobody else to solve."""
        raise ConfigError("no rank solves: start more ranks than there are trainers")


def _settings(comm: MPI.Intracomm, solver: _Given, options: Mapping[str, Any]) -> Settings:
    known = {"trainers", "group", "view", "buffer", "batch", "schedule", "sampler"}
    known |= {"simulations", "seed", "deadline", "way"}
    if unknown := options.keys() - known:
        raise ConfigError(
            f"split has no option {', '.join(sorted(unknown))}: it has {', '.join(sorted(known))}"
        )
    settings = Settings(solver, None, comm=comm, validation=0, **{"schedule": Free(), **options})
    settings.sampler = sampler_of(settings.sampler)
    check_settings(settings)
    return settings
