"""Find an array in an HDF5 or netCDF-4 file, and make sure that all of it is there.

Where a source of a virtual dataset is gone, or a chunk was never written, HDF5 gives its fill
value, mostly 0, and says nothing. Here that is an error which names what is missing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError
from hpckit.io.cf import ATTRIBUTES, Number, Packing, default_fill, packing

if TYPE_CHECKING:
    import h5py

Lead = tuple[int, ...]  # which entry of the first dimensions is wanted
_SPECIFIER = re.compile(
    r"%(.)"
)  # HDF5's names of sources: %b is the number of a block, %% a percent sign


def open_dataset(path: Path, name: str | None, choose: Callable[..., str]) -> h5py.Dataset:
    """The dataset of that name, or the only one; raises `ConfigError` where there is none such."""
    import h5py

    file = h5py.File(path, "r")  # closed when the dataset is no longer needed
    if name is not None and (name := name.strip("/")) and _follow(path, file, name):
        return _opened(file, name)
    names: list[str] = []
    file.visititems(lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None)
    if name is None and not names:
        links: list[str] = []
        file.visititems_links(
            lambda key, link: None if isinstance(link, h5py.HardLink) else links.append(key)
        )
        names = [key for key in links if _follow(path, file, key)]
    if name is None and len(names) > 1:  # the coordinates of netCDF are not what is looked for
        fields = [key for key in names if not _is_coordinate(file[key])]
        names = fields if len(fields) == 1 else names
    return _opened(file, choose(path, name, names))


def plain_offset(path: Path, data: h5py.Dataset) -> int | None:
    """Where in the file the numbers lie as they are in memory; None where they do not."""
    import h5py

    plain = data.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and not data.external
    as_in_memory = data.id.get_type() == h5py.h5t.py_create(data.dtype, logical=True)
    if not plain or not as_in_memory or not path.samefile(data.file.filename):
        return None
    offset = data.id.get_offset()
    if offset is not None and offset + data.nbytes > path.stat().st_size:
        raise ConfigError(f"{path} is cut short: {data.name} ends at byte {offset + data.nbytes}")
    return offset


def read_packing(path: Path, data: h5py.Dataset) -> Packing | None:
    """What the attributes of the dataset say of its numbers."""
    fill, default = _fill(data), default_fill(data.dtype)
    attributes = {name: data.attrs[name] for name in ATTRIBUTES if name in data.attrs}
    return packing(
        f"{path}: {data.name}", attributes, data.dtype, fill if fill == default else None
    )


def check_written(
    data: h5py.Dataset, lead: Lead, missing: tuple[Number, ...], seen: set | None = None
) -> None:
    """Raise `ConfigError` unless all of the dataset was written, as far as it is wanted.

    missing : numbers that stand for no value; chunks may lack where that is what they would be
        filled with
    """
    import h5py

    seen, where = set() if seen is None else seen, f"{data.file.filename}: {data.name}"
    if (data.file.filename, data.name) in seen or not data.size:
        return
    seen.add((data.file.filename, data.name))
    layout, fill = data.id.get_create_plist().get_layout(), _fill(data)
    declared = fill is not None and (fill in missing or math.isnan(fill))
    if layout == h5py.h5d.VIRTUAL:
        _check_sources(data, lead, missing, seen)
    elif layout == h5py.h5d.CHUNKED and not declared:
        lacking, needed = _chunks(data, lead)
        if lacking:
            raise ConfigError(f"{where}: {lacking} of {needed} chunks were never written")
    elif layout == h5py.h5d.CONTIGUOUS and data.external:
        raise ConfigError(
            f"{where}, the source of a view, has its numbers in other files: h5repack makes one "
            "file of it"
        )
    elif layout == h5py.h5d.CONTIGUOUS and data.id.get_offset() is None and not declared:
        raise ConfigError(f"{where} was never written")


def _follow(path: Path, file: h5py.File, name: str) -> bool:
    """Whether there is a dataset of that name; `ConfigError` where a link leads nowhere."""
    import h5py

    words = name.split("/")
    for prefix in ("/".join(words[:n]) for n in range(1, len(words) + 1)):
        link = file.get(prefix, getlink=True)
        if link is None:
            return False
        try:
            item = file[prefix]
        except (KeyError, OSError):
            target = f"{getattr(link, 'filename', '')}:{getattr(link, 'path', '')}".lstrip(":")
            raise ConfigError(f"{path}: {prefix} is a link to {target}, which is missing") from None
        if isinstance(item, h5py.Dataset):
            return prefix == name
    return False


def _opened(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset; of numbered sources of a view, none may be missing in between."""
    data: Any = file[name]
    for _, source, key, _ in data.virtual_sources() if data.is_virtual else ():
        if _is_series(source, key):
            _check_series(data, source, key)
    return data


def _is_coordinate(data: Any) -> bool:
    return data.ndim == 0 or data.attrs.get("CLASS") in (b"DIMENSION_SCALE", "DIMENSION_SCALE")


def _fill(data: h5py.Dataset) -> Number | None:
    """What HDF5 gives where nothing was written, if somebody chose it."""
    import h5py

    properties = data.id.get_create_plist()
    if (
        data.dtype.kind not in "iuf"
        or properties.fill_value_defined() != h5py.h5d.FILL_VALUE_USER_DEFINED
    ):
        return None
    return np.asarray(data.fillvalue).item()


def _chunks(data: h5py.Dataset, lead: Lead) -> tuple[int, int]:
    """How many of the chunks that are wanted lack, and how many are wanted."""
    chunks: Any = data.chunks
    each = [-(-n // c) for n, c in zip(data.shape, chunks, strict=True)]
    needed = math.prod(each[len(lead) :])
    there = data.id.get_num_chunks()
    if lead and there < math.prod(each):
        found: list[bool] = []

        def look(info: Any) -> None:
            at = zip(lead, info.chunk_offset, chunks, strict=False)
            found.append(all(start <= i < start + length for i, start, length in at))

        data.id.chunk_iter(look)
        there = sum(found)
    return max(needed - there, 0), needed


def external(data: h5py.Dataset) -> np.ndarray:
    """The numbers of a dataset that lie in other files, all beside the HDF5 file."""
    import h5py

    where = f"{data.file.filename}: {data.name}"
    if data.id.get_type() != h5py.h5t.py_create(data.dtype, logical=True):
        raise ConfigError(
            f"{where} has numbers of an unusual type in other files: h5repack makes one plain file "
            "of it"
        )
    folder, left, pieces = Path(data.file.filename).resolve().parent, data.nbytes, []
    listed: list[Any] = data.external or []
    for name, offset, size in listed:
        file, wanted = (folder / name).resolve(), min(size, left)
        if not file.is_relative_to(folder):
            raise ConfigError(
                f"{where}: its numbers are in {name}, outside of the folder {folder}: copy it there"
            )
        if not file.is_file() or file.stat().st_size < offset + wanted:
            why = "too short" if file.is_file() else "missing"
            raise ConfigError(f"{where}: its numbers are in {name}, which is {why}")
        pieces.append(
            np.memmap(file, np.uint8, "r", offset, (wanted,)) if wanted else np.empty(0, np.uint8)
        )
        left -= wanted
    if left:
        raise ConfigError(f"{where}: {left} of {data.nbytes} bytes are in no file")
    whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return whole.view(data.dtype).reshape(data.shape)


def _check_sources(data: h5py.Dataset, lead: Lead, missing: tuple[Number, ...], seen: set) -> None:
    """All sources that are wanted must be there, whole, and together cover the dataset."""
    where = f"{data.file.filename}: {data.name}"
    covered = np.zeros(data.shape[len(lead) :], bool)
    for space, file, name, part in data.virtual_sources():
        if _is_series(file, name):
            count = 0
            while (
                source := _source(data, _numbered(file, count), _numbered(name, count))
            ) is not None:
                check_written(source, (), missing, seen)
                count += 1
            parts = list(_boxes(space, data.shape, count))
        else:
            names = file.replace("%%", "%"), name.replace("%%", "%")
            mapped = list(_boxes(space, data.shape, None))
            if not any(_wanted(box, lead) for box in mapped):
                continue
            source = _source(data, *names)
            if source is None:
                raise ConfigError(f"{where} is a view of {':'.join(names)}, which is missing")
            _check_size(where, source, part, space)
            check_written(source, (), missing, seen)
            parts = list(_boxes(space, data.shape, _units(part, source.shape)))
        for box in parts:
            if _wanted(box, lead):
                covered[box[len(lead) :]] = True
    lacking = covered.size - int(np.count_nonzero(covered))
    if lacking:
        raise ConfigError(
            f"{where}: {lacking} of {covered.size} numbers of this view have no source"
        )


def _wanted(box: tuple[slice, ...], lead: Lead) -> bool:
    return all(part.start <= i < part.stop for part, i in zip(box, lead, strict=False))


def _boxes(space: Any, shape: tuple[int, ...], units: int | None) -> Iterator[tuple[slice, ...]]:
    """The boxes of a selection; in an unlimited dimension, as many as have room, or `units`."""
    import h5py

    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        yield tuple(slice(0, n) for n in shape)
    elif not space.is_regular_hyperslab():
        for low, high in space.get_select_hyper_blocklist():
            yield tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
    else:
        start, stride, count, block = space.get_regular_hyperslab()
        runs = [
            _runs(*each, units) for each in zip(start, stride, count, block, shape, strict=True)
        ]
        for corner in np.ndindex(*map(len, runs)):
            yield tuple(run[i] for run, i in zip(runs, corner, strict=True))


def _runs(
    start: int, stride: int, count: int, block: int, n: int, units: int | None
) -> list[slice]:
    """The ranges that a regular selection takes in one dimension of n; `units` are there."""
    limit = _unlimited()
    if block == limit:  # one block without an end
        return [slice(start, n if units is None else min(n, start + units))]
    if count == limit:
        room = max(0, -(-(n - start) // stride))
        count = room if units is None else min(room, units)
    if block == stride and count:
        return [slice(start, min(n, start + count * block))]
    return [slice(start + i * stride, min(n, start + i * stride + block)) for i in range(count)]


def _unlimited() -> int:
    import h5py

    return h5py.h5s.UNLIMITED if h5py.h5s.UNLIMITED > 0 else (1 << 64) - 1


def _units(part: Any, shape: tuple[int, ...]) -> int | None:
    """How many blocks, or numbers, a source has in its unlimited dimension, if it has one."""
    import h5py

    if part.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not part.is_regular_hyperslab():
        return None
    for start, stride, count, block, n in zip(*part.get_regular_hyperslab(), shape, strict=True):
        if block == _unlimited():
            return max(0, n - start)
        if count == _unlimited():
            return max(0, -(-(n - start) // stride))
    return None


def _check_size(where: str, source: h5py.Dataset, part: Any, space: Any) -> None:
    """The source must be as large as the view takes it to be, where that is limited."""
    import h5py

    if part.get_select_type() != h5py.h5s.SEL_HYPERSLABS:  # all of it
        fits = source.size == space.get_select_npoints()
    elif part.is_regular_hyperslab():
        each = zip(*part.get_regular_hyperslab(), source.shape, strict=True)
        fits = all(
            _unlimited() in (count, block) or start + (count - 1) * stride + block <= n
            for start, stride, count, block, n in each
        )
    else:
        fits = all(
            end < n for end, n in zip(part.get_select_bounds()[1], source.shape, strict=True)
        )
    if not fits:
        raise ConfigError(
            f"{where} takes {source.file.filename}:{source.name} to be larger than it is, "
            f"{source.shape}"
        )


def _source(data: h5py.Dataset, file: str, name: str) -> Any:
    """A source of a virtual dataset, looked for where HDF5 does; None where it is not there."""
    import h5py

    if file == ".":
        return _opened(data.file, name) if name in data.file else None
    for path in _places(data, file):
        if path.is_file():
            try:
                other = h5py.File(path, "r")
                return _opened(other, name) if name in other else None
            except OSError:
                raise ConfigError(
                    f"{data.file.filename}: {data.name} is a view of {path}, which is damaged"
                ) from None
    return None


def _places(data: h5py.Dataset, file: str) -> Iterator[Path]:
    """Where HDF5 looks for a source: its absolute name, beside the view, where we are."""
    own = Path(data.file.filename)
    if Path(file).is_absolute():
        yield Path(file)
        file = Path(file).name
    for prefix in filter(None, os.environ.get("HDF5_VDS_PREFIX", "").split(":")):
        yield Path(prefix.replace("${ORIGIN}", str(own.absolute().parent))) / file
    yield own.absolute().parent / file
    yield Path(file)
    yield own.resolve().parent / file


def _is_series(file: str, name: str) -> bool:
    return "b" in _SPECIFIER.findall(file) + _SPECIFIER.findall(name)


def _check_series(data: h5py.Dataset, file: str, name: str) -> None:
    """HDF5 reads numbered sources up to a gap: there must be none after it."""
    count = 0
    while _source(data, _numbered(file, count), _numbered(name, count)) is not None:
        count += 1
    pattern = re.compile(
        "".join(
            r"(\d+)" if word == "%b" else re.escape(word.replace("%%", "%"))
            for word in _words(file)
        )
    )
    folder = Path(_numbered(file, 0)).parent
    places = (
        {path.parent for path in _places(data, str(folder / "x"))}
        if "b" in _SPECIFIER.findall(file)
        else set()
    )
    for place in filter(Path.is_dir, places):
        for other in place.iterdir():
            match = pattern.fullmatch(str(folder / other.name))
            if match and int(match[1]) > count:
                count_name = f"{_numbered(file, count)}:{_numbered(name, count)}"
                raise ConfigError(
                    f"{data.file.filename}: {data.name} is a view of {count_name}, which is missing"
                )
    if not count:
        first = f"{_numbered(file, 0)}:{_numbered(name, 0)}"
        raise ConfigError(
            f"{data.file.filename}: {data.name} is a view of {first}, which is missing"
        )


def _words(text: str) -> list[str]:
    return re.split(r"(%b|%%)", text)


def _numbered(text: str, number: int) -> str:
    return "".join({"%b": str(number), "%%": "%"}.get(word, word) for word in _words(text))
