"""Tables of numbers and ESRI ASCII grids, both text that may be compressed by gzip."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from hpckit.errors import ConfigError

ENDINGS = (".csv", ".tsv", ".txt", ".data")
_GRID = (
    "ncols",
    "nrows",
    "xllcorner",
    "xllcenter",
    "yllcorner",
    "yllcenter",
    "cellsize",
    "dx",
    "dy",
    "nodata_value",
)
_DECIMAL = re.compile(r"\d[,.]\d")
_SNIFFED = 1 << 16  # bytes


def is_table(path: Path) -> bool:
    """Whether its name is that of a table."""
    return (
        path.with_suffix("").suffix.lower() in ENDINGS
        if path.suffix == ".gz"
        else path.suffix.lower() in ENDINGS
    )


def is_grid(path: Path) -> bool:
    """Whether it begins like an ESRI ASCII grid."""
    try:
        with _opened(path, "latin-1") as file:
            return file.readline(100).lower().split()[:1] in (["ncols"], ["nrows"])
    except (OSError, EOFError):
        return False


def read_table(path: Path, columns: tuple[int, int] | None) -> np.ndarray:
    """Numbers between semicolons, tabs, commas or blanks, float64 (rows, columns).

    A first line that holds no number is a header. Between semicolons and tabs, commas are decimal
    marks.
    """
    encoding = _encoding(path)
    with _opened(path, encoding) as file:
        lines = ((n, line.split("#")[0]) for n, line in enumerate(file, 1))
        top = [
            (n, line)
            for n, line in itertools.islice(((n, line) for n, line in lines if line.strip()), 2)
        ]
    if not top:
        raise ConfigError(f"{path} holds no numbers")
    mark = _separator(top[-1][1]) or _separator(top[0][1])
    if mark == "\t" and not all(mark in line for _, line in top):
        mark = None  # tabs and blanks, as they come
    heads, count = _cells(top[0][1], mark), len(_cells(top[-1][1], mark))
    low, high = columns or (0, count)
    if not 0 <= low < high <= count:
        raise ConfigError(
            f"columns {low} to {high} of {path}: it has {count} columns, so choose the first one, "
            f"0 to {count - 1},"
            f" and the one after the last, at most {count}"
        )
    commas = mark in (";", "\t")
    head = 0 if any(_number(cell, commas) for cell in heads[low:high]) else top[0][0]
    how = {
        "delimiter": mark,
        "ndmin": 2,
        "quotechar": '"',
        "usecols": range(low, high) if columns else None,
    }
    if head and len(top) == 1:
        raise ConfigError(
            f"{path} holds no numbers, only {top[0][1].strip()!r}: choose the columns that hold "
            "numbers"
        )
    try:
        with _opened(path, encoding) as file:
            if commas:
                return np.loadtxt(
                    _decimal_points(path, itertools.islice(file, head, None), mark, low, high),
                    **how,
                )
            if _packed(path):
                return np.loadtxt(itertools.islice(file, head, None), **how)
        return np.loadtxt(path, skiprows=head, encoding=encoding, **how)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}: choose the columns that hold numbers") from None


def read_grid(path: Path) -> tuple[np.ndarray, float]:
    """An ESRI ASCII grid, float64 from north to south, and the number for no value."""
    with _opened(path, _encoding(path)) as file:
        words = file.read().split()
    head: dict[str, float] = {}
    at = 0
    while at + 1 < len(words) and words[at].lower() in _GRID:
        head[words[at].lower()] = float(words[at + 1].replace(",", "."))
        at += 2
    shape = int(head["nrows"]), int(head["ncols"])
    if len(words) - at != shape[0] * shape[1]:
        raise ConfigError(
            f"{path} is cut short: it has {len(words) - at} numbers, but its head says {shape}"
        )
    values = np.array([word.replace(",", ".") for word in words[at:]], float)
    return values.reshape(shape), head.get("nodata_value", -9999.0)


def _decimal_points(
    path: Path, lines: Iterable[str], mark: str | None, low: int, high: int
) -> Iterator[str]:
    """Lines with points for the commas in numbers; `ConfigError` where both are used."""
    seen = ""
    for line in lines:
        if "," in line or not seen:
            wanted = " ".join(_cells(line, mark)[low:high])
            seen += "".join({match[0][1] for match in _DECIMAL.finditer(wanted)} - set(seen))
        elif (
            "." in line
            and "." not in seen
            and _DECIMAL.search(" ".join(_cells(line, mark)[low:high]))
        ):
            seen += "."
        if len(seen) > 1:
            raise ConfigError(
                f"{path} has numbers with a comma and numbers with a point: write all with points"
            )
        yield line.replace(",", ".")


def _packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _opened(path: Path, encoding: str) -> IO[str]:
    return (
        gzip.open(path, "rt", encoding=encoding) if _packed(path) else path.open(encoding=encoding)
    )


def _encoding(path: Path) -> str:
    """UTF-8, with a mark or without, UTF-16 with one, or else one that knows every byte."""
    with _opened(path, "latin-1") as file:
        head = file.read(_SNIFFED).encode("latin-1")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return "utf-8-sig" if head[:3] == b"\xef\xbb\xbf" else "latin-1"


def _separator(line: str) -> str | None:
    bare = re.sub(r'"[^"]*"', "", line)
    return next((mark for mark in ";\t," if mark in bare), None)


def _cells(line: str, mark: str | None) -> list[str]:
    return next(csv.reader([line.strip("\r\n")], delimiter=mark)) if mark else line.split()


def _number(text: str, decimal_comma: bool) -> bool:
    try:
        float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        return False
    return True
