"""Bundler and libmv, clouds of points, and how formats are recognised."""

import json
import struct

import numpy as np
import pytest
from scenes import SHIPPED, data, whole

from hpckit.errors import ConfigError, HpckitError
from hpckit.sfm.distribute import scatter
from hpckit.sfm.formats import read, write
from hpckit.sfm.projection import residuals
from hpckit.sfm.summary import summarise

BUNDLER = """# Bundle file v0.3
3 2
500 -0.1 0.01
1 0 0
0 1 0
0 0 1
0.5 0 -1
0 0 0
0 0 0
0 0 0
0 0 0
0 0 0
400 0 0
0 -1 0
1 0 0
0 0 1
0 0.25 -2
1 2 -3
10 20 30
2 0 7 -100.5 3 2 9 4 5
-1 0 -2
1 2 3
1 2 4 6.5 -7.5
"""


def _cost(comm, reconstruction) -> float:
    return 0.5 * comm.allreduce(float((residuals(reconstruction)[0] ** 2).sum()))


def _file(comm, path, content):
    """Written by rank 0, there for all."""
    comm.barrier()
    if comm.rank == 0:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    comm.barrier()
    return path


def test_bundler(comm, shared_path):
    """Camera 1, which was not placed, is left out; what camera 0 sees is computed by hand."""
    reconstruction = read(_file(comm, shared_path / "bundle.out", BUNDLER), comm)
    assert reconstruction.images.ids.tolist() == [0, 2] and reconstruction.behind == "keep"
    np.testing.assert_allclose(reconstruction.images.quaternion[1], [0.5**0.5, 0, 0, 0.5**0.5])
    np.testing.assert_array_equal(reconstruction.images.translation[1], [0, 0.25, -2])
    if comm.size == 1:
        assert reconstruction.points.rgb.tolist() == [[10, 20, 30], [1, 2, 3]]
        assert reconstruction.observations.keypoint.tolist() == [7, 9, 4]
        x, y = 1.5 / 4, 2 / 4  # of (1, 2, -3) + (0.5, 0, -1), divided by 4
        s = x * x + y * y
        scale = 500 * (1 - 0.1 * s + 0.01 * s * s)
        expected = [scale * x + 100.5, scale * y - 3]
        np.testing.assert_allclose(residuals(reconstruction)[0][0], expected)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("v0.3", "v0.2", "line 1: .*should be '# Bundle file v0.3'"),
        ("\n3 2\n", "\n3.5 2\n", "line 2 should be"),
        ("\n3 2\n", "\n3 3\n", "ends within point 2 of 3"),
        ("\n3 2\n", "\n3 1\n", "11 numbers after its 1 points"),
        ("-0.1 0.01", "-0,1 0.01", "line 3: '-0,1' is no number"),
        ("500 -0.1", "nan -0.1", "camera 0 has a number that is not finite"),
        ("0 -1 0\n1 0 0", "0 -1 0\n-1 0 0", "camera 2 has a matrix that is no rotation"),
        ("10 20 30", "10 20 300", "point 0 has a colour out of 0 to 255"),
        ("1 2 4 6.5", "1 3 4 6.5", "point 1 has the view 3 4 6.5 -7.5"),
        ("1 2 4 6.5", "1 1 4 6.5", "point 1 is seen by camera 1, whose focal length is 0"),
        ("1 2 4 6.5", "1.5 2 4 6.5", "point 1 has 1.5 views|ends within"),
        (" 6.5 -7.5", " 6.5", "ends within point 1"),
    ],
)
def test_bad_bundler(comm, shared_path, old, new, said):
    path = _file(comm, shared_path / "bad.out", BUNDLER.replace(old, new))
    with pytest.raises(ConfigError, match=f"bad.out.*({said})"):
        read(path, comm)


def test_bundler_is_written_and_read_back(comm, shared_path):
    before = read(SHIPPED / "bal/plain.txt", comm)
    write(before, shared_path / "bundle.out")
    after = read(shared_path / "bundle.out", comm)
    np.testing.assert_array_equal(after.observations.xy, before.observations.xy)
    np.testing.assert_array_equal(after.points.xyz, before.points.xyz)
    np.testing.assert_allclose(after.images.quaternion, before.images.quaternion, atol=1e-15)
    np.testing.assert_array_equal(after.cameras.parameters, before.cameras.parameters)


def test_balbianello(comm):
    reconstruction = read(data("cases/real/Balbianello.out"), comm)
    s = summarise(reconstruction)
    assert (s.images, s.points, s.observations) == (5, 544, 1417)
    assert (np.flatnonzero(s.track_lengths)[0], len(s.track_lengths) - 1) == (2, 5)
    np.testing.assert_allclose(_cost(comm, reconstruction), 126.928323, rtol=1e-8)


@pytest.mark.parametrize("name", ["problem_01", "problem_03"])
def test_libmv(comm, name):
    expected = json.loads((data("cases/libmv") / name / "expected.json").read_text())
    reconstruction = read(data(f"cases/libmv/{name}.bin"), comm)
    s = summarise(reconstruction)
    for key in ("cameras", "images", "points", "observations"):
        assert getattr(s, key) == expected[key]
    np.testing.assert_allclose(_cost(comm, reconstruction), expected["start_cost"], rtol=1e-8)
    text = read(data(f"cases/libmv/{name}"), comm)
    np.testing.assert_array_equal(reconstruction.points.xyz, text.points.xyz)


def _libmv(order: str, mark: bytes, frame: int = 4, k3: float = 0.0) -> bytes:
    """One frame, turned by a quarter about z and moved, sees one track."""
    columns = [0, 1, 0, -1, 0, 0, 0, 0, 1]
    first = b"v" if order == "<" else b"V"
    intrinsics = struct.pack(order + "8f", 100, 10, 20, 0.5, 0.25, k3, 0, 0)
    frames = struct.pack(order + "ii12f", 1, 4, *columns, 0, 0, 3)
    tracks = struct.pack(order + "ii3f", 1, 9, 1, 2, 1)
    return (
        first
        + mark
        + intrinsics
        + frames
        + tracks
        + struct.pack(order + "iiiff", 1, frame, 9, 5, 6)
    )


@pytest.mark.parametrize("order", "<>")
def test_libmv_by_hand(comm, shared_path, order):
    reconstruction = read(_file(comm, shared_path / "a.bin", _libmv(order, b"P")), comm)
    assert reconstruction.cameras.model_of(0).name == "RADIAL"
    x, y = -2 / 4, 1 / 4  # R (1, 2, 1) + (0, 0, 3) = (-2, 1, 4)
    s = x * x + y * y
    scale = 100 * (1 + 0.5 * s + 0.25 * s * s)
    expected = [[scale * x + 10 - 5, scale * y + 20 - 6]]
    found = [r for each in comm.allgather(residuals(reconstruction)[0].tolist()) for r in each]
    np.testing.assert_allclose(found, expected)
    more = read(_file(comm, shared_path / "b.bin", _libmv(order, b"P", k3=0.5)), comm)
    assert more.cameras.model_of(0).name == "FULL_OPENCV"


def test_bad_libmv(comm, shared_path):
    good = _libmv("<", b"P")
    for content, said in (
        (good[:60], "is not whole"),
        (good + b"\0", "1 bytes after its observations"),
        (_libmv("<", b"N"), "not in pixels"),
        (_libmv("<", b"P", frame=5), "observation 0 is of frame 5, which is not there"),
    ):
        with pytest.raises(ConfigError, match=said):
            read(_file(comm, shared_path / "bad.bin", content), comm)


@pytest.mark.parametrize("centres", [False, True])
def test_ply(comm, shared_path, centres):
    one = whole()
    write(scatter(one if comm.rank == 0 else None, comm), shared_path / "a.ply", centres=centres)
    header, _, body = (shared_path / "a.ply").read_bytes().partition(b"end_header\n")
    n = 23 + 5 * centres
    assert f"element vertex {n}\n".encode() in header and len(body) == 27 * n
    rows = [struct.unpack_from("<3d3B", body, 27 * i) for i in range(n)]
    np.testing.assert_array_equal([r[:3] for r in rows[:23]], one.points.xyz)
    np.testing.assert_array_equal([r[3:] for r in rows[:23]], one.points.rgb)
    for i, row in enumerate(rows[23:]):  # the centre is where x_camera = 0
        w, v = one.images.quaternion[i, 0], one.images.quaternion[i, 1:]
        c = np.array(row[:3])
        turned = c + 2 * np.cross(v, np.cross(v, c) + w * c)
        np.testing.assert_allclose(turned, -one.images.translation[i], atol=1e-14)
        assert row[3:] == (255, 0, 0)


def test_vtkhdf(comm, shared_path):
    one = whole()
    model = scatter(one if comm.rank == 0 else None, comm)
    write(model, shared_path / "a.vtkhdf", centres=True)
    if comm.rank > 0:
        return
    import h5py

    with h5py.File(shared_path / "a.vtkhdf") as f:
        group = f["VTKHDF"]
        assert group.attrs["Type"] == b"PolyData" and group.attrs["Version"].tolist() == [2, 0]
        np.testing.assert_array_equal(group["Points"][:23], one.points.xyz)
        assert group["Vertices/Offsets"][:].tolist() == list(range(29))
        assert group["Lines/Offsets"][:].tolist() == [0]
        known = {name: values[:] for name, values in group["PointData"].items()}
        np.testing.assert_array_equal(known["track_length"][:23], np.diff(one.observations.start))
        assert known["is_centre"].tolist() == [0] * 23 + [1] * 5
        np.testing.assert_array_equal(known["id"], [*one.points.ids, *one.images.ids])


def test_vtk_reads_it(comm, shared_path):
    pytest.importorskip("vtkmodules.vtkIOHDF", reason="needs the vtk package (pip install vtk)")
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOHDF import vtkHDFReader

    one = whole()
    write(scatter(one if comm.rank == 0 else None, comm), shared_path / "a.vtkhdf")
    reader = vtkHDFReader()
    reader.SetFileName(str(shared_path / "a.vtkhdf"))
    reader.Update()
    points = reader.GetOutput().GetPoints().GetData()
    np.testing.assert_array_equal(vtk_to_numpy(points), one.points.xyz)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.db", b"SQLite format 3\0...", "is a COLMAP database"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        ("a.ply", b"ply\nformat", "is a point cloud"),
        ("cameras.txt", b"1 RADIAL", "is one file of a COLMAP model: give its folder"),
        ("a.jpg", b"\xff\xd8\xff\xe0", r"line 1: '.*' is no number"),
        ("a.obj", b"v 1 2 3", "line 1: 'v' is no number"),
        ("a.txt", b" \n\t\n", "is empty"),
    ],
)
def test_files_that_are_no_models(comm, shared_path, name, content, said):
    with pytest.raises(ConfigError, match=f"{name} ?.*{said}"):
        read(_file(comm, shared_path / name, content), comm)


def test_folders(comm, shared_path):
    write(read(SHIPPED / "colmap/plain", comm), shared_path / "sparse/0")
    with pytest.raises(ConfigError, match=r"no COLMAP model .*: did you mean .*sparse/0\?"):
        read(shared_path / "sparse", comm)
    with pytest.raises(ConfigError, match="no COLMAP model"):
        read(shared_path, comm)
    with pytest.raises(ConfigError, match=r"there is no .*/nothing"):
        read(shared_path / "nothing", comm)


def test_names_decide_what_is_written(comm, shared_path):
    model = read(SHIPPED / "bal/plain.txt", comm)
    for name in ("a", "B.TXT", "c.txt.gz", "d.Out", "new/e.ply", "f.vtkhdf"):
        write(model, shared_path / name)
    names = sorted(p.name for p in shared_path.iterdir())
    assert names == ["B.TXT", "a", "c.txt.gz", "d.Out", "f.vtkhdf", "new"]
    assert read(shared_path / "d.Out", comm).behind == "keep"
    assert read(shared_path / "a", comm).behind == "zero"
    with pytest.raises(ConfigError, match=r"what to write to .*a\.jpg is not clear"):
        write(model, shared_path / "a.jpg")
    with pytest.raises(ConfigError, match="format 'obj' is not known: there are bal, bundler"):
        write(model, shared_path / "a.obj", "obj")
    with pytest.raises(ConfigError, match="a is a folder, but bal is a file"):
        write(model, shared_path / "a", "bal")
    write(model, shared_path / "g.model", "colmap-text")
    assert (shared_path / "g.model/images.txt").exists()


def test_where_nothing_can_be_written(comm, shared_path):
    model = read(SHIPPED / "bal/plain.txt", comm)
    _file(comm, shared_path / "file", "a file")
    for path in (shared_path / "file/out.txt", "/proc/out.txt"):
        with pytest.raises(HpckitError, match=f"cannot write {path}"):
            write(model, path)


def test_arguments_must_agree(comm, shared_path):
    if comm.size > 1:
        with pytest.raises(ConfigError, match="the arguments of read must be the same"):
            read(f"a{comm.rank}", comm)
    with pytest.raises(ConfigError, match="behind is 'off'"):
        read(SHIPPED / "bal/plain.txt", comm, behind="off")


def test_many_ranks_of_few_points(comm):
    """One point: the other ranks have none, and all know the cameras."""
    name = data("cases/real/dubrovnik-1-1-pre.txt")
    reconstruction = read(name, comm)
    assert comm.allreduce(len(reconstruction.points)) == 1 and len(reconstruction.images) == 1
