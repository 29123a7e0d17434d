"""How much memory processes of this node can still get."""

from __future__ import annotations

import math
import re
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available() -> float:
    """Bytes that processes of this node can still get, by Linux or by a limit set to them."""
    return min(_of_node(), _of_cgroup(), _of_process())


def _of_node() -> float:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    return int(found[1]) * 1024 if found else math.inf


def _of_cgroup() -> float:
    """The least that is left in our control group or one above; cached files do not count."""
    least = math.inf
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, inner = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
        )
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        here = root / inner.lstrip("/")
        for folder in (here, *here.parents):
            if not folder.is_relative_to(root):
                break
            limit, used = (_number(folder / name) for name in names)
            cached = re.search(
                r"^(?:total_)?inactive_file (\d+)", _read(folder / "memory.stat"), re.MULTILINE
            )
            least = min(least, limit - min(used, limit) + (int(cached[1]) if cached else 0))
    return least


def _of_process() -> float:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = re.search(r"^VmSize:\s*(\d+) kB", _read(Path("/proc/self/status")), re.MULTILINE)
    return (
        math.inf
        if limit == resource.RLIM_INFINITY
        else limit - (int(used[1]) * 1024 if used else 0)
    )


def _number(path: Path) -> float:
    text = _read(path).strip()
    return (
        float(text)
        if text.isdigit()
        else (math.inf if "limit" in path.name or "max" in path.name else 0.0)
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
