"""Programs: a case file in, numbers and pictures out."""

import os

# Before NumPy and MPI are imported. Ranks fill the cores already: a BLAS that starts a thread per core in each of them
# only costs memory. And Open MPI's UCX windows print errors where there is no such network; ours are on-node anyway.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMPI_MCA_osc", "^ucx")
