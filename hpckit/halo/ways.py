"""The ways to exchange a halo, by name; each has `bind(arrays)`, which returns an exchange's
`start` and `wait`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hpckit.halo.datatype import Datatype
from hpckit.halo.neighbor import Neighbor
from hpckit.halo.packed import Bound, Packed
from hpckit.halo.shared import Shared

if TYPE_CHECKING:
    from hpckit.halo.plan import Plan


class Way(Protocol):
    """A way to exchange the fields of one plan."""

    def bind(self, arrays: Sequence[np.ndarray]) -> Bound: ...


WAYS: dict[str, Callable[[Plan, int], Way]] = {
    "datatype": Datatype,
    "packed": Packed,
    "neighbor": Neighbor,
    "shared": Shared,
    "direct": lambda plan, tag: Shared(plan, tag, direct=True),
}
