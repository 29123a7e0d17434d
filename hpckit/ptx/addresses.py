"""Where the memory of the stand-in lies, for it and for the kernels' twins; no numba here.

Far from where Linux puts programs, heaps, libraries and stacks (0x5555..., 0x7fff...), so that an
address tells what it belongs to.
"""

WINDOW_BITS = 44
WINDOW = 2
"""addresses whose upper bits are this belong to a stand-in: the host must not touch them"""
INSIDE = 1 << WINDOW_BITS
"""what the device adds to such an address to reach the same byte"""
