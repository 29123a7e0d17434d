"""What an equation brings so that a program can run it from a case file: see `Equation`.

The recipe for a new one is in docs/equations.md. Importing an equation starts no MPI: a program
reads its options, and answers `--help` and `--dry-run`, where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import msgspec

from hpckit.comm.device import HOST
from hpckit.errors import ConfigError, together
from hpckit.pde.solver import Solver

if TYPE_CHECKING:
    import numpy as np

    from hpckit.comm.grid import Grid
    from hpckit.pde.backend import Place
    from hpckit.pde.planes import Planes

S = TypeVar("S", bound=Solver)
O = TypeVar("O", bound=msgspec.Struct)  # noqa: E741


@dataclass(frozen=True)
class Setup:
    """What a run gives to its equation, besides the options that the equation itself declares.

    grid : with the ghosts that the solver needs.
    numerics : `dtype`, `threads` and `method`, as all solvers take them.
    bounds : west, east, south and north edge of the map in degrees; empty where none are given.
    input : reads this rank's box of the input, owned shape, float64 (collective); None: no input.
    place : where the solver shall compute: `HOST`, or a device, for equations that can.
    """

    grid: Grid
    numerics: Mapping[str, Any]
    bounds: Sequence[float] = ()
    input: Callable[[], np.ndarray] | None = None
    place: Place = HOST

    def read(self) -> np.ndarray:
        """This rank's box of the input (collective); `ConfigError` on all ranks without one."""
        with together(self.grid.comm):
            if self.input is None:
                raise ConfigError(
                    "this equation needs an input, and its Setup has none: pass "
                    "Setup(…, input=f), where f() is this rank's box of it, owned shape, float64"
                )
        assert self.input is not None  # else that was raised
        return self.input()


class Cost(NamedTuple):
    """What a run needs of a machine, in arrays as large as a rank's block.

    kept : held by a rank at all times; exchanged : whose ghosts are filled in a step; written : in
        a snapshot; moved : between memory and core in a step.
    of_copying : how fast a step moves them, as a fraction of copying (docs/performance.md).
    drawing : bytes that pictures take on rank 0, and bytes per cell drawn.
    checking : arrays that snapshots and the verdict take for a while.
    """

    kept: int
    exchanged: int
    written: int
    moved: int
    of_copying: float
    drawing: tuple[float, float]
    checking: int = 0


class Picture(NamedTuple):
    """A picture to be: the program opens a matplotlib figure, has it painted, and saves it.

    name : of the file; size : inches; paint : draws into the figure that it is given.

    ::

        def paint(figure):
            figure.subplots().imshow(temperature)

        Picture("heat.png", (4.8, 4.1), paint)
    """

    name: str
    size: tuple[float, float]
    paint: Callable[[Any], None]


class Equation(Generic[S, O]):
    """A PDE and all that belongs to it; a subclass with a line in `hpckit.pde.EQUATIONS` is one.

    A program makes one per run, collectively, and asks it for whatever depends on the physics::

        equation = EQUATIONS["heat"](Setup(grid, numerics), heat.Options(kappa=0.5))
        equation.start()
        for _ in range(steps):
            equation.solver.step(dt)
        equation.verdict()

    Class attributes
    ----------------
    Options : its section of a case file: keys, defaults, limits and help.
    unit : of time.
    width : of the ghosts that the solver needs.
    periodic_in : dimensions of the periodic grid that it needs; 0: any grid.
    takes_input : whether its initial state may be that of a file.
    on_map : whether it needs an input, a 2-D map of elevation with `bounds`.
    first_row : the edge of the map, north or south, where the rows of its input begin.
    drawn_from : dimensions that its pictures need.

    Attributes
    ----------
    solver : made by the subclass's constructor.
    spacing : of cells, one per dimension, in the unit of the results' coordinates.
    origin : their lower corner.
    """

    Options: ClassVar[type[msgspec.Struct]]
    unit: ClassVar[str] = "s"
    width: ClassVar[int] = 1
    periodic_in: ClassVar[int] = 0
    takes_input: ClassVar[bool] = True
    on_map: ClassVar[bool] = False
    first_row: ClassVar[Literal["north", "south"] | None] = None
    drawn_from: ClassVar[int] = 1
    solver: S
    spacing: tuple[float, ...]
    origin: float | tuple[float, ...] = 0.0

    def __init__(self, setup: Setup, options: O) -> None:
        self.grid = setup.grid
        self.setup = setup
        self.options = options

    @classmethod
    def cost(cls, options: O, has_input: bool) -> Cost:
        """What a run needs; no MPI."""
        raise NotImplementedError

    @classmethod
    def dt_max(cls, options: O, shape: tuple[int, ...]) -> float | None:
        """The largest stable time step, where it is known without the input; no MPI."""
        return None

    @classmethod
    def on_devices(cls, options: O) -> bool:
        """Whether there are kernels for devices."""
        return False

    @classmethod
    def limits_dt(cls, options: O) -> str:
        """The key on which the largest time step depends, and its value, as an error names it."""
        raise NotImplementedError

    def start(self) -> None:
        """Set the initial state (collective)."""
        raise NotImplementedError

    def show(self) -> Mapping[str, np.ndarray]:
        """The local arrays that a snapshot shows, by name."""
        return self.solver.fields

    def verdict(self) -> dict[str, float]:
        """Whether the result is right: what was checked, with unit, and the answer (collective)."""
        raise NotImplementedError

    def pictures(self, planes: Planes) -> Iterator[Picture]:
        """Pictures of the results; rank 0 only. matplotlib is imported where they are painted."""
        yield from ()

    def total(self, name: str) -> float:
        """Sum of a field over all cells (collective)."""
        owned = self.solver.fields[name][self.grid.owned]
        return self.grid.comm.allreduce(float(owned.sum(dtype=float)))

    def largest(self, values: np.ndarray) -> float:
        """The largest value of all ranks, NaN where one is (collective).

        values : any shape with at least one element

        MPI's MAX keeps or loses a NaN by its rank, Python's too: they compare, and NaN compares
        false. ::

            equation.largest(abs(error[grid.owned]))
        """
        return float(max(self.grid.comm.allgather(float(values.max())), key=_nan_last))


def _nan_last(value: float) -> tuple[bool, float]:
    return value != value, value
