"""Compressions by their names, as case files and command lines give them."""

from __future__ import annotations

from hpckit.errors import ConfigError
from hpckit.lossy.compression import Compression
from hpckit.lossy.powersgd import PowerSGD
from hpckit.lossy.quantised import FORMS, Quantised
from hpckit.lossy.topk import TopK


def compressed(name: str) -> Compression:
    """The compression of that name: "fp16", "bf16", "int8", "topk:FRACTION", "powersgd:RANK".

    Raises `ConfigError` for any other. ::

        Allreduce(comm, gradient, algorithm=compressed("topk:0.01"))
    """
    if name in FORMS:
        return Quantised(name)
    kind, _, text = name.partition(":") if isinstance(name, str) else ("", "", "")
    try:
        parameter = float(text)
    except ValueError:
        parameter = 0.0
    if kind == "topk" and 0 < parameter <= 1:
        return TopK(parameter)
    if kind == "powersgd" and parameter >= 1 and parameter.is_integer():
        return PowerSGD(int(parameter))
    raise ConfigError(
        f"compression {name!r} must be 'fp16', 'bf16', 'int8', 'topk:FRACTION' with a fraction "
        "above 0 and up to 1, or 'powersgd:RANK' with a rank of 1 or more"
    )
