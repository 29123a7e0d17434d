"""Which ranks solve, in groups, and which train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpckit.errors import ConfigError, check_comm, ranges, same

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True, eq=False)
class Roles:
    """Who does what; without groups each trainer solves what it trains on.

    trainers, groups : ranks of `comm`; the first of a group is its root, which sends
    trainer, group : which of them this rank is, or is in; None: none
    team : the communicator of this rank's group, or of the trainers
    """

    trainers: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    trainer: int | None
    group: int | None
    team: MPI.Intracomm

    def trainer_of(self, lane: int) -> int:
        """The rank that trains on this lane."""
        return self.trainers[lane % len(self.trainers)]

    def root_of(self, lane: int) -> int:
        """The rank that sends the steps of this lane; its trainer where there are no groups."""
        return self.groups[lane % len(self.groups)][0] if self.groups else self.trainer_of(lane)

    def lanes_of(self, rank: int, lanes: int) -> list[int]:
        """The lanes that this rank sends or trains on, of so many."""
        return [
            lane for lane in range(lanes) if rank in (self.trainer_of(lane), self.root_of(lane))
        ]

    def pairs(self, lanes: int) -> list[tuple[int, int]]:
        """Who sends steps to whom, from a root to a trainer; empty without groups."""
        both = {(self.root_of(lane), self.trainer_of(lane)) for lane in range(lanes)}
        return sorted(both) if self.groups else []

    def who(self, lane: int) -> str:
        """Names the ranks that solve this lane, for errors."""
        group = self.groups[lane % len(self.groups)]
        return f"rank{'s' if len(group) > 1 else ''} {ranges(group)}"

    def check_lanes(self, lanes: int) -> None:
        """`ConfigError` unless every trainer and group has some, and trainers equally many."""
        if lanes < 1 or lanes % len(self.trainers):
            raise ConfigError(
                f"lanes = {lanes} must be a multiple of the number of trainers,"
                f" {len(self.trainers)}"
            )
        if lanes < len(self.groups):
            raise ConfigError(
                f"lanes = {lanes} is too few for {len(self.groups)} groups of solver ranks: each"
                " lane is solved by one; give more lanes, or more ranks to a group"
            )


def share_out(comm: MPI.Intracomm, trainers: int = 1, group: int = 1) -> Roles:
    """Share out the ranks (collective): trainers spread from rank 0 on, groups of the others.

    ::

        roles = share_out(comm, trainers=comm.size)  # each solves for itself

    group : how many ranks solve a simulation together

    One rank alone, or ranks that are all trainers, solve for themselves. Raises `ConfigError` where
    ranks are left over, or there are too few.
    """
    from mpi4py import MPI

    from hpckit.machine.lifetime import free_with

    check_comm(comm)
    same(comm, "trainers and group", (trainers, group))
    leaders, groups = shares(comm.size, trainers, group)
    trainer = leaders.index(comm.rank) if comm.rank in leaders else None
    number = next((each for each, ranks in enumerate(groups) if comm.rank in ranks), None)
    team = MPI.Intracomm(comm.Split(0 if number is None else 1 + number, comm.rank))
    found = Roles(leaders, groups, trainer, number, team)
    free_with(found, team)
    return found


def shares(
    size: int, trainers: int, group: int
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The ranks of trainers, and of groups, among so many."""
    for name, value in (("trainers", trainers), ("group", group)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} = {value!r} must be a number of at least 1")
    if trainers > size:
        raise ConfigError(
            f"trainers = {trainers} are more than there are ranks: give fewer, or start at least"
            f" {trainers + group} ranks, so that some solve"
        )
    leaders = tuple(number * size // trainers for number in range(trainers))
    others = [rank for rank in range(size) if rank not in leaders]
    if len(others) % group:
        raise ConfigError(
            f"{len(others)} of {size} ranks solve, which makes no groups of {group}: start"
            f" {trainers + group * max(len(others) // group, 1)} ranks, or choose another group"
        )
    groups = zip(*[iter(others)] * group, strict=True)
    return leaders, tuple(groups)
