"""What tests of all programs need."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    """Case files name their input relative to the project."""
    monkeypatch.chdir(Path(__file__).parents[2])
