"""What tests of all programs need."""

import signal

import pytest


@pytest.fixture
def forget_signals():
    """A function: the program that runs next in this process has not been asked to stop."""
    from hpckit.program import stop

    def forget():
        stop._asked = 0

    return forget


@pytest.fixture(autouse=True)
def _signals():
    """Programs listen to signals; pytest shall not go on doing so."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
