"""The worked example of docs/equations.md: a new equation in one file."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from hpckit.comm.grid import Grid
from hpckit.pde import Setup

TEXT = (Path(__file__).parents[3] / "docs/equations.md").read_text()
NUMERICS = {"dtype": "float64", "threads": 1, "method": "auto"}


@pytest.fixture
def recipe(comm, shared_path, monkeypatch):
    """The module in the page's first block of Python."""
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert code
    if comm.rank == 0:
        (shared_path / "drift.py").write_text(code[1])
    comm.Barrier()
    monkeypatch.syspath_prepend(shared_path)
    importlib.invalidate_caches()
    yield importlib.import_module("drift")
    monkeypatch.delitem(sys.modules, "drift")


@pytest.mark.mpi
def test_it_converges_to_its_solution(comm, recipe):
    def error(n):
        grid = Grid(comm, (n, n), periodic=True)
        equation = recipe.DriftEquation(Setup(grid, NUMERICS), recipe.Options())
        equation.start()
        steps = 2 * n
        assert 0.2 / steps < equation.solver.dt_max
        for _ in range(steps):
            equation.solver.step(0.2 / steps)
        return equation.verdict()["largest error"]

    assert 1.5 < error(24) / error(48) < 2.5
