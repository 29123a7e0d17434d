"""The program of docs/surrogate-loops.md runs, and its network learns."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "surrogate-loops.md"


def test_the_program_of_the_page_learns(mpirun, tmp_path):
    (code,) = re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "decay.py").write_text(code)
    done = mpirun(3, "decay.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    losses = [float(each) for each in re.findall(r"steps, loss (\S+)\n", done.stdout)]
    assert losses[-1] < 0.1 * losses[0]
    assert len(done.stdout.splitlines()) == len(losses)
