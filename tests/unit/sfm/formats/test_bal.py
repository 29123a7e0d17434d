"""All spellings of a BAL file as `expected.json` says, and real problems."""

import bz2
import gzip
import json

import numpy as np
import pytest
from scenes import SHIPPED, data, whole

from hpckit.errors import ConfigError
from hpckit.sfm.cameras import Cameras
from hpckit.sfm.distribute import gather, scatter
from hpckit.sfm.formats import read, write
from hpckit.sfm.projection import residuals
from hpckit.sfm.summary import summarise

FOLDER = SHIPPED / "bal"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
BAD = {  # and its line, or none
    "bad_binary.txt": "line 1: .* is no number",
    "bad_decimal_comma.txt": "line 35: '1,5' is no number.*comma",
    "bad_empty.txt": "is empty",
    "bad_extra_values.txt": "180 numbers, but the file has 182",
    "bad_fortran_exponent.txt": "line 35: '1.5d0' is no number: exponents",
    "bad_header_counts.txt": "31 observations.* 184 numbers, but the file has 180",
    "bad_header_word.txt": "line 1: 'BAL' is no number",
    "bad_inf_focal.txt": "line 38: inf",
    "bad_nan_observation.txt": "line 6: nan",
    "bad_negative_camera.txt": "line 6: observation 4 is of camera -1",
    "bad_one_value_short.txt": "180 numbers, but the file has 179",
    "bad_point_out_of_range.txt": "line 6: observation 4 is of point 10, but there are 10",
    "bad_truncated.txt": "180 numbers, but the file has",
    "bad_zero_focal.txt": "line 38: camera 0 has the focal length 0",
}


def _cost(comm, reconstruction) -> float:
    return 0.5 * comm.allreduce(float((residuals(reconstruction)[0] ** 2).sum()))


def _plain() -> dict:
    """The plain file, read by a loop over its words."""
    words = iter((FOLDER / "plain.txt").read_text().split())
    n, p, m = (int(next(words)) for _ in range(3))
    seen = [
        (int(next(words)), int(next(words)), float(next(words)), float(next(words)))
        for _ in range(m)
    ]
    values = [float(w) for w in words]
    cameras = np.array(values[: 9 * n]).reshape(n, 9)
    return {"seen": seen, "cameras": cameras, "xyz": np.array(values[9 * n :]).reshape(p, 3)}


@pytest.mark.parametrize("name", EXPECTED["equal_to_plain"])
def test_spellings_of_one_problem(comm, name):
    reconstruction = read(FOLDER / name, comm)
    assert reconstruction.behind == "keep"
    np.testing.assert_allclose(_cost(comm, reconstruction), EXPECTED["cost_of_plain"], rtol=1e-9)
    one = gather(reconstruction)
    if one is None:
        return
    plain = _plain()
    assert (len(one.images), len(one.points)) == (EXPECTED["cameras"], EXPECTED["points"])
    seen = one.observations
    its = zip(seen.image.tolist(), seen.point.tolist(), *seen.xy.T.tolist(), strict=True)
    assert sorted(its) == sorted(plain["seen"]) and (np.diff(seen.point) >= 0).all()
    np.testing.assert_array_equal(one.points.xyz, plain["xyz"])
    np.testing.assert_array_equal(one.images.translation, plain["cameras"][:, 3:6])
    np.testing.assert_array_equal(one.cameras.parameters[:, :3], plain["cameras"][:, 6:])
    assert {one.cameras.model_of(i).name for i in range(3)} == {"BAL"}


def test_each_is_expected():
    assert sorted(BAD) == EXPECTED["refuse_with_one_sentence"]


@pytest.mark.parametrize("name", BAD)
def test_bad_ones(comm, name):
    with pytest.raises(ConfigError, match=f"{name}.*{BAD[name]}") as caught:
        read(FOLDER / name, comm)
    assert "\n" not in str(caught.value)


def test_odd_ones(comm, caplog):
    unseen = summarise(read(FOLDER / "odd_camera_and_point_without_observation.txt", comm))
    assert (unseen.images, unseen.points, unseen.observations) == (4, 11, 30)
    assert unseen.unobserved_images.tolist() == [3] and unseen.unobserved_points == 1
    one_view = summarise(read(FOLDER / "odd_one_view_point.txt", comm))
    assert one_view.one_view_points == 1 and one_view.observations == 28
    as_float = read(FOLDER / "odd_index_written_as_float.txt", comm)
    np.testing.assert_allclose(_cost(comm, as_float), EXPECTED["cost_of_plain"], rtol=1e-9)
    nothing = summarise(read(FOLDER / "odd_header_zero.txt", comm))
    assert (nothing.images, nothing.points, nothing.observations) == (0, 0, 0)
    assert not caplog.records
    twice = summarise(read(FOLDER / "odd_duplicate_observation.txt", comm))
    assert twice.observations == 31
    assert [r.message for r in caplog.records if "repeat another" in r.message] == [
        f"{FOLDER}/odd_duplicate_observation.txt: observations that repeat another exactly, and "
        "count: 1"
    ] * (comm.rank == 0)


def test_damaged_packing(comm, shared_path):
    good = (FOLDER / "plain.txt").read_bytes()
    packed = {"a.txt.gz": gzip.compress(good)[:-40], "b.txt.bz2": bz2.compress(good)[:-40]}
    for name, content in packed.items():
        if comm.rank == 0:
            (shared_path / name).write_bytes(content)
        comm.barrier()
        with pytest.raises(ConfigError, match=f"cannot unpack .*{name}, it is damaged"):
            read(shared_path / name, comm)


@pytest.mark.parametrize("end", [".txt", ".txt.gz", ".txt.bz2"])
def test_written_and_read_back(comm, shared_path, end):
    before = read(FOLDER / "plain.txt", comm)
    write(before, shared_path / f"out{end}")
    after = read(shared_path / f"out{end}", comm)
    for part, names in (("points", ["xyz"]), ("observations", ["start", "image", "xy"])):
        for name in names:
            a, b = (getattr(getattr(each, part), name) for each in (before, after))
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(before.cameras.parameters, after.cameras.parameters)
    np.testing.assert_array_equal(before.images.translation, after.images.translation)
    np.testing.assert_allclose(before.images.quaternion, after.images.quaternion, atol=4e-16)
    magic = {".txt": b"3 10 30", ".txt.gz": b"\x1f\x8b", ".txt.bz2": b"BZh"}[end]
    assert (shared_path / f"out{end}").read_bytes().startswith(magic)
    assert sorted(p.name for p in shared_path.iterdir()) == [f"out{end}"]


def test_what_bal_cannot_hold(comm, shared_path):
    one = whole()
    with pytest.raises(ConfigError, match="camera 2 is PINHOLE, which BAL and Bundler"):
        write(scatter(one if comm.rank == 0 else None, comm), shared_path / "out.txt")
    assert not list(shared_path.iterdir())


def test_of_other_cameras(comm, shared_path):
    """The projections of a COLMAP model and of its BAL file differ by the principal point and y."""
    one = whole()
    one.cameras = Cameras.of(
        ("RADIAL", 640, 480, [500.0, 320, 240, -0.1, 0.01]),
        ("PINHOLE", 640, 480, [400.0, 400, 310, 230]),
    )
    model = scatter(one if comm.rank == 0 else None, comm)
    model.behind = "keep"
    write(model, shared_path / "out.txt")
    bal = read(shared_path / "out.txt", comm)
    expected, depth = residuals(model)
    found, depth_too = residuals(bal)
    np.testing.assert_allclose(found * [1, -1], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(depth_too, depth, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "counts", "cost"),
    [
        ("bal/ladybug-problem-49-7776-pre.txt", (49, 7776, 31843), 8.509125e5),
        ("bal/trafalgar-problem-21-11315-pre.txt", (21, 11315, 36455), 4.413239e6),
        ("cases/real/dubrovnik-3-7-pre.txt", (3, 7, 19), 2764.219984),
        ("cases/real/dubrovnik-1-1-pre.txt", (1, 1, 1), 63.316421),
    ],
)
def test_real_ones(comm, name, counts, cost):
    reconstruction = read(data(name), comm)
    summary = summarise(reconstruction)
    assert (summary.images, summary.points, summary.observations) == counts
    np.testing.assert_allclose(_cost(comm, reconstruction), cost, rtol=2e-7)


def test_behind_of_ladybug(comm):
    """COLMAP's rule makes its cost 8.508021e5."""
    reconstruction = read(data("bal/ladybug-problem-49-7776-pre.txt"), comm, behind="zero")
    np.testing.assert_allclose(_cost(comm, reconstruction), 8.508021e5, rtol=1e-6)
