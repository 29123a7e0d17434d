"""What the attributes of netCDF say of stored numbers, against what the conventions say."""

from __future__ import annotations

import numpy as np
import pytest

from hpckit.errors import ConfigError
from hpckit.io.cf import default_fill, packing

NAN = np.nan
# name → stored numbers, attributes, values
PACKED = {
    "scaled": (
        np.array([-5800, 3800, 0], "i2"),
        {"scale_factor": 0.5, "add_offset": 100.0},
        [-2800, 2000, 100],
    ),
    "scale alone": (np.array([2, 4], ">i4"), {"scale_factor": 0.25}, [0.5, 1]),
    "offset alone": (np.array([2, 4], "f4"), {"add_offset": np.int64(10)}, [12, 14]),
    "the fill is a stored number": (
        np.array([-1, 2], "i2"),
        {"scale_factor": -1.0, "add_offset": 1.0, "_FillValue": np.int16(-1)},
        [NAN, -1],
    ),
    "a value that equals the fill is none": (
        np.array([-1, 2], "i2"),
        {"scale_factor": 0.5, "_FillValue": np.int16(1)},
        [-0.5, 1],
    ),
    "several missing values": (
        np.array([1, 2, 3], "i4"),
        {"missing_value": np.array([1, 3])},
        [NAN, 2, NAN],
    ),
    "fill and missing": (
        np.array([1, 2, 3], "u2"),
        {"missing_value": 1, "_FillValue": np.uint16(3)},
        [NAN, 2, NAN],
    ),
    "range of stored numbers": (
        np.array([0, 10, 20, 30], "i2"),
        {"valid_range": np.array([10, 20], "i2"), "scale_factor": 100.0},
        [NAN, 1000, 2000, NAN],
    ),
    "one end": (np.array([0.0, 1, 2]), {"valid_min": 1}, [NAN, 1, 2]),
    "other end": (np.array([0.0, 1, 2]), {"valid_max": np.float32(1)}, [0, 1, NAN]),
    "all ends": (
        np.arange(6.0),
        {"valid_range": [1, 4], "valid_min": 2, "valid_max": 9},
        [NAN, NAN, 2, 3, 4, NAN],
    ),
    "ends of another float": (
        np.array([0.1, 0.2], "f4"),
        {"valid_max": 0.2, "valid_min": 0.1},
        np.float32([0.1, 0.2]),
    ),
    "unsigned": (
        np.array([1, -1, -2], "i1"),
        {"_Unsigned": "true", "_FillValue": np.int8(-1)},
        [1, NAN, 254],
    ),
    "unsigned with a scale": (
        np.array([-1], ">i2"),
        {"_Unsigned": b"true", "scale_factor": [2.0]},
        [131070],
    ),
    "unsigned range": (
        np.array([5, -56, -1], "i1"),
        {"_Unsigned": np.bytes_("true"), "valid_range": np.array([0, -56], "i1")},
        [5, 200, NAN],
    ),
    "signed": (np.array([1, 255], "u1"), {"_Unsigned": "false", "_FillValue": 255}, [1, NAN]),
    "fill no byte can hold": (
        np.array([1, 241], "u1"),
        {"_FillValue": -9999, "scale_factor": 1.0},
        [1, 241],
    ),
    "fill of another float": (np.array([1, -9999.9], "f4"), {"_FillValue": -9999.9}, [1, NAN]),
    "fill of a shorter float": (
        np.array([1, 1e20, -9999.9]),
        {"missing_value": np.float32([1e20, -9999.9])},
        [1, NAN, NAN],
    ),
    "fill of NaN": (np.array([1, NAN]), {"_FillValue": NAN, "add_offset": 1.0}, [2, NAN]),
    "fill of NaN for integers": (
        np.array([1, 0], "i2"),
        {"_FillValue": np.float64(NAN), "add_offset": 1.0},
        [2, 1],
    ),
    "text": (
        np.array([1, 5, 9], "i2"),
        {"scale_factor": "0.5", "add_offset": b"1", "missing_value": "1", "valid_range": "0, 6"},
        [NAN, 3.5, NAN],
    ),
    "arrays of one": (
        np.array([2, 3], "i2"),
        {
            "scale_factor": np.array([2.0]),
            "add_offset": np.array([[1.0]]),
            "_FillValue": np.array([3], "i2"),
        },
        [5, NAN],
    ),
    "beyond 2**53": (
        np.array([2**63 - 1, 5]),
        {"_FillValue": np.int64(2**63 - 1), "scale_factor": 1.0},
        [NAN, 5],
    ),
}


@pytest.mark.parametrize("name", PACKED)
def test_values_are_what_the_conventions_say(name):
    numbers, attributes, values = PACKED[name]
    how = packing("u", attributes, numbers.dtype)
    out = np.empty(numbers.shape)
    assert how.unpack(numbers, out) == np.isnan(out).sum() - (numbers != numbers).sum()
    np.testing.assert_array_equal(out, values)
    scaled = {"scale_factor", "add_offset"} & set(attributes)
    assert how.dtype == np.float64 if scaled else how.dtype == how.stored


def test_nothing_said_is_nothing_done():
    assert packing("u", {}, np.dtype("i2")) is None
    assert packing("u", {"_FillValue": NAN}, np.dtype(float)) is None
    assert packing("u", {"scale_factor": 2.0}, np.dtype([("a", "i2")])) is None


@pytest.mark.parametrize("code", ["i2", "i4", "i8", "u2", "u4", "u8", "f4", "f8"])
def test_what_netcdf_fills_with_counts_unless_another_fill_is_given(code):
    dtype = np.dtype(code)
    fill = default_fill(dtype)
    numbers, out = np.array([fill, 1], dtype), np.empty(2)
    assert packing("u", {}, dtype, fill).unpack(numbers, out) == 1
    assert packing("u", {"_FillValue": 7}, dtype, fill).unpack(numbers, out) == 0
    assert default_fill(np.dtype("i1")) is default_fill(np.dtype("u1")) is None


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"scale_factor": 0}, "scale_factor is 0.0, which leaves no values"),
        ({"scale_factor": NAN}, "scale_factor is nan"),
        ({"add_offset": np.inf}, "add_offset is inf"),
        ({"scale_factor": [1, 2]}, r"scale_factor is \[1, 2\], but must be 1 number"),
        ({"scale_factor": "ten"}, "scale_factor is 'ten', but"),
        ({"_FillValue": "none"}, "_FillValue is 'none', but"),
        ({"missing_value": []}, "missing_value is .* at least 1 number"),
        ({"valid_range": 3}, "valid_range is 3, but must be 2 number"),
        ({"_Unsigned": "perhaps"}, "_Unsigned is 'perhaps', but must be 'true' or 'false'"),
    ],
)
def test_attributes_that_make_no_sense_are_named(attributes, message):
    with pytest.raises(ConfigError, match=f"^u: its attribute {message}"):
        packing("u", attributes, np.dtype("i2"))


def test_missing_cells_need_a_type_with_nan():
    how = packing("u", {"_FillValue": 1}, np.dtype("i2"))
    out = np.empty(2, "i4")
    assert how.unpack(np.array([0, 2], "i2"), out) == 0
    with pytest.raises(
        ConfigError, match=r"1 cells are missing .stored as 1., but int32 has no NaN"
    ):
        how.unpack(np.array([0, 1], "i2"), out)
