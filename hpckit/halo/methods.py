"""The methods by which a halo is exchanged: a method is one file and a line in `hpckit.names`.

A method fills the same bytes as every other. `auto` asks it what it would cost; see `Method` for
what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from hpckit.halo.bound_exchange import Exchange
from hpckit.names import HALO_METHODS, load

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

    def __init__(self, pattern: Pattern, tag: int) -> None: ...

    def bind(self, arrays: Sequence[np.ndarray]) -> Exchange:
        """The exchange of these arrays, of the pattern's layouts; not collective."""
        ...

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        """Whether it can be taken for the pattern's fields, as far as this rank sees."""
        ...

    @staticmethod
    def cost(model: Model, pattern: Pattern) -> float:
        """Seconds of one exchange on this rank, by the model of the machine."""
        ...


METHODS: dict[str, type[Method]] = load(HALO_METHODS)
