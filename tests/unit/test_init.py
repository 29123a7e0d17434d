import importlib

import pytest

import hpckit


@pytest.mark.parametrize("name", sorted(hpckit._MAP))
def test_every_name_is_where_the_map_says(name):
    found = getattr(hpckit, name)
    assert found is getattr(importlib.import_module(hpckit._MAP[name]), name)
    assert name in dir(hpckit)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'Gird'; it has .*Grid"):
        hpckit.Gird  # noqa: B018
