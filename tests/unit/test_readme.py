"""What the README and the pages show is run, or at least exists."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "apps").glob("*/README.md")]
)


def _name(page):
    return str(page.relative_to(ROOT))


def _blocks(page, language):
    """The text of a page's fenced blocks in `language`: one script, as read from top to bottom."""
    return "".join(
        re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    )


def _commands(word):
    """Every line of a shell block that starts with `word`, in any folder, without its comment."""
    lines = [line for page in PAGES for line in _blocks(page, "sh").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return sorted({tuple(line[1:]) for line in words if line and Path(line[0]).name == word})


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with the project's cases, where programs may leave their results."""
    for name in ("apps", "jobs", "tests", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page, "python")], ids=_name)
def test_python_blocks_run(page, mpirun, tmp_path):
    (tmp_path / "blocks.py").write_text(_blocks(page, "python"))
    result = mpirun(2, "blocks.py", cwd=tmp_path)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("arguments", _commands("mpirun"), ids=" ".join)
def test_mpirun_commands_run(arguments, mpirun, elsewhere):
    flag, n, python, *arguments = arguments
    assert (flag, Path(python).name) == ("-n", "python")
    result = mpirun(int(n), *arguments, cwd=elsewhere)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("arguments", _commands("python"), ids=" ".join)
def test_python_commands_run(arguments, mpirun, elsewhere):
    if arguments[1].startswith("benchmarks."):  # they take minutes
        assert (ROOT / arguments[1].replace(".", "/")).with_suffix(".py").exists()
        return
    result = mpirun(None, *arguments, cwd=elsewhere)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("arguments", _commands("make"), ids=" ".join)
def test_make_commands_have_a_target(arguments):
    subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True, timeout=500
    )


@pytest.mark.parametrize("arguments", _commands("sbatch"), ids=" ".join)
def test_sbatch_commands_name_jobs_and_cases_that_exist(arguments):
    job, case = [word for word in arguments if not word.startswith("-")][:2]
    assert (ROOT / job).is_file()
    assert (ROOT / "apps" / Path(job).stem / f"{case}.toml").is_file()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
