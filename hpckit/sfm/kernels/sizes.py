"""Widths of kept (D) and eliminated (d) blocks for which there are kernels; see `linearise`."""

SIZES = [
    {"D": 6, "d": 3},  # points are eliminated
    {"D": 9, "d": 3},
    {"D": 12, "d": 3},
    {"D": 18, "d": 3},
    {"D": 3, "d": 6},  # poses
    {"D": 6, "d": 6},
    {"D": 9, "d": 6},
    {"D": 15, "d": 6},
    {"D": 3, "d": 9},  # poses with cameras of their own
    {"D": 3, "d": 12},
    {"D": 3, "d": 18},
]
