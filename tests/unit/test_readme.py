"""What the README and the pages show is run, or at least exists."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "apps").glob("*/README.md")])


def _blocks(language, pages=PAGES):
    """(page and number, text) of every fenced block in `language`."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    texts = {page: pattern.findall(page.read_text()) for page in pages}
    return [pytest.param(text, id=f"{page.name}-{i}") for page, found in texts.items() for i, text in enumerate(found)]


def _commands(word):
    """Every line of a shell block that starts with `word` (a folder before it does not matter), without its comment."""
    lines = [line for block in _blocks("sh") for line in block.values[0].splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return sorted({tuple(line[1:]) for line in words if line and Path(line[0]).name == word})


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with the project's cases, where programs may leave their results."""
    for name in ("apps", "jobs", "tests", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize("text", _blocks("python"))
def test_python_blocks_run(text, mpirun, tmp_path):
    (tmp_path / "block.py").write_text(text)
    result = mpirun(2, "block.py", cwd=tmp_path)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("arguments", _commands("mpirun"), ids=" ".join)
def test_mpirun_commands_run(arguments, mpirun, elsewhere):
    flag, n, python, *arguments = arguments
    assert (flag, Path(python).name) == ("-n", "python")
    result = mpirun(int(n), *arguments, cwd=elsewhere)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("arguments", _commands("python"), ids=" ".join)
def test_python_commands_run(arguments, mpirun, elsewhere):
    result = mpirun(None, *arguments, cwd=elsewhere)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("arguments", _commands("make"), ids=" ".join)
def test_make_commands_have_a_target(arguments):
    subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("arguments", _commands("sbatch"), ids=" ".join)
def test_sbatch_commands_name_files_that_exist(arguments):
    assert all((ROOT / name).is_file() for name in arguments if not name.startswith("-"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
