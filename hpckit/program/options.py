"""A program's configuration: msgspec structs, filled from a case file and `--section.key value`.

A program describes its configuration once; names, types, defaults and help all come from it::

    class Time(msgspec.Struct):
        '''How far and how fast.'''
        steps: Annotated[Count, note("time steps to take")] = 100
        end: Annotated[float, note("end of the run, s")] | None = None  # units are said in words

    class Config(msgspec.Struct):
        '''Heat in a box.'''
        shape: Annotated[tuple[int, ...], note("cells per dimension")] = (64, 64, 64)
        input: Annotated[InputFile, note("initial temperatures")] = ""
        time: Time = msgspec.field(default_factory=Time)

    mpirun -n 4 python -m hpckit.apps.heat case.toml --shape 128,128,128 --time.steps 10
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import re
import shutil
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from hpckit.errors import ConfigError
from hpckit.keys import AS_WORD, BESIDE, note
from hpckit.program.cases import find, names

C = TypeVar("C", bound=msgspec.Struct)
_LARGEST = 1 << 20  # bytes of a case file
_SHOWN = 100  # characters of a value in an error


class Options(msgspec.Struct):
    """What every program understands besides its configuration."""

    json: Annotated[bool, note("print one JSON line on stdout, everything else on stderr")] = False
    trace: Annotated[str, note("write all timed spans here, for ui.perfetto.dev")] | None = None
    dry_run: Annotated[bool, note("print partition, bytes and memory; run nothing")] = False
    ranks: Annotated[int, note("ranks that a dry run pretends to have", ge=1)] | None = None
    cases: Annotated[bool, note("list the cases that can be run by name")] = False
    help: Annotated[bool, note("print this")] = False
    version: Annotated[bool, note("print the version")] = False


def parse(
    config_type: type[C], argv: Sequence[str], cases: Path | None = None
) -> tuple[Options, C]:
    """Options and configuration from the command line and the case file it names; flags win.

    cases : the folder of the cases that have names.

    Raises `ConfigError`, one line that names the key, for whatever is wrong.
    """
    case, given = _split(argv, config_type, cases)
    for_all = {key: value for key, value in given.items() if key in _names(Options)}
    options = _convert(for_all, Options, "command line")
    if options.ranks is not None and not options.dry_run:
        raise ConfigError("--ranks is for --dry-run; the ranks of a real run come from mpirun -n N")
    if options.trace is not None:
        _check_file(Path(options.trace), f"--trace {options.trace}")
    settings = {}
    if case is not None:
        path = find(case, cases)
        settings = _read(path, case)
        _check(settings, config_type, case)
        _find_inputs(settings, config_type, path.parent)
    for key, value in given.items():
        if key not in for_all:
            _set(settings, key.split("."), value)
    return options, _convert(settings, config_type, case or "command line")


def to_toml(config: msgspec.Struct) -> str:
    """The configuration as a case file that gives it again; `None` is what a missing key means."""
    return "\n".join(_tables(msgspec.to_builtins(config), ())) + "\n"


def help_text(config_type: type[msgspec.Struct], program: str) -> str:
    """All keys with types, meaning and defaults."""
    return "\n".join(
        [
            f"usage: mpirun -n N python -m {program} {_usage(config_type)}",
            "",
            config_type.__doc__ or "",
            "",
            "A case is a TOML file, or the name of one that --cases lists. "
            "Every key can stand in it",
            "or be a flag, which wins:",
            "",
            *_describe(config_type, ""),
            "",
            "For every program:",
            *_describe(Options, ""),
        ]
    )


def _names(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Key to field, as case files spell the key."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def _leaves(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All `section.key` names with their types."""
    for name, field in _names(struct).items():
        section = _section(field.type)
        if section:
            yield from _leaves(section, f"{prefix}{name}.")
        else:
            yield prefix + name, field.type


def _usage(config_type: type[msgspec.Struct]) -> str:
    words = "".join(f" [{name}]" for name, _ in _words(config_type))
    return f"[case]{words} [--key value ...]"


def _words(config_type: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    """Keys that need no flag, with their types."""
    return [(name, kind) for name, kind in _leaves(config_type) if _says(kind, AS_WORD)]


def _split(
    argv: Sequence[str], config_type: type[msgspec.Struct], cases: Path | None
) -> tuple[str | None, dict[str, Any]]:
    """The case file, and the flags' values by key."""
    types = dict([*_leaves(config_type), *_leaves(Options)])
    words, given = [], {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        flag, equals, text = word.partition("=")
        key = "help" if flag == "-h" else flag.removeprefix("--").replace("-", "_")
        if key not in types or not (flag.startswith("--") or flag == "-h"):
            raise ConfigError(
                f"unknown flag {flag}{_nearest(flag, [_flag(k) for k in types])}; --help lists them"
            )
        said = equals or (rest and rest[0] in ("true", "false"))
        if _plain(types[key]) is bool and not said:
            text = "true"
        elif not equals:
            if not rest:
                raise ConfigError(f"{flag} needs a value: {_type_name(types[key])}")
            text = rest.pop(0)
        given[key] = _value(text, types[key], flag)
    return _spread(words, given, config_type, cases)


def _spread(
    words: list[str], given: dict[str, Any], config_type: type[msgspec.Struct], cases: Path | None
) -> tuple[str | None, dict[str, Any]]:
    """What words without flags mean: one is the case, the others fill keys that are for words."""
    keys, case = _words(config_type), None
    known = names(cases) if cases else []
    for word in words:
        if not keys or word.endswith(".toml") or word in known:
            if case is not None:
                raise ConfigError(
                    f"only one case file at a time, but there are {case!r} and {word!r}"
                )
            case = word
            continue
        key, kind = next(((k, kind) for k, kind in keys if k not in given), (None, None))
        if key is None:
            raise ConfigError(f"{word!r} is a word too many: {_usage(config_type)}")
        given[key] = _value(word, kind, key)
    return case, given


def _value(text: str, kind: Any, flag: str) -> Any:
    """What a flag's text means: a TOML value, a list without its brackets, or the text itself."""
    first_error = None
    for candidate in _readings(text, kind):
        try:
            _check_value(candidate, kind, f"{flag} {_short(text, plain=True)}")
        except ConfigError as error:
            first_error = first_error or error
        else:
            return candidate
    raise first_error or AssertionError("there is always a reading")


def _readings(text: str, kind: Any) -> Iterator[Any]:
    many = get_origin(_plain(kind)) in (list, tuple)
    for toml in (text, f"[{text}]"):
        with contextlib.suppress(ValueError, RecursionError):
            value = tomllib.loads(f"value = {toml}")["value"]
            if isinstance(value, list) or not many:
                yield value
    yield text.split(",") if many else text


def _check_file(path: Path, what: str) -> None:
    """Whether a file can be written there at the end of the run."""
    if not path.parent.is_dir():
        raise ConfigError(f"{what}: there is no folder {path.parent} to write to")
    if path.is_dir():
        raise ConfigError(f"{what}: {path} is a folder, but this must be a file")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{what}: the folder {path.parent} cannot be written")


def _read(path: Path, case: str) -> dict[str, Any]:
    """The keys and values of a case file, which errors call `case`."""
    try:
        return tomllib.loads(_text(path, case).decode())
    except OSError as error:
        raise ConfigError(f"cannot read the case file {case!r}: {error.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{case} is nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or a number of more than 4300 digits
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{case} is not TOML: {error}") from None


def _text(path: Path, case: str) -> bytes:
    if not path.is_file():  # a pipe might never end
        raise ConfigError(f"the case file {case!r} is not a regular file")
    size = path.stat().st_size
    if size > _LARGEST:
        raise ConfigError(f"the case file {case!r} has {size:,} bytes: that is no case file")
    return path.read_bytes()


def _find_inputs(settings: dict[str, Any], struct: type[msgspec.Struct], folder: Path) -> None:
    """Replace the names of input files that are relative to the folder of the case file."""
    for key, field in _names(struct).items():
        section = _section(field.type)
        value = settings.get(key)
        if section and value:
            _find_inputs(value, section, folder)
        elif value and _says(field.type, BESIDE):
            data = Path(os.environ.get("HPCKIT_DATA", folder))
            found = [each for each in (folder / value, data / value) if each.exists()]
            settings[key] = str(found[0] if found else value)


def _says(kind: Any, what: str) -> bool:
    """Whether a key's annotations say this of it."""
    notes = getattr(kind, "__metadata__", ())
    return any(isinstance(each, msgspec.Meta) and what in (each.extra or {}) for each in notes)


def _check(
    settings: dict[str, Any], struct: type[msgspec.Struct], where: str | None, path: str = ""
) -> None:
    """Refuse unknown keys, naming the nearest one, and wrong values, naming what is allowed."""
    names = _names(struct)
    for key, value in settings.items():
        if key not in names:
            near = _nearest(key, list(names))
            raise ConfigError(
                f"{where}: unknown key {path}{key}{near}; allowed: {', '.join(names)}"
            )
        section = _section(names[key].type)
        if section is None:
            _check_value(value, names[key].type, f"{where}: {path}{key} = {_short(value)}")
        elif isinstance(value, dict):
            _check(value, section, where, f"{path}{key}.")
        else:
            raise ConfigError(
                f"{where}: {path}{key} = {_short(value)}: expected a section [{path}{key}]"
            )


def _check_value(value: Any, kind: Any, what: str) -> None:
    wrong = _nonsense(value)
    if wrong:
        raise ConfigError(f"{what}: {wrong}")
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        choices = _choices(kind) if "enum" in str(error) else ""
        raise ConfigError(f"{what}: {_lower(error)}{choices and f', allowed: {choices}'}") from None


def _nonsense(value: Any) -> str:
    """What no key of any program can be, whatever its type: so no program needs to look for it."""
    if isinstance(value, dict | list | tuple):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return next(filter(None, map(_nonsense, inner)), "")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "expected an integer of at most 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "expected a finite number"
    if isinstance(value, str) and "\0" in value:
        return "expected text without NUL"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "expected text in UTF-8"  # how Python says that it was not
    return ""


def _choices(kind: Any) -> str:
    """The names that the first `Literal` in a type allows."""
    if get_origin(kind) is Literal:
        return _type_name(kind)
    return next(filter(None, map(_choices, get_args(kind))), "")


def _short(value: Any, plain: bool = False) -> str:
    """A value as an error shows it: what is thousands of digits or brackets long is cut."""
    try:
        text = value if plain else repr(value)
    except (ValueError, RecursionError):  # more digits, or brackets, than Python prints
        return "..."
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}"


def _set(settings: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        settings = settings.setdefault(key, {})
    settings[keys[-1]] = value


def _convert(settings: dict[str, Any], struct: type[C], where: str) -> C:
    """All keys are known and right by now: only required ones can be missing."""
    try:
        return msgspec.convert(settings, struct)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_lower(error)}") from None


def _lower(error: Exception) -> str:
    """msgspec's "Expected `int`, got `str` - at `$[0]`" as the end of a sentence."""
    text = str(error).replace("`", "").replace(" - at $", " at ").removesuffix(" at ")
    return _short(text[0].lower() + text[1:], plain=True)


def _nearest(name: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    return f", did you mean {close[0]}?" if close else ""


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _plain(kind: Any) -> Any:
    """A type without its annotations and without None."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        options = [_plain(k) for k in get_args(kind) if k is not NoneType]
        return options[0] if len(options) == 1 else kind
    return kind


def _section(kind: Any) -> type[msgspec.Struct] | None:
    plain = _plain(kind)
    return plain if isinstance(plain, type) and issubclass(plain, msgspec.Struct) else None


def _type_name(kind: Any) -> str:
    kind = _plain(kind)
    origin = get_origin(kind)
    arguments = [a for a in get_args(kind) if a not in (NoneType, Ellipsis)]
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(map(_type_name, arguments))
    if origin is dict:
        return "table"
    if origin in (list, tuple):
        return ",".join(_type_name(a) for a in arguments) + (",..." if len(arguments) == 1 else "")
    return {str: "text"}.get(kind, getattr(kind, "__name__", str(kind)))


def _describe(struct: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    """Help lines: the section's own keys first, then its sections."""
    fields = _names(struct)
    for name, field in fields.items():
        if not _section(field.type):
            text = f"{_description(field.type)}{_default(field)}".lstrip()
            yield f"  {_flag(prefix + name)} {_type_name(field.type)}".removesuffix(" bool")
            yield textwrap.fill(text, _columns(), initial_indent=" " * 8, subsequent_indent=" " * 8)
    for name, field in fields.items():
        section = _section(field.type)
        if section:
            title = (section.__doc__ or "").partition("\n")[0]
            yield from ["", f"[{prefix}{name}] {title}", *_describe(section, f"{prefix}{name}.")]


def _columns() -> int:
    return min(shutil.get_terminal_size().columns, 110)


def _description(kind: Any) -> str:
    """The first description in a type's annotations, the outermost first."""
    for each in getattr(kind, "__metadata__", ()):
        if isinstance(each, msgspec.Meta) and each.description:
            return each.description
    if get_origin(kind) not in (Annotated, Union, UnionType):
        return ""
    return next(filter(None, map(_description, get_args(kind))), "")


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return " (required)"
    if value is None or value is False or value in ("", (), {}):
        return ""
    return f" (default: {_toml(value).strip('[]')})"


def _tables(settings: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    yield from (
        f"{_key(k)} = {_toml(v)}"
        for k, v in settings.items()
        if v is not None and not isinstance(v, dict)
    )
    for name, inner in settings.items():
        if isinstance(inner, dict):
            here = (*path, _key(name))
            yield from ["", f"[{'.'.join(here)}]", *_tables(inner, here)]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf, -inf, nan: TOML spells them as Python does, JSON has none
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # but for DEL, a JSON string is a TOML string


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)
