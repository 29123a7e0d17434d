"""Where a solver's fields live and its kernels run: see `Backend`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hpckit.comm.device import Device, Host
from hpckit.pde.on_device import OnDevice
from hpckit.pde.on_host import OnHost

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid
    from hpckit.pde.sweep import Slices
    from hpckit.pde.walls import Walls

Place = Host | Device


class Backend(Protocol):
    """What a solver needs of the place of its fields: one file per kind, and a line in `BACKENDS`.

    Results have the same bits in all places. Arrays are whatever `zeros` and `put` give.
    """

    def __init__(
        self,
        place: Any,
        grid: Grid,
        dtype: np.dtype,
        threads: int,
        method: str,
        kernels: str,
    ) -> None:
        """As `Solver` takes them; raises `ConfigError` where the place cannot do that."""
        ...

    def zeros(self, stagger: int | Sequence[int] = 0) -> Any:
        """A local array of the grid, with ghosts."""
        ...

    def put(self, values: np.ndarray, stagger: int | Sequence[int] | None = None) -> Any:
        """The host's values where kernels read them; of a local array, laid out as by `zeros`."""
        ...

    def sweep(
        self,
        kernel: str,
        arrays: Sequence[Any],
        interior: Slices,
        shell: Sequence[Slices],
        *,
        repeated: str | None = None,
        layout: tuple = (),
        walk: tuple = (),
    ) -> AnySweep:
        """A kernel, by its name, bound as in `hpckit.pde.sweep.Sweep`."""
        ...

    def fill(self, walls: Walls, arrays: Sequence[Any]) -> Callable[[], object]:
        """What fills the ghosts beside this rank's walls: see `hpckit.pde.walls.Fill`."""
        ...

    def products(self, triples: Sequence[tuple[Any, Any, Any]]) -> Callable[[], object]:
        """What sets the first array of each triple to the product of the others, cell by cell."""
        ...

    def fields(self, arrays: dict[str, Any]) -> Mapping[str, np.ndarray]:
        """As the host sees them, and what is put into the dictionary later."""
        ...

    def changing(self, fields: Any) -> AbstractContextManager[Mapping[str, np.ndarray]]:
        """What `fields` gave, to be written to until the end of the block."""
        ...

    def has_nan(self, fields: Any) -> bool:
        """Whether an owned cell of this rank is NaN."""
        ...

    def synchronize(self) -> None:
        """The host waits for all that was begun."""
        ...


class AnySweep(Protocol):
    """As `hpckit.pde.sweep.Sweep`, which see."""

    @property
    def repeats(self) -> bool: ...

    def add(
        self,
        arrays: Sequence[Any],
        interior: Slices,
        shell: Sequence[Slices],
        layout: tuple = (),
    ) -> None: ...

    def interior(self, *arguments: float) -> None: ...

    def shell(self, *arguments: float) -> None: ...

    def repeat(self, *arguments: float) -> None: ...


BACKENDS: dict[str, type[Backend]] = {"host": OnHost, "device": OnDevice}
