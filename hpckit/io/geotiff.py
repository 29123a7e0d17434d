"""One image of a TIFF file; the only module that imports tifffile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hpckit.errors import ConfigError

_REDUCED, _MASK = 1, 4  # bits of a page's NewSubfileType: smaller copies, and masks


_SCALE, _TRANSFORMATION = 33550, 34264  # tags of GeoTIFF (OGC 19-008r4, annex B)


def read(path: Path) -> tuple[np.ndarray, dict[str, Any], bool]:
    """The image, (rows, columns) or (bands, rows, columns), its attributes, whether north is up.

    The attributes are as CF has them; north is up where the file says that row 0 is in the north.
    """
    with tifffile.TiffFile(path) as file:
        pages: list[Any] = [page for page in file.pages if not _subfile(page) & (_REDUCED | _MASK)]
        if len(pages) != 1:
            raise ConfigError(
                f"{path} has {len(pages)} images: gdal_translate -of netCDF {path} OUT.nc converts "
                "one"
            )
        (page,) = pages
        attributes = _attributes(page)
        north_up = _north_up(page)
        if 0 in page.databytecounts and "_FillValue" not in attributes:
            raise ConfigError(
                f"{path}: {page.databytecounts.count(0)} tiles of its image were never written"
            )
        try:
            data = page.asarray()
        except Exception as error:
            raise ConfigError(
                f"cannot read {path}: {error}; gdal_translate -co COMPRESS=NONE {path} OUT.tif may "
                "help"
            ) from error
    image = np.moveaxis(data, -1, 0) if page.axes.endswith("S") else data
    return image, attributes, north_up


def _subfile(page: Any) -> int:
    return int(page.subfiletype or 0)


def _north_up(page: Any) -> bool:
    """By the height of a row: a scale goes down the rows, a matrix maps (column, row) to (x, y)."""
    if (matrix := page.tags.get(_TRANSFORMATION)) is not None:
        return float(matrix.value[5]) < 0
    scale = page.tags.get(_SCALE)
    return scale is not None and float(scale.value[1]) > 0


def _attributes(page: Any) -> dict[str, Any]:
    """GDAL's number for no value, scale and offset."""
    found: dict[str, Any] = {}
    if (tag := page.tags.get("GDAL_NODATA")) is not None:
        found["_FillValue"] = str(tag.value).strip("\0 ")
    if (tag := page.tags.get("GDAL_METADATA")) is not None:
        for role, key in (("scale", "scale_factor"), ("offset", "add_offset")):
            said = re.findall(rf'role="{role}"[^>]*>([^<]*)<', str(tag.value))
            if len(set(said)) > 1:
                raise ConfigError(
                    f"its bands have different {role}s, {', '.join(said)}: gdal_translate -unscale "
                    "helps"
                )
            if said:
                found[key] = said[0]
    return found
