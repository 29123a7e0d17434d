"""Which solver `solver="auto"` takes."""

from __future__ import annotations

from hpckit.sfm.bundle.solvers import SOLVERS
from hpckit.sfm.bundle.system import Shape

_DENSE = 2000  # unknowns up to which factorising takes less than assembling


def choose(shape: Shape, room: float) -> tuple[str, str]:
    """Its name, and why, in half a sentence.

    room : bytes that it may take
    """
    if shape.size > _DENSE:
        return "pcg", f"{shape.size} unknowns are more than {_DENSE}"
    if SOLVERS["dense"].memory(shape) > room:
        return "pcg", "the whole matrix does not fit in memory"
    return "dense", f"{shape.size} unknowns are no more than {_DENSE}"
