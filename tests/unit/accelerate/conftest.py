from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest


@pytest.fixture
def make() -> Iterator[Callable[[Any], Any]]:
    """Commits datatypes, and frees them after the test."""
    with ExitStack() as freed:

        def commit(datatype: Any) -> Any:
            freed.callback(datatype.Free)
            return datatype.Commit()

        yield commit
