"""What kernels, the devices that launch them and the stand-in agree on; no numba here."""

THREADS = 256
"""of a block"""
SPACE_BITS = 40
SPACE = 0x50 << SPACE_BITS
"""where the stand-in's addresses begin: no heap and no library lies in this TiB"""
INSIDE = 1 << 44
"""how much further on what runs on the stand-in finds the same memory"""
