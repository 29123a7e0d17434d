import importlib

import pytest

import hpckit


@pytest.mark.parametrize("name", sorted(hpckit._MAP))
def test_every_name_is_where_the_map_says(name):
    found = getattr(hpckit, name)
    assert found is getattr(importlib.import_module(hpckit._MAP[name]), name)
    assert name in dir(hpckit)


def test_help_without_scikit_learn(mpirun):
    """Names that need it say so when imported, and do not keep others from being read about."""
    without = "import sys; sys.modules['sklearn'] = None; "
    shown = mpirun(None, "-c", without + "import hpckit, pydoc; print(pydoc.render_doc(hpckit))")
    assert shown.returncode == 0 and "This is the map of the package" in shown.stdout, shown.stdout
    names = mpirun(None, "-c", without + "import hpckit; print(*dir(hpckit))").stdout.split()
    assert set(hpckit._MAP) - set(names) == {"KMedoids", "DynMSC"}
    asked = mpirun(None, "-c", without + "from hpckit import KMedoids")
    assert "needs scikit-learn" in asked.stdout and "pip install 'hpckit[sklearn]'" in asked.stdout


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'Gird'; it has .*Grid"):
        hpckit.Gird  # noqa: B018
