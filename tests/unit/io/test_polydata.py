"""Point clouds as VTKHDF files: what VTK's description of PolyData asks for."""

import h5py
import numpy as np

from hpckit.files import replacing
from hpckit.io.polydata import write_points


def test_layout(tmp_path):
    xyz = np.arange(12.0).reshape(4, 3)
    for name in ("a", "b"):
        with replacing(tmp_path / f"{name}.vtkhdf") as draft:
            write_points(draft, xyz, {"weight": np.arange(4)})
    with h5py.File(tmp_path / "a.vtkhdf") as f:
        group = f["VTKHDF"]
        assert group["NumberOfPoints"][:].tolist() == [4]
        np.testing.assert_array_equal(group["Points"], xyz)
        np.testing.assert_array_equal(group["PointData/weight"], np.arange(4))
        for cells in ("Vertices", "Lines", "Polygons", "Strips"):
            count = 4 if cells == "Vertices" else 0
            its = group[cells]
            assert its["NumberOfCells"][:].tolist() == [count]
            assert its["NumberOfConnectivityIds"][:].tolist() == [count]
            assert its["Connectivity"][:].tolist() == list(range(count))
            assert its["Offsets"][:].tolist() == list(range(count + 1))
    same = ((tmp_path / name).read_bytes() for name in ("a.vtkhdf", "b.vtkhdf"))
    assert len(set(same)) == 1


def test_no_points(tmp_path):
    write_points(tmp_path / "a.vtkhdf", np.zeros((0, 3)), {})
    with h5py.File(tmp_path / "a.vtkhdf") as f:
        assert f["VTKHDF/Points"].shape == (0, 3) and f["VTKHDF/Vertices/Offsets"].shape == (1,)
