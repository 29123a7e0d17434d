"""Numbers in text files: read fast, and where one is none, its line is named."""

from __future__ import annotations

import bz2
import gzip
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hpckit.errors import ConfigError

_BOM = b"\xef\xbb\xbf"
_NUMBER = re.compile(
    rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.IGNORECASE
)
_SHOWN = 24  # characters of a wrong word


def content(path: Path, empty: bool = False) -> bytes:
    """What is in a file, unpacked where it begins as .gz and .bz2 files do; a BOM is left out. ::

    content(Path("problem-49-7776-pre.txt.bz2"))

    Raises `ConfigError` where it cannot be read, its packing is damaged, or, unless it may be
    `empty`, nothing but blanks is there.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        elif raw[:3] == b"BZh":
            raw = bz2.decompress(raw)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"cannot unpack {path}, it is damaged or not whole: {error}") from None
    if not empty and not raw.strip():
        raise ConfigError(f"{path} is empty")
    return raw.removeprefix(_BOM)


def numbers(path: Path, text: bytes) -> np.ndarray:
    """All numbers of a text: (n,) float64, some ten million a second.

    ::

        numbers(path, b"1 2.5e3 -7")  # (1, 2500, -7)

    Raises `ConfigError` with the line of the first word that is no number.
    """
    try:
        with _strict():
            return np.fromstring(text, sep=" ")
    except (DeprecationWarning, ValueError):
        for number, line in enumerate(text.split(b"\n"), 1):
            for word in line.split():
                if not _NUMBER.fullmatch(word):
                    raise ConfigError(no_number(path, number, word)) from None
        raise


def rows(path: Path, lines: Iterable[tuple[int, bytes]]) -> list[np.ndarray]:
    """The numbers of each of some numbered lines: a (n,) float64 array for each. ::

    rows(path, [(3, b"1 2"), (5, b"")])  # [(1, 2), ()]

    Raises `ConfigError` with the line of the first word that is no number.
    """
    found = []
    number, line = 0, b""
    try:
        with _strict():
            for number, line in lines:  # noqa: B007
                found.append(np.fromstring(line, sep=" "))
    except (DeprecationWarning, ValueError):
        wrong = next((w for w in line.split() if not _NUMBER.fullmatch(w)), line)
        raise ConfigError(no_number(path, number, wrong)) from None
    return found


def data_lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, from 1, without blank ones and comments (#). ::

    list(data_lines(b"# a\\n\\n1 2\\n"))  # [(3, b"1 2")]
    """
    for number, line in enumerate(text.split(b"\n"), 1):
        stripped = line.strip()
        if stripped and stripped[:1] != b"#":
            yield number, stripped


def line_of_word(text: bytes, k: int) -> int:
    """The line, from 1, of word `k`, from 0; a slow search, for messages. ::

    line_of_word(b"1 2\\n3", 2)  # 2
    """
    for number, line in enumerate(text.split(b"\n"), 1):
        words = len(line.split())
        if k < words:
            return number
        k -= words
    return text.count(b"\n") + 1


def no_number(path: Path, line: int, word: bytes) -> str:
    """The sentence about a word that should be a number. ::

    no_number(path, 4, b"1,5")  # "...: line 4: '1,5' is no number (a decimal comma?)"
    """
    shown = word[:_SHOWN].decode("ascii", "backslashreplace")
    text = repr(shown) + ("..." if len(word) > _SHOWN else "")
    hint = ""
    if b"," in word:
        hint = ": numbers are separated by blanks, and decimals follow a point, not a comma"
    elif re.fullmatch(rb"[+-]?[\d.]+[dD][+-]?\d+", word):
        hint = ": exponents are written with e, not d"
    return f"{path}, line {line}: {text} is no number{hint}"


@contextmanager
def _strict() -> Iterator[None]:
    """NumPy warns where a text does not end as numbers; older ones say so by that alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        yield
