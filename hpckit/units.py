"""Numbers with units, as people read them."""

from __future__ import annotations


def amount(nbytes: float) -> str:
    """`512 B`, `1.5 MB`: bytes by powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB", "EB"):
        if nbytes < 1000 or unit == "EB":
            break
        nbytes /= 1000
    return f"{nbytes:.3g} {unit}"


def binary(nbytes: int, form: str = ".4g") -> str:
    """`8 B`, `32 KiB`: bytes by powers of 1024, for sizes that are powers of two."""
    exponent = min(max(nbytes.bit_length() - 1, 0) // 10, 4)
    if exponent == 0:
        return f"{nbytes} B"
    return f"{nbytes / 1024**exponent:{form}} {'KMGT'[exponent - 1]}iB"


def period(seconds: float) -> str:
    """`1.23 us`, `45.6 ms`, `7.2 s`: of something that is repeated."""
    for scale, unit in ((1e-6, "us"), (1e-3, "ms"), (1.0, "s")):
        if seconds < 999.5 * scale or unit == "s":
            break
    return f"{seconds / scale:.3g} {unit}"


def duration(seconds: float) -> str:
    """`7.0 s`, `3 min 20 s`, `2 h 05 min`: of something that one waits for."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    if seconds < float("inf"):
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return "unknown time"
