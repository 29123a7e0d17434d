"""Surrogates: one case and many, histories, their file, and a new process that knows only that."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import studies
from studies import Decay, study

from hpckit.errors import ConfigError
from hpckit.surrogate.surrogate import FILE, Surrogate

CASE = {"rate": 1.0, "amplitude": 2.0}


@pytest.fixture
def trained(request, comm):
    """What a study came to; only rank 0 has it."""

    def train(**changes):
        return study(comm, **changes).run().surrogate

    return train


def true(parameters, time):
    """What `Decay` gives at this time."""
    steps = Decay().run(parameters, None)
    return next(fields for at, fields in steps if at >= time - 1e-9)


def test_many_cases_are_what_each_is_alone(comm, trained):
    surrogate = trained()
    if comm.rank == 0:
        rates, times = np.array([0.6, 1.0, 1.9]), np.array([0.0, 0.2, 1.0])
        many = surrogate.predict({"rate": rates, "amplitude": 2.0}, times)
        assert (many["u"].shape, many["v"].shape) == ((3, 4, 3), (3, 5))
        for i in range(3):
            one = surrogate.predict({"rate": rates[i], "amplitude": 2.0}, times[i])
            assert (one["u"].shape, one["v"].shape, one["u"].dtype) == ((4, 3), (5,), np.float32)
            for name, field in one.items():
                np.testing.assert_allclose(many[name][i], field, rtol=1e-5)


def test_predictions_are_in_physical_units(comm, trained):
    """A network that is trained well gives what the solver does."""
    surrogate = trained(steps=600, batch=16)
    if comm.rank == 0:
        for name, field in surrogate.predict(CASE, 0.6).items():
            expected = true(CASE, 0.6)[name]
            assert np.linalg.norm(field - expected) < 0.15 * np.linalg.norm(expected)


@pytest.mark.parametrize("view", ["direct", "initial", "pairs:2", "window:3"])
def test_a_new_process_predicts_the_same_from_the_folder(comm, shared_path, view):
    surrogate = study(comm, view=view, folder=shared_path).run().surrogate
    if comm.rank > 0:
        return
    history = None
    if view != "direct":
        past = [true(CASE, 0.2 * step) for step in range(surrogate.history)]
        history = {name: np.array([each[name] for each in past]) for name in ("u", "v")}
        history = history if surrogate.history > 1 else {k: each[0] for k, each in history.items()}
    expected = surrogate.predict(CASE, 0.4, history)
    lists = history and {name: each.tolist() for name, each in history.items()}
    code = f"""
import json, sys
sys.path.insert(0, {str(studies.__file__.rpartition("/")[0])!r})
from hpckit.surrogate.surrogate import Surrogate
found = Surrogate.load({str(shared_path)!r}).predict({CASE}, 0.4, {lists})
assert "mpi4py.MPI" not in sys.modules
print(json.dumps({{name: field.tolist() for name, field in found.items()}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    for name, field in expected.items():
        assert np.array_equal(np.array(found[name], np.float32), field)


def test_a_rollout_predicts_from_predictions(comm, trained):
    surrogate = trained(view="window:2")
    if comm.rank == 0:
        past = {name: np.array([field, 0.9 * field]) for name, field in true(CASE, 0.0).items()}
        found = surrogate.rollout(CASE, [0.2, 0.4, 0.6], past)
        assert (found["u"].shape, found["v"].shape) == ((3, 4, 3), (3, 5))
        for step, time in enumerate([0.2, 0.4, 0.6]):
            expected = surrogate.predict(CASE, time, past)
            for name, field in expected.items():
                assert np.array_equal(found[name][step], field)
                past[name] = np.stack([past[name][1], field])


def test_many_cases_with_histories(comm, trained):
    surrogate = trained(view="pairs:1")
    if comm.rank == 0:
        past = {name: np.stack([field, 2 * field]) for name, field in true(CASE, 0.0).items()}
        many = surrogate.predict(CASE, 0.2, past)
        for i in range(2):
            one = surrogate.predict(CASE, 0.2, {name: field[i] for name, field in past.items()})
            for name, field in one.items():
                np.testing.assert_allclose(many[name][i], field, rtol=1e-5)


def test_it_warns_of_what_it_was_not_trained_on(comm, trained, caplog):
    surrogate = trained()
    if comm.rank == 0:
        surrogate.predict({"rate": [0.6, 1.0], "amplitude": 2.0}, 0.5)
        assert caplog.text == ""
        surrogate.predict({"rate": [0.6, 9.0], "amplitude": 2.0}, 0.5)
        assert "rate = 9 is not in 0.5 to 2" in caplog.text
        assert "amplitude" not in caplog.text


def test_impossible_questions_are_told(comm, trained):
    direct, window = trained(), trained(view="window:2")
    if comm.rank > 0:
        return
    past = {name: np.stack([field, field]) for name, field in true(CASE, 0.0).items()}
    for surrogate, arguments, why in [
        (direct, ({"rate": 1.0}, 0.5), "rate were given: the surrogate needs rate, amplitude"),
        (direct, (CASE | {"nu": 1.0}, 0.5), "needs rate, amplitude"),
        (direct, (CASE | {"rate": [1.0, 2.0]}, [0.1, 0.2, 0.3]), "not of the same cases"),
        (direct, (CASE | {"rate": [[1.0]]}, 0.5), r"numbers or \(cases,\), not \(1, 1\)"),
        (direct, (CASE, 0.5, past), "takes no history"),
        (window, (CASE, 0.5), "needs known fields of u, v"),
        (window, (CASE, 0.5, {"u": past["u"]}), "needs known fields"),
        (window, (CASE, 0.5, past | {"v": np.ones(5)}), r"shape \(5,\), it must be \(2, 5\)"),
        (
            window,
            (CASE | {"rate": [1.0] * 3}, 0.5, {k: [v] * 2 for k, v in past.items()}),
            "3 cases, the history of 2",
        ),
    ]:
        with pytest.raises(ConfigError, match=why):
            surrogate.predict(*arguments)
    with pytest.raises(ConfigError, match="gives any time at once"):
        direct.rollout(CASE, [0.1], past)


def test_folders_without_a_surrogate_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*: no study has ended there"):
        Surrogate.load(tmp_path)
    for content in (b"", b"PK\x03\x04 no archive"):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ConfigError, match="is no surrogate, or is damaged"):
            Surrogate.load(tmp_path)
