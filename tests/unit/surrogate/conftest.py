import pytest
import studies

from hpckit.surrogate import surrogate, trainer


@pytest.fixture
def linear(monkeypatch):
    """Studies train an engine that any number of trainers have, not what `engine.make` makes."""
    monkeypatch.setattr(trainer.engine, "make", studies.make)
    monkeypatch.setattr(surrogate.engine, "load", studies.load)
