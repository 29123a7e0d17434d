"""Where the memory of the stand-in lies, for it and for the kernels' twins; no numba here."""

SPACE_BITS = 40
SPACE = 0x50 << SPACE_BITS
"""where device addresses begin: no heap and no library lies in this TiB"""
INSIDE = 1 << 44
"""how much further on what runs on the device finds the same memory"""
