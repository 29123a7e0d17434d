"""What users write: a solver, which gives fields step after step; and its fields as one vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from hpckit.arguments import refuse_masked
from hpckit.errors import ConfigError, HpckitError

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.space import Box


class Solver(Protocol):
    """What runs simulations: a class of the user's, no base class is needed.

    ::

        class Decay:
            space = Box(rate=(0.1, 2.0))
            fields = {"u": (32,)}
            steps = 20

            def run(self, parameters, comm):
                u = np.ones(32)
                for step in range(self.steps):
                    u *= np.exp(-0.1 * parameters["rate"])
                    yield 0.1 * (step + 1), {"u": u}

    space : the parameters and between what they lie
    fields : name to shape of the whole field
    steps : how often `run` yields
    about : optional; what JSON can hold of the equation, its domain and coefficients, and whether
        fields are "points" or "cell means": it goes onto tapes and into surrogates
    """

    @property
    def space(self) -> Box: ...

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def steps(self) -> int: ...

    def run(
        self, parameters: dict[str, float], comm: MPI.Intracomm
    ) -> Iterator[tuple[float, Mapping[str, np.ndarray]]]:
        """One simulation: yields the time, which increases, and the fields, `steps` times.

        All ranks of `comm` call it and go on together; what rank 0 yields is the whole field, what
        others yield is not looked at. The arrays are read before `run` goes on, and may be reused.
        """
        ...


def check_solver(solver: Any) -> None:
    """`ConfigError` unless it has what a `Solver` has."""
    name = type(solver).__name__
    if isinstance(solver, type):
        raise ConfigError(
            f"the solver must be an object, not a class: make one, {solver.__name__}(...)"
        )
    missing = [each for each in ("space", "fields", "steps", "run") if not hasattr(solver, each)]
    if missing:
        raise ConfigError(
            f"solver {name} has no {', '.join(missing)}: it needs space, fields, steps and run"
        )
    if not isinstance(solver.steps, int | np.integer) or solver.steps < 1:
        raise ConfigError(f"solver {name}: steps = {solver.steps!r} must be a number of at least 1")


class Fields(NamedTuple):
    """The fields of a step, one after the other in one float32 vector of `size`."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    slices: tuple[slice, ...]
    size: int

    @classmethod
    def of(cls, fields: Mapping[str, tuple[int, ...]]) -> Fields:
        """Those of a solver; `ConfigError` where they are not names and shapes."""
        if not isinstance(fields, Mapping) or not fields:
            raise ConfigError(
                f'fields = {fields!r} must give names and shapes, such as {{"u": (64, 64)}}'
            )
        shapes = tuple(_shape(name, shape) for name, shape in fields.items())
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes]).tolist()
        slices = tuple(map(slice, [0, *ends[:-1]], ends))
        return cls(tuple(fields), shapes, slices, ends[-1])

    def pack(self, fields: Mapping[str, Any], out: np.ndarray) -> None:
        """Write them into `out` (size,), float32.

        Raises `ConfigError` for other names or shapes, and what are no real numbers; `HpckitError`
        for NaN and infinity, also by rounding.
        """
        if not isinstance(fields, Mapping) or fields.keys() != set(self.names):
            raise ConfigError(f"it gave {_described(fields)}, not the fields {_list(self.names)}")
        with np.errstate(over="ignore"):  # becomes infinite, and is found so
            for name, shape, where in zip(self.names, self.shapes, self.slices, strict=True):
                _write(name, fields[name], out[where].reshape(shape))
        if not np.isfinite(out).all():
            raise self._not_finite(fields, out)

    def unpack(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Views of a vector (..., size), each (..., *shape)."""
        return {
            name: vector[..., where].reshape(*vector.shape[:-1], *shape)
            for name, shape, where in zip(self.names, self.shapes, self.slices, strict=True)
        }

    def _not_finite(self, fields: Mapping[str, Any], vector: np.ndarray) -> HpckitError:
        """Says where, and what was given there."""
        found = self.unpack(vector)
        name = next(each for each in self.names if not np.isfinite(found[each]).all())
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(found[name]))[0])
        value = np.asarray(fields[name])[first]
        says = "too large for float32" if np.isfinite(value) else "not finite"
        return HpckitError(f"field {name!r} is {says} at {first}: {value}")


def _shape(name: Any, shape: Any) -> tuple[int, ...]:
    lengths = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if (
        not isinstance(name, str)
        or not lengths
        or not all(isinstance(n, int | np.integer) and n > 0 for n in lengths)
    ):
        raise ConfigError(f"field {name!r}: shape {shape!r} must be whole numbers of at least 1")
    return tuple(map(int, lengths))


def _write(name: str, given: Any, out: np.ndarray) -> None:
    refuse_masked(f"field {name!r}", given)
    array = np.asarray(given)
    if array.dtype.kind not in "fiu":
        raise ConfigError(f"field {name!r} is of dtype {array.dtype}, it must hold real numbers")
    if array.shape != out.shape:
        raise ConfigError(f"field {name!r} has shape {array.shape}, it must have {out.shape}")
    out[...] = array


def _described(given: Any) -> str:
    return f"fields {_list(given)}" if isinstance(given, Mapping) else type(given).__name__


def _list(names: Any) -> str:
    return ", ".join(map(str, names))
