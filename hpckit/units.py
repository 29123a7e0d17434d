"""Numbers of bytes as people read them."""

from __future__ import annotations


def amount(nbytes: float) -> str:
    """`512 B`, `1.5 MB`: to three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB", "EB"):
        if nbytes < 1000 or unit == "EB":
            break
        nbytes /= 1000
    return f"{nbytes:.3g} {unit}"


def binary(nbytes: int, form: str = ".4g") -> str:
    """`8 B`, `32 KiB`: for sizes that are powers of two; in this format, from KiB on."""
    exponent = min(max(nbytes.bit_length() - 1, 0) // 10, 6)
    return (
        f"{nbytes / 1024**exponent:{form}} {'KMGTPE'[exponent - 1]}iB"
        if exponent
        else f"{nbytes} B"
    )
