"""What all programs share: options, cases, the loop, stop signals, the report, figures."""

import os
import signal
import sys

# Before NumPy and MPI are imported. Ranks fill the cores already: a BLAS that starts a thread per
# core in each of them only costs memory. And Open MPI's UCX windows print errors where there is no
# such network; ours are on-node anyway.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMPI_MCA_osc", "^ucx")

# A signal that asks for the end of a run may come before anybody listens: imports take seconds, and
# MPICH's MPI_Init replaces handlers. So signals are blocked from the first line of a program on
# (`python -m hpckit.apps.halo` imports this file before the program's own), and delivered when
# `stop.listen` has its handlers in place. A script that imports us blocks nothing.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
if sys.argv[:1] == ["-m"] and any(word.startswith("hpckit.apps") for word in sys.orig_argv[1:]):
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
