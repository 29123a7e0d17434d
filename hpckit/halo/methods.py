"""The methods by which a halo is exchanged: a method is one file and a line in `hpckit.names`.

A method fills the same bytes as every other of its kind of place: host memory, or a device. `auto`
asks it what it would cost; see `Method` for what it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from hpckit.halo.bound_exchange import Exchange
from hpckit.names import DEVICE_HALO_METHODS, HALO_METHODS, load

if TYPE_CHECKING:
    from hpckit.halo.pattern import Pattern
    from hpckit.machine.model import Model


class Method(Protocol):
    """How the fields of one pattern are exchanged (constructing is collective).

    Made of a pattern and the first of the tags that its messages may bear; raises `HpckitError`, on
    all ranks, where it cannot be taken here.
    """

    name: ClassVar[str]
    """what users call it"""
    pointers: ClassVar[str]
    """to what kind of memory the addresses are that MPI gets"""

    def __init__(self, pattern: Pattern, tag: int) -> None: ...

    def bind(self, arrays: Sequence[np.ndarray], stream: int = 0) -> Exchange:
        """The exchange of these arrays, of the pattern's layouts; not collective.

        arrays : as their place views them
        stream : of the device, behind whose work it comes; 0 on the host
        """
        ...

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        """Whether it can be taken for the pattern's fields, as far as this rank sees."""
        ...

    @staticmethod
    def cost(model: Model, pattern: Pattern) -> float:
        """Seconds of one exchange on this rank, by the model of the machine."""
        ...


METHODS: Mapping[str, Mapping[str, type[Method]]] = {
    "host": load(HALO_METHODS),
    "device": load(DEVICE_HALO_METHODS),
}
"""by the kind of place of the fields (see `hpckit.comm.device`)"""
FALLBACK = {"host": "packed", "device": "staged"}
"""what can be taken everywhere"""
