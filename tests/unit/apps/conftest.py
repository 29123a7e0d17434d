"""What tests of all programs need."""

import signal

import pytest


@pytest.fixture(autouse=True)
def _signals():
    """Programs listen to signals; pytest shall not go on doing so."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
