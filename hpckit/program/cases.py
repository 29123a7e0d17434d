"""The cases that come with the programs: `mpirun -n 4 python -m hpckit.apps.halo tsunami`.

`hpckit/cases` is a link to the project's folder `apps`; in a wheel it is a copy of it.
"""

from __future__ import annotations

from pathlib import Path

import hpckit
from hpckit.errors import ConfigError

_CASES = Path(hpckit.__file__).parent / "cases"


def folder(program: str) -> Path:
    """Where the cases of `hpckit.apps.halo` are."""
    return _CASES / program.rpartition(".")[2]


def find(word: str, cases: Path | None) -> Path:
    """The case file that a user means: a path, or else the name of one in the folder `cases`.

    Raises `ConfigError` where there is neither.
    """
    path = Path(word)
    known = names(cases) if cases else []
    if cases and word in known and not path.is_file():
        return cases / f"{word}.toml"
    if path.exists():
        return path
    problem = f"cannot read the case file {word!r}: No such file or directory"
    raise ConfigError(problem + (f"; cases by name: {', '.join(known)}" if known else ""))


def names(cases: Path) -> list[str]:
    """What can be asked for by name."""
    return sorted(path.stem for path in cases.glob("*.toml"))


def listing(cases: Path) -> str:
    """`--cases`: each name, and what the first comment in its file says."""
    known = names(cases)
    if not known:
        return "this program has no cases"
    width = max(map(len, known))
    return "\n".join(f"{name:<{width}}  {_first_line(cases, name)}" for name in known)


def _first_line(cases: Path, name: str) -> str:
    with (cases / f"{name}.toml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
