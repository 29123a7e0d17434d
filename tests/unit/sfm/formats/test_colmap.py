"""All spellings of a COLMAP model as `expected.json` says; real models; what is written."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from scenes import SHIPPED, data, whole

from hpckit.errors import ConfigError, HpckitError
from hpckit.sfm.distribute import scatter
from hpckit.sfm.formats import read, write
from hpckit.sfm.projection import residuals
from hpckit.sfm.summary import summarise

FOLDER = SHIPPED / "colmap"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
SAME = [text.split(" ")[0] for text in EXPECTED["equal_to_plain"]]
BAD = {
    "bad_camera_id_unknown": "images.txt, line 6: image 3 has camera 8",
    "bad_comma_separated": "images.txt, line 2: '0.5683.*,' is no number: .*blanks",
    "bad_duplicate_image_id": "images.txt, line 4: image 1 was there before.* line 2",
    "bad_duplicate_name": "images.txt, line 4: the name 'im000.jpg' is that of image 1",
    "bad_duplicate_point_id": "points3D.txt, line 3: point 1 was there before.* line 2",
    "bad_missing_points_file": "there is no .*points3D.txt",
    "bad_nan_quaternion": "images.txt, line 4: image 2 has the pose nan 0 0 0 ",
    "bad_odd_number_of_point_fields": "images.txt, line 3: keypoints are triplets.* 37 numbers",
    "bad_param_count": "cameras.txt, line 2: SIMPLE_RADIAL has 4 parameters .*, not 5",
    "bad_point_id_not_in_points3D": "images.txt, line 2: keypoint 0 shows point 99",
    "bad_track_index_disagrees_with_images": 'points3D.txt, line 4: .*trust="images"',
    "bad_unknown_camera_model": "cameras.txt, line 2: camera model 'KANNALA_BRANDT'.*RADIAL",
    "bad_zero_quaternion": "images.txt, line 4: image 2 has the pose 0 0 0 0 ",
}


def _numbers(comm, reconstruction) -> tuple[float, float]:
    """Cost, and mean error in pixels of what is in front."""
    difference, depth = residuals(reconstruction)
    norms = np.linalg.norm(difference, axis=1)
    total = np.array([(norms**2).sum() / 2, norms[depth > 0].sum(), (depth > 0).sum()])
    cost, errors, count = comm.allreduce(total)
    return cost, errors / max(count, 1)


def _equal(a, b) -> None:
    """But for ids, names and unobserved keypoints, bit for bit."""
    np.testing.assert_array_equal(a.points.xyz, b.points.xyz)
    np.testing.assert_array_equal(a.observations.start, b.observations.start)
    np.testing.assert_array_equal(a.observations.image, b.observations.image)
    np.testing.assert_array_equal(a.observations.xy, b.observations.xy)
    np.testing.assert_array_equal(a.images.translation, b.images.translation)
    np.testing.assert_array_equal(a.cameras.parameters, b.cameras.parameters)
    sign = np.sign((a.images.quaternion * b.images.quaternion).sum(1))[:, None]
    np.testing.assert_allclose(a.images.quaternion, sign * b.images.quaternion, atol=3e-16)


@pytest.mark.parametrize("name", ["plain", *SAME])
def test_spellings_of_one_model(comm, name):
    reconstruction = read(FOLDER / name, comm)
    summary = summarise(reconstruction)
    plain = EXPECTED["plain"]
    assert summary.observations == plain["observations"] and summary.images == plain["images"]
    assert _numbers(comm, reconstruction)[0] < 1e-20 and reconstruction.behind == "zero"
    _equal(reconstruction, read(FOLDER / "plain", comm))


def test_names_and_ids():
    def images(name):
        return read(FOLDER / name).images

    assert images("names_with_spaces").names[1:3] == ["my photo (402).jpg", "sub dir/ümlaut 2.JPG"]
    assert images("windows_1252_name").names[1].encode("utf-8", "surrogateescape") == (
        b"stra\xdfe.jpg"
    )
    unsorted = read(FOLDER / "ids_unsorted_large_zero")
    assert unsorted.images.ids.tolist() == [4000000, 0, 17, 3]
    assert unsorted.points.ids[0] == 10**12 + 77 and unsorted.cameras.ids.tolist() == [0]


def test_each_is_expected():
    assert set(BAD) == set(EXPECTED["refuse_with_one_sentence_naming_file_and_line"])


@pytest.mark.parametrize("name", BAD)
def test_bad_ones(comm, name):
    with pytest.raises(ConfigError, match=BAD[name]) as caught:
        read(FOLDER / name, comm)
    assert "\n" not in str(caught.value) and name in str(caught.value)


LINES = [  # of the plain model: file, what it says, what it says now, and what is said of it
    ("cameras.txt", "1 SIMPLE", "--1 SIMPLE", "line 2: '--1' is no whole number"),
    ("cameras.txt", "2000", "9" * 25, "line 2: '9{24}'... is no whole number"),
    ("cameras.txt", "1 SIMPLE_RADIAL 2000 1500", "1 SIMPLE_RADIAL", "line 2: "),
    ("cameras.txt", " 900.0", " -900.0", "line 2: camera 1 has f = -900, .* positive"),
    ("cameras.txt", "-0.05", "inf", "line 2: camera 1 has k = inf, .* finite"),
    ("cameras.txt", "-0.05", "-0.05\n1 PINHOLE 9 9 1 1 1 1", "line 3: camera 1 was there before"),
    ("images.txt", " 1 im000.jpg", "", "line 2: .* should be an image"),
    ("images.txt", "im002.jpg\n", "im002.jpg\nnan 5 -1 ", "line 6: image 3 has a keypoint not"),
    ("images.txt", "im002.jpg\n", "im002.jpg\n5 5 1.5 ", "line 7: 1.5 is no id of a point"),
    ("points3D.txt", "128 128 128 0 1 0 ", "128 128 300 0 1 0 ", "line 2: colours"),
    ("points3D.txt", "128 128 128 0 1 0 ", "128 128 128 0 7 0 ", "line 2: image 7 of the track"),
    ("points3D.txt", "128 128 128 0 1 0 ", "128 128 128 0 1 12 ", "line 2: .* image has 12"),
    ("points3D.txt", "128 128 128 0 1 0 ", "128 128 128 0 1 -3 ", "line 2: 1 -3 is no image"),
    ("points3D.txt", "128 128 128 0 1 0 ", "128 128 128 0 0 ", "line 2: .* 15 numbers"),
    ("points3D.txt", "128 128 128 0 1 0 ", "128 128 128 0 1 0 1 0 ", "line 2: .* tracks 2 times"),
    ("points3D.txt", "128 128 128 0 1 0 ", "128 128 128 0 ", "images.txt, line 2: .* does not"),
    ("points3D.txt", "2 -1.949", "2 -inf", "line 3: point 2 is not at a finite place|no number"),
    ("points3D.txt", "2 -1.949", "-2 -1.949", "line 3: -2 is no id"),
]


@pytest.mark.parametrize(("file", "old", "new", "said"), LINES)
def test_bad_lines(comm, shared_path, file, old, new, said):
    if comm.rank == 0:
        shutil.copytree(FOLDER / "plain", shared_path / "model")
        text = (shared_path / "model" / file).read_text()
        assert old in text
        (shared_path / "model" / file).write_text(text.replace(old, new, 1))
    comm.barrier()
    with pytest.raises(ConfigError, match=said) as caught:
        read(shared_path / "model", comm)
    assert file in str(caught.value) or "images.txt" in said


@pytest.mark.parametrize("name", EXPECTED["extra_image"])
def test_an_image_without_points(comm, name):
    summary = summarise(read(FOLDER / name, comm))
    assert summary.images == 5 and summary.unobserved_images.tolist() == [9]


def test_odd_ones(comm):
    empty_track = summarise(read(FOLDER / "odd_empty_track", comm))
    assert (empty_track.points, empty_track.unobserved_points) == (12, 1)
    assert empty_track.observations == 44
    no_points = summarise(read(FOLDER / "odd_no_points", comm))
    assert (no_points.images, no_points.points, no_points.observations) == (4, 0, 0)


def test_trust_images(comm):
    trusted = read(FOLDER / "bad_track_index_disagrees_with_images", comm, trust="images")
    _equal(trusted, read(FOLDER / "plain", comm))
    with pytest.raises(ConfigError, match="trust is 'me'"):
        read(FOLDER / "plain", comm, trust="me")


def test_unmatched_keypoints_are_kept(comm, shared_path):
    reconstruction = read(FOLDER / "unmatched_minus_one", comm)
    for format in ("colmap", "colmap-text"):
        write(reconstruction, shared_path / format, format)
        back = read(shared_path / format, comm)
        if comm.rank == 0:
            assert len(back.keypoints[0]) == 14 and back.keypoints[0][0].tolist() == [5.5, 6.5]
            np.testing.assert_array_equal(back.keypoints[0], reconstruction.keypoints[0])
        np.testing.assert_array_equal(
            back.observations.keypoint, reconstruction.observations.keypoint
        )


@pytest.mark.parametrize("format", ["colmap", "colmap-text"])
@pytest.mark.parametrize("name", ["names_with_spaces", "windows_1252_name", "odd_empty_track"])
def test_written_and_read_back(comm, shared_path, format, name):
    before = read(FOLDER / name, comm)
    write(before, shared_path / "out", format)
    after = read(shared_path / "out", comm)
    _equal(before, after)
    assert after.images.names == before.images.names
    np.testing.assert_array_equal(after.points.ids, before.points.ids)
    np.testing.assert_array_equal(after.points.rgb, before.points.rgb)
    end = ".bin" if format == "colmap" else ".txt"
    names = sorted(p.name for p in (shared_path / "out").iterdir())
    assert names == [f"cameras{end}", f"images{end}", f"points3D{end}"]


def test_binary_by_struct(comm, shared_path):
    """The bytes of points3D.bin and images.bin, taken apart one by one."""
    one = whole()
    write(scatter(one if comm.rank == 0 else None, comm), shared_path / "out")
    if comm.rank > 0:
        return
    data = (shared_path / "out/images.bin").read_bytes()
    (count,), at, shown = struct.unpack_from("<Q", data), 8, {}
    assert count == len(one.images)
    for i in range(count):
        number, *pose, camera = struct.unpack_from("<I7dI", data, at)
        assert number == one.images.ids[i] and camera == one.cameras.ids[one.images.camera[i]]
        np.testing.assert_array_equal(pose[:4], one.images.quaternion[i])
        end = data.index(b"\0", at + 64)
        assert data[at + 64 : end] == one.images.names[i].encode("utf-8", "surrogateescape")
        (k,) = struct.unpack_from("<Q", data, end + 1)
        at = end + 9
        for j in range(k):
            x, y, point = struct.unpack_from("<ddq", data, at)
            shown[number, j] = (x, y, point)
            at += 24
    assert at == len(data)
    data = (shared_path / "out/points3D.bin").read_bytes()
    (count,), at, seen = struct.unpack_from("<Q", data), 8, one.observations
    assert count == len(one.points)
    for i in range(count):
        number, x, y, z, r, g, b, error, k = struct.unpack_from("<Q3d3BdQ", data, at)
        assert (number, x, y, z) == (one.points.ids[i], *one.points.xyz[i])
        assert (r, g, b) == tuple(one.points.rgb[i])
        track = struct.unpack_from(f"<{2 * k}I", data, at + 51)
        at += 51 + 8 * k
        assert k == seen.start[i + 1] - seen.start[i] and (error == -1) == (k == 0)
        for j in range(k):
            o = seen.start[i] + j
            assert track[2 * j] == one.images.ids[seen.image[o]]
            assert shown[track[2 * j : 2 * j + 2]] == (*seen.xy[o], number)
    assert at == len(data)
    assert len(shown) == len(seen)  # each keypoint shows one point


def test_the_error_column(comm, shared_path):
    """Of Lund's model, COLMAP wrote the mean errors of points itself."""
    source = data("lund/sparse-global")
    write(read(source, comm), shared_path / "out")

    def errors(folder: Path) -> dict:
        found, at, content = {}, 8, (folder / "points3D.bin").read_bytes()
        while at < len(content):
            number, *_, error, k = struct.unpack_from("<Q3d3BdQ", content, at)
            found[number] = error
            at += 51 + 8 * k
        return found

    expected, found = errors(source), errors(shared_path / "out")
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[k] for k in expected], list(expected.values()), rtol=1e-9)


@pytest.mark.parametrize("file", ["cameras", "images", "points3D"])
def test_truncated_binary(comm, shared_path, file):
    write(read(FOLDER / "plain", comm), shared_path / "out")
    path = shared_path / f"out/{file}.bin"
    content = path.read_bytes()
    cuts = [0, 5, 8, 9, len(content) // 3, len(content) - 24, len(content) - 1]
    for cut in cuts:
        comm.barrier()
        if comm.rank == 0:
            path.write_bytes(content[:cut])
        comm.barrier()
        with pytest.raises(ConfigError, match=f"{file}.bin (ends within|.*not whole)"):
            read(shared_path / "out", comm)
    comm.barrier()
    if comm.rank == 0:
        path.write_bytes(content + b"\0")
    comm.barrier()
    with pytest.raises(ConfigError, match=f"{file}.bin has 1 bytes after"):
        read(shared_path / "out", comm)
    comm.barrier()
    if comm.rank == 0:
        path.write_bytes(struct.pack("<Q", 2**60) + content[8:])
    comm.barrier()
    with pytest.raises(ConfigError, match=f"{file}.bin "):
        read(shared_path / "out", comm)


def test_bal_becomes_radial_and_comes_back(comm, shared_path):
    before = read(SHIPPED / "bal/plain.txt", comm)
    write(before, shared_path / "model")
    model = read(shared_path / "model", comm)
    assert model.cameras.model_of(0).name == "RADIAL"
    difference, depth = residuals(model)
    expected, expected_depth = residuals(before)
    np.testing.assert_allclose(difference, expected * [1, -1], atol=1e-9)
    np.testing.assert_allclose(depth, expected_depth, rtol=1e-13)
    write(model, shared_path / "back.txt")
    after = read(shared_path / "back.txt", comm)
    _equal(before, after)


def test_trafalgar_as_another_wrote_it(comm):
    """Its COLMAP model, made elsewhere and scaled, has the errors of the BAL file."""
    model = read(data("colmap-from-bal/trafalgar-21"), comm)
    cost, _ = _numbers(comm, model)
    np.testing.assert_allclose(cost, 4.413239e6, rtol=2e-7)


@pytest.mark.parametrize(
    ("name", "counts", "mean", "cost"),
    [
        ("cases/real/crane_mast", (1, 8, 2122, 6037), 1.15068, 5841.3354),
        ("cases/real/maupertuis/reconstruction", (1, 4, 1039, 3355), 0.346468, 403.49049),
        ("cases/real/unsorted_colmap", (3, 3, 2, 6), 906.4, 2733272.9),
        ("cases/libmv/problem_01", (1, 333, 26, 5421), None, 4607.594484463),
        ("cases/libmv/problem_03", (1, 500, 37, 6184), None, 297.994676649),
        ("lund/sparse-global", (1, 29, 976, 4099), None, None),
    ],
)
def test_real_ones(comm, name, counts, mean, cost):
    reconstruction = read(data(name), comm)
    s = summarise(reconstruction)
    assert (s.cameras, s.images, s.points, s.observations) == counts
    its_cost, its_mean = _numbers(comm, reconstruction)
    if mean is not None:
        np.testing.assert_allclose(its_mean, mean, rtol=1e-5 if mean < 2 else 1e-4)
    if cost is not None:
        np.testing.assert_allclose(its_cost, cost, rtol=1e-8 if cost < 1e6 else 1e-6)


def test_real_ones_that_contradict_themselves(comm):
    name = "cases/real/track_index_always_zero"
    with pytest.raises(ConfigError, match=r'points3D.txt, line .*trust="images"'):
        read(data(name), comm)
    trusted = read(data(name), comm, trust="images")
    s = summarise(trusted)
    assert (s.cameras, s.images, s.points, s.observations) == (3, 3, 1721, 5163)
    np.testing.assert_allclose(_numbers(comm, trusted)[1], 0.38101, rtol=1e-5)
    s = summarise(read(data("cases/real/all_points_one_view"), comm, trust="images"))
    assert (s.cameras, s.images, s.points, s.observations) == (55, 55, 1000, 1000)
    assert s.one_view_points == 1000
    with pytest.raises(ConfigError, match=r"images.txt, line 5: .*blanks"):
        read(data("cases/real/t265_comma_separated"), comm)


@pytest.mark.parametrize("name", ["start_txt", "truth_bin"])
def test_rigs(comm, name):
    with pytest.raises(ConfigError, match=r"rigs\.(txt, line 4|bin): rig 1 has 2 sensors"):
        read(data(f"cases/rigs/{name}"), comm)


def test_frames_of_several_images(comm, shared_path):
    folder = shared_path / "model"
    if comm.rank == 0:
        shutil.copytree(FOLDER / "plain", folder)
        (folder / "rigs.txt").write_text("# rigs\n1 1 CAMERA 1\n")
        frame = "1 1 1 0 0 0 0 0 0 1 CAMERA 1 1\n"
        (folder / "frames.txt").write_text(f"# frames\n{frame}")
    comm.barrier()
    assert summarise(read(folder, comm)).observations == 48
    comm.barrier()
    if comm.rank == 0:
        (folder / "frames.txt").write_text("1 1 1 0 0 0 0 0 0 2 CAMERA 1 1 CAMERA 1 2\n")
    comm.barrier()
    with pytest.raises(ConfigError, match=r"frames\.txt, line 1: frame 1 has 2 sensors"):
        read(folder, comm)


@pytest.mark.parametrize("model", ["FULL_OPENCV", "OPENCV_FISHEYE", "RADIAL_FISHEYE", "PINHOLE"])
def test_zero_noise(comm, model):
    name = f"cases/synthetic/zero_noise/{model}"
    expected = json.loads((data(name) / "expected.json").read_text())
    truth, start = (read(data(f"{name}/{end}"), comm) for end in ("truth", "start"))
    assert _numbers(comm, truth)[0] < 1e-16 * expected["observations"]
    np.testing.assert_allclose(_numbers(comm, start)[0], expected["start_cost"], rtol=1e-9)
    parameters = truth.cameras.parameters[0, : len(expected["params"])]
    np.testing.assert_array_equal(parameters, expected["params"])


def test_a_folder_is_replaced_whole(comm, shared_path):
    folder = shared_path / "sparse/0"
    write(read(FOLDER / "plain", comm), folder, "colmap-text")
    if comm.rank == 0:
        (folder / "notes.md").write_text("mine")
        (folder / "rigs.txt").write_text("1 1 CAMERA 1\n")
    comm.barrier()
    write(read(FOLDER / "odd_empty_track", comm), folder)
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["cameras.bin", "images.bin", "notes.md", "points3D.bin"]
    assert summarise(read(folder, comm)).observations == 44
    assert [p.name for p in (shared_path / "sparse").iterdir()] == ["0"]


def test_a_failed_write_changes_nothing(comm, shared_path):
    good = read(FOLDER / "plain", comm)
    write(good, shared_path / "out", "colmap-text")
    before = {p.name: p.read_bytes() for p in (shared_path / "out").iterdir()}
    bad = read(FOLDER / "plain", comm)
    bad.images.names[2] = " begins with a blank"
    with pytest.raises(ConfigError, match="begins or ends with a blank"):
        write(bad, shared_path / "out", "colmap-text")
    bad.images.ids[2] = 2**32
    with pytest.raises(ConfigError, match="image 4294967296 has an id"):
        write(bad, shared_path / "out")
    assert {p.name: p.read_bytes() for p in (shared_path / "out").iterdir()} == before
    assert [p.name for p in shared_path.iterdir()] == ["out"]


def test_where_nothing_can_be_written(comm, shared_path):
    model = read(FOLDER / "plain", comm)
    if comm.rank == 0:
        (shared_path / "file").write_text("a file")
        (shared_path / "home/photos").mkdir(parents=True)
    comm.barrier()
    with pytest.raises(HpckitError, match=r"cannot write .*file/out"):
        write(model, shared_path / "file/out")
    with pytest.raises(ConfigError, match="is a file, but a COLMAP model is a folder"):
        write(model, shared_path / "file", "colmap")
    with pytest.raises(ConfigError, match=r"home has photos in it.*home/model"):
        write(model, shared_path / "home")
    with pytest.raises(HpckitError, match="cannot write /proc/nothing"):
        write(model, "/proc/nothing/here")
