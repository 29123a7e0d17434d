"""Checks of users' arguments that more than one room makes."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpckit.errors import ConfigError


def refuse_masked(what: str, array: Any) -> None:
    """Raise `ConfigError` for a masked array: its mask would be lost without a word.

    ::

        refuse_masked("field 'h'", h)
    """
    if isinstance(array, np.ma.MaskedArray):
        raise ConfigError(
            f"{what} is masked, and its mask would be lost: give values to what is masked, as "
            ".filled(np.nan)"
        )
