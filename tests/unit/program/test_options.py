import math
import os
import tomllib
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from hpckit.errors import ConfigError
from hpckit.keys import InputFile, word
from hpckit.program.options import help_text, parse, to_toml


class Time(msgspec.Struct):
    """How far and how fast."""

    steps: Annotated[int, Meta(ge=1, description="time steps to take")] = 100
    end: Annotated[float, Meta(gt=0, description="end of the run, s")] | None = None


class Config(msgspec.Struct):
    """Heat in a box."""

    shape: Annotated[tuple[int, ...], Meta(description="cells per dimension")] = (64, 64)
    name: str = "box"
    way: Literal["auto", "packed"] = "auto"
    resume: bool = False
    speed_of_sound: float = 340.0
    words: tuple[Literal["a", "b"], ...] = ()
    time: Time = msgspec.field(default_factory=Time)


class Worded(msgspec.Struct):
    """Something that is told in words."""

    task: Annotated[Literal["read", "write"], word("what to do")] = "read"
    input: Annotated[InputFile, word("of what")] = ""
    name: str = "box"


class Strict(msgspec.Struct):
    """Something that must be told."""

    input: str


@pytest.fixture
def case(tmp_path):
    def write(text):
        path = tmp_path / "case.toml"
        path.write_text(text)
        return str(path)

    return write


def test_defaults_need_no_case():
    options, config = parse(Config, [])
    assert config == Config()
    assert (options.json, options.trace, options.ranks) == (False, None, None)


def test_flags_win_over_the_case(case):
    path = case('name = "toml"\nshape = [3, 4]\n[time]\nsteps = 7\nend = 2')
    _, config = parse(Config, [path, "--time.steps", "8", "--resume", "--shape=5,6,7"])
    assert config == Config((5, 6, 7), "toml", resume=True, time=Time(8, 2.0))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--name", "7"], {"name": "7"}),
        (["--name", "a,b"], {"name": "a,b"}),
        (["--name", ""], {"name": ""}),
        (["--shape", "[1, 2]"], {"shape": (1, 2)}),
        (["--shape", "3"], {"shape": (3,)}),
        (["--words", "a,b"], {"words": ("a", "b")}),
        (["--speed-of-sound", "-1e3"], {"speed_of_sound": -1000.0}),
        (["--speed_of_sound", "2"], {"speed_of_sound": 2.0}),
        (["--resume", "false"], {"resume": False}),
        (["--resume", "--name", "x"], {"resume": True, "name": "x"}),
    ],
)
def test_flags_mean_what_their_type_says(flags, expected):
    assert parse(Config, flags)[1] == Config(**expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tiem.steps", "3"], r"unknown flag --tiem.steps, did you mean --time.steps\?"),
        (["-n", "3"], "unknown flag -n"),
        (["--time", "3"], "unknown flag --time"),
        (["--time.steps", "x"], "--time.steps x: expected int, got str$"),
        (["--time.steps", "0"], "--time.steps 0: expected int >= 1$"),
        (["--way", "packd"], r"--way packd: invalid enum value 'packd', allowed: auto\|packed$"),
        (["--name"], "--name needs a value: text"),
        (["--ranks", "3"], "--ranks is for --dry-run"),
        (["--dry-run", "--ranks", "0"], "--ranks 0: expected int >= 1"),
        (["--trace", "/missing/folder/x.json"], "there is no folder /missing/folder"),
        (["a.toml", "b.toml"], "only one case file at a time"),
        (["missing.toml"], "cannot read the case file 'missing.toml': No such file"),
    ],
)
def test_wrong_flags_are_one_clear_line(flags, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(Config, flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae = 1", r"unknown key nmae, did you mean name\?; allowed: shape, name, way, resume"),
        ("[time]\nstpes = 1", r"unknown key time.stpes, did you mean steps\?; allowed: steps, end"),
        ("[time]\nsteps = 'a'", "time.steps = 'a': expected int, got str"),
        ("shape = [1, 'a']", r"shape = \[1, 'a'\]: expected int, got str at \[1\]"),
        ("time = 3", r"time = 3: expected a section \[time\]"),
        ("way = 'fast'", r"way = 'fast': .*allowed: auto\|packed"),
        ("x =", "case.toml is not TOML: Invalid value"),
    ],
)
def test_wrong_cases_name_the_file_and_the_key(case, text, message):
    with pytest.raises(ConfigError, match=f"case.toml.*{message}|{message}") as caught:
        parse(Config, [case(text), "--time.end", "3"])
    assert "case.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("99999999999999999999", "integer of at most 64 bits"),
        ("-9223372036854775809", "integer of at most 64 bits"),
        ("[1, 18446744073709551616]", "integer of at most 64 bits"),
        ("1" * 5000, "is not TOML|expected (int|float|array), got str"),
        ("nan", "finite number"),
        ("-inf", "finite number"),
        ("[[nan]]", "finite number"),
        ("{ a = inf }", "finite number"),
        ("1979-05-27", "expected"),
        ("[" * 3000 + "]" * 3000, "nested too deeply|expected"),
    ],
)
@pytest.mark.parametrize("key", ["shape", "speed_of_sound", "time.steps"])
def test_numbers_that_are_none_name_the_key(case, key, value, message):
    section, _, name = key.rpartition(".")
    for words in (
        [case(f"[{section}]\n{name} = {value}" if section else f"{name} = {value}")],
        [f"--{key}={value}"],
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            parse(Config, words)
        assert len(str(caught.value)) < 500
        assert (
            name in str(caught.value).replace("-", "_") or "TOML" in message or "nested" in message
        )


@pytest.mark.parametrize("text", ["a\0b", "a\udcffb"])
def test_text_that_no_file_can_be_called(text):
    with pytest.raises(ConfigError, match=r"--name .*expected text (without NUL|in UTF-8)"):
        parse(Config, ["--name", text])


def test_names_in_lists_are_listed_too(case):
    with pytest.raises(
        ConfigError, match=r"words = \['a', 'c'\]: invalid enum value 'c' .*allowed: a\|b"
    ):
        parse(Config, [case("words = ['a', 'c']")])


def test_case_files_are_small_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (2 << 20))
    (tmp_path / "latin.toml").write_bytes("name = 'é'".encode("latin1"))
    (tmp_path / "twice.toml").write_text("name = 'a'\nname = 'b'")
    wrong = {
        "pipe.toml": "not a regular file",
        "": "not a regular file",
        "large.toml": "2,097,152 bytes",
    }
    wrong |= {"latin.toml": "not TOML: .*utf-8", "twice.toml": "not TOML: Cannot overwrite a value"}
    for name, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            parse(Config, [str(tmp_path / name)])


def test_a_trace_needs_a_file_to_write(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        parse(Config, ["--trace", str(tmp_path)])


def test_what_is_required_is_asked_for():
    with pytest.raises(ConfigError, match="missing required field input"):
        parse(Strict, [])
    assert "(required)" in help_text(Strict, "strict")


def test_help_tells_types_defaults_and_units():
    text = help_text(Config, "hpckit.apps.heat")
    assert "python -m hpckit.apps.heat [case]" in text
    assert "Heat in a box." in text
    assert "--shape int,...\n        cells per dimension (default: 64, 64)" in text
    assert "--way auto|packed" in text
    assert "[time] How far and how fast." in text
    assert "--time.end float\n        end of the run, s" in text
    assert "--dry-run\n" in text


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    shape=st.lists(st.integers(-(2**62), 2**62), max_size=4).map(tuple),
    name=NAMES,
    speed=st.floats(),
    steps=st.integers(1, 10**9),
    end=st.none() | st.floats(min_value=0, exclude_min=True),
)
def test_the_case_that_ran_runs_the_same_again(shape, name, speed, steps, end):
    config = Config(shape, name, speed_of_sound=speed, time=Time(steps, end))
    again = msgspec.convert(tomllib.loads(to_toml(config)), Config)
    if math.isnan(speed):
        assert math.isnan(again.speed_of_sound)
        again.speed_of_sound = config.speed_of_sound
    assert msgspec.structs.astuple(again) == msgspec.structs.astuple(config)


def test_tables_in_lists_are_written_too():
    class Point(msgspec.Struct):
        x: float
        label: str | None = None

    class Points(msgspec.Struct):
        at: list[Point]
        named: dict[str, int]

    points = Points([Point(1.0, "a"), Point(2.0)], {"a b": 1})
    assert msgspec.convert(tomllib.loads(to_toml(points)), Points) == points


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["write", "a.txt"], ("write", "a.txt", "box")),
        (["a.toml", "write"], ("write", "", "toml")),
        (["write", "named", "other"], ("write", "other", "toml")),
        (["--task", "write", "a.txt", "--name", "x"], ("write", "a.txt", "x")),
        (["read", "--input", "a b"], ("read", "a b", "box")),
        (["read", "7"], ("read", "7", "box")),
    ],
)
def test_words_fill_keys_in_their_order(tmp_path, monkeypatch, words, expected):
    for name in ("a", "named"):
        (tmp_path / f"{name}.toml").write_text('name = "toml"')
    monkeypatch.chdir(tmp_path)
    assert parse(Worded, words, tmp_path)[1] == Worded(*expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["raed"], "task raed: invalid enum value 'raed', allowed: read|write"),
        (["read", "x", "y"], r"'y' is a word too many: \[case\] \[task\] \[input\]"),
        (["a.toml", "b.toml"], "only one case file"),
        (["missing.toml"], "cannot read the case file 'missing.toml'"),
    ],
)
def test_wrong_words_are_one_clear_line(tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        parse(Worded, words, tmp_path)


def test_words_are_in_the_help():
    assert "[case] [task] [input] [--key value ...]" in help_text(Worded, "p")
    assert "[case] [--key value ...]" in help_text(Config, "p")


def test_inputs_are_beside_the_case_or_below_the_folder_of_data(tmp_path, monkeypatch, case):
    (tmp_path / "data").mkdir()
    for name in ("case", "data"):
        (tmp_path / "data" / f"{name}.txt").write_text("")
    (tmp_path / "case.txt").write_text("")
    monkeypatch.setenv("HPCKIT_DATA", str(tmp_path / "data"))
    assert parse(Worded, [case("input = 'case.txt'")])[1].input == str(tmp_path / "case.txt")
    found = parse(Worded, [case("input = 'data.txt'")])[1].input
    assert found == str(tmp_path / "data" / "data.txt")
    assert parse(Worded, [case("input = 'none.txt'")])[1].input == "none.txt"
