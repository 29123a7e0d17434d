"""What `hpckit.pde.on_device` writes and kernels read: lines of 64-bit integers; no numba here."""

EXTENTS = 4  # numbers of a line before those of its kernel: first thread, then three extents
CELLS = 8  # of the middle dimension that a thread goes through
