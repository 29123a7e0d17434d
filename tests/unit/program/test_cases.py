"""Cases by name, and the files beside them."""

from pathlib import Path

import msgspec
import pytest

from hpckit.errors import ConfigError
from hpckit.keys import InputFile
from hpckit.program import cases
from hpckit.program.options import parse

PROGRAMS = ("allreduce", "halo", "kmedoids")


class Section(msgspec.Struct):
    file: InputFile = ""


class Config(msgspec.Struct):
    input: InputFile = ""
    other: str = ""
    section: Section = msgspec.field(default_factory=Section)


@pytest.fixture
def folder(tmp_path):
    """Cases of a program: one of them, and a file beside it."""
    text = "# What it shows.\ninput = 'here.npy'\nother = 'here.npy'\nsection.file = 'there.npy'\n"
    (tmp_path / "small.toml").write_text(text)
    (tmp_path / "here.npy").touch()
    return tmp_path


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_bring_their_cases(program):
    found = cases.folder(f"hpckit.apps.{program}")
    assert found.resolve() == Path(__file__).parents[3] / "apps" / program
    assert "quick" in cases.names(found)
    assert cases.listing(found).count("\n") + 1 == len(cases.names(found))


def test_a_name_means_a_case_and_a_path_wins(folder, tmp_path, monkeypatch):
    assert cases.find("small", folder) == folder / "small.toml"
    assert cases.listing(folder) == "small  What it shows."
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "small").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert cases.find("small", folder) == folder / "small.toml"  # a folder is no case file
    (elsewhere / "small").rmdir()
    (elsewhere / "small").touch()
    assert cases.find("small", folder) == Path("small")


def test_what_is_neither_name_nor_path(folder):
    with pytest.raises(ConfigError, match=r"cannot read the case file 'big': .*by name: small"):
        cases.find("big", folder)


def test_inputs_lie_beside_the_case_file(folder, tmp_path):
    _, config = parse(Config, ["small"], folder)
    assert config.input == str(folder / "here.npy")
    assert config.other == "here.npy"  # it is no file to read
    assert config.section.file == "there.npy"  # not there: as seen from where the program started
    _, config = parse(Config, ["small", "--input", "here.npy"], folder)
    assert config.input == "here.npy"


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_list_their_cases(mpirun, tmp_path, program):
    listed = mpirun(None, "-m", f"hpckit.apps.{program}", "--cases", cwd=tmp_path)
    assert listed.returncode == 0
    assert listed.stdout.startswith(cases.names(cases.folder(f"hpckit.apps.{program}"))[0])
