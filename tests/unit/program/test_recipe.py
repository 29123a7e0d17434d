"""The recipe for a program in docs/development.md is a program."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "development.md"


def test_the_recipe_runs_stops_and_goes_on(mpirun, tmp_path):
    config, main = re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "pi").mkdir()
    (tmp_path / "pi" / "config.py").write_text(config)
    (tmp_path / "pi" / "__main__.py").write_text(main)

    def run(*words):
        return mpirun(2, "-m", "pi", *words, cwd=tmp_path)

    whole = run("--steps", "300")
    assert whole.returncode == 0, whole.stdout
    assert "300 of 300 steps" in whole.stdout
    assert 3.1 < float(re.search(r"^pi +(\S+)", whole.stdout, re.MULTILINE)[1]) < 3.2
    wrong = run("--steps", "0")
    assert wrong.returncode == 2 and "--steps 0" in wrong.stdout, wrong.stdout
