"""Allreduce against MPI's own: on one node, on emulated slow links, and over the ranks.

    python -m benchmarks.allreduce [--quick] [--json FILE] [--netlab DIR] [--parts PART,...]

One node: 2 ranks, then 4 and 8, whether there are cores for them or not. Slow links: DIR (or
HPCKIT_NETLAB) holds the scripts `up`, `down` and `agent`, which emulate hosts on one machine: `up N
MICROSECONDS MEGABITS` makes network namespaces nl1 to nlN, 10.77.0.1 to N, and `agent HOST COMMAND`
stands in for ssh. 8 hosts, 4 ms from host to host and 300 Mbit/s are the setting of TPI-LLM
(arXiv:2410.00531). Growth: tables of predicted and measured times over ranks, as Markdown. Ratios
are of medians; `native` is `Allreduce` from one array to another.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _harness
from benchmarks._harness import Report, _environment, _mpirun, print_table
from hpckit.units import binary, period

ROOT = Path(__file__).parents[1]
DELAY = 4000  # us from host to host
RATE = 300  # Mbit/s
HOSTS = 8
MIDDLE = [binary(1 << k) for k in range(15, 18)]  # 32 KiB to 128 KiB
LARGE = [binary(1 << k) for k in range(18, 27)]  # 256 KiB to 64 MiB
LINKS = {"8 B": 1.8, "8 KiB": 2.5, "32 KiB": 1.8, "256 KiB": 1.8, "1 MiB": 1.3}  # targets
PRODUCER = 0.1  # seconds that computing an array takes, where that is overlapped
SETTING = f"{DELAY / 1000:g} ms, {RATE} Mbit/s"
PARTS = "node,links,compressed,overlap,levels,growth"
RANKS = (2, 4, 8, 16, 32, 64)
MODELLED = ("ring", "star", "oneshot", "twoshot", "recursive_doubling", "rabenseifner")
Times = Mapping[str, Mapping[str, list[float]]]  # by case and way


# -- running


def measure(command: list[str], part: str, quick: bool) -> tuple[Times, str]:
    """The times of one part, whose ranks `command` starts, and the MPI library."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "times.json"
        program = [sys.executable, "-m", "benchmarks._allreduce", part, str(file)]
        words = [*command, *program, *["--quick"] * quick]
        subprocess.run(words, cwd=ROOT, env=_everywhere(), check=True)
        found = json.loads(file.read_text())
    return found["cases"], found["mpi"]


def _everywhere() -> dict[str, str]:
    """The environment of all ranks."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **_environment(), "OMPI_MCA_osc": "^ucx", "PYTHONPATH": path}


@contextlib.contextmanager
def emulated(netlab: Path, hosts: int) -> Iterator[Callable[[int], list[str]]]:
    """Hosts with slow links; yields what makes the command for so many ranks on each of them."""
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "NETLAB_STATE": state}
        try:
            up = [netlab / "up", str(hosts), str(DELAY), str(RATE)]
            subprocess.run(up, env=environment, check=True)
            yield partial(_launch, netlab, hosts)
        finally:
            subprocess.run([netlab / "down"], env=environment, check=False)


def _launch(netlab: Path, hosts: int, each: int) -> list[str]:
    """The command, from within the first host, that starts `each` ranks on all of them."""
    first = ["nsenter", "--net=/var/run/netns/nl1", "unshare", "-u"]
    first += ["bash", "-c", 'hostname nlhost1; exec "$@"', "-"]
    addresses = [f"10.77.0.{i + 1}" for i in range(hosts)]
    ranks = str(hosts * each)
    agent = str(netlab / "agent")
    if "Open MPI" not in _output(_mpirun(), "--version"):
        tcp = ["env", "UCX_TLS=tcp,self", "UCX_NET_DEVICES=eth0"]
        tcp += ["FI_PROVIDER=tcp", "FI_TCP_IFACE=eth0"]
        launcher = ["-launcher", "ssh", "-launcher-exec", agent, "-iface", "eth0"]
        where = ["-hosts", ",".join(addresses), "-ppn", str(each), "-n", ranks]
        return [*first, *tcp, _mpirun(), *launcher, *where]
    prte = {"plm": "ssh", "plm_ssh_agent": agent, "prte_if_include": "eth0"}
    mca = {"pml": "ob1", "btl": "tcp,self" + ",sm" * (each > 1), "btl_tcp_if_include": "eth0"}
    mca["mpi_yield_when_idle"] = "1"  # Open MPI does not see that these hosts share cores
    options = [word for key, value in prte.items() for word in ("--prtemca", key, value)]
    options += [word for key, value in mca.items() for word in ("--mca", key, value)]
    places = ",".join(f"{address}:{each}" for address in addresses)
    where = ["-host", places, "-n", ranks, "--map-by", "node"]
    return [*first, _mpirun(), *options, *where]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def without_netlab(netlab: Path | None) -> str:
    """Why there are no emulated hosts; nothing where there can be."""
    if netlab is None or not (netlab / "up").exists():
        return "no --netlab DIR, nor HPCKIT_NETLAB, with the script `up`"
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        return "needs root and /dev/net/tun"
    missing = [tool for tool in ("ip", "nsenter", "unshare", "gcc") if not shutil.which(tool)]
    if missing:
        return f"no {', '.join(missing)} on PATH"
    busy = _output("ip", "netns", "list")
    return "emulated hosts are in use already: run its `down`" if "nl1" in busy.split() else ""


# -- reporting


def ratio(peer: list[float], ours: list[float], least: float = 0.0) -> tuple[float, float, float]:
    """Median of the peer's times over that of ours, both less `least`; its range within the run."""

    def of(p: np.ndarray, o: np.ndarray) -> float:
        return float((np.median(p) - least) / max(np.median(o) - least, 1e-9))

    parts = zip(np.array_split(peer, 5), np.array_split(ours, 5), strict=True)
    ratios = [of(p, o) for p, o in parts if len(p) and len(o)]
    whole = of(np.asarray(peer), np.asarray(ours))
    return whole, min([whole, *ratios]), max([whole, *ratios])


def add(
    report: Report,
    case: str,
    times: Mapping[str, list[float]],
    way: str,
    *goal: float | None,
    peer="native",
) -> None:
    """`way` against `peer` where both were measured; goal : the target, if there is one."""
    if way in times and peer in times:
        report.add(f"{case}, {way}", peer, *ratio(times[peer], times[way]), *goal)


def show(cases: Times, title: str) -> None:
    """Medians of all ways, native's in microseconds and the others' as its multiple."""
    ways = list(dict.fromkeys(way for times in cases.values() for way in times))
    rows = []
    for way in ways:
        row: list[Any] = [way]
        for times in cases.values():
            own = float(np.median(times["native"]))
            value = float(np.median(times[way])) if way in times else 0.0
            if not value:
                row.append("")
            else:
                row.append(1e6 * value if way == "native" else f"{own / value:.2f}x")
        rows.append(row)
    print_table(("", *cases), rows, f"{title}: native in us, others: native's time over theirs")


class Regret:
    """How much longer `auto` takes than the best fixed algorithm, over all cases seen.

    And how much longer a second plan of the algorithm that it chose: plans differ in where their
    memory lies.
    """

    def __init__(self) -> None:
        self._all: dict[str, list[float]] = {"auto": [], "choice of auto": []}

    def see(self, cases: Times) -> None:
        for times in cases.values():
            median = {way: float(np.median(values)) for way, values in times.items()}
            plain = [t for way, t in median.items() if way in FIXED]
            for way, found in self._all.items():
                if way in median:
                    found.append(median[way] / min(plain))
                if f"{way}, window" in median:
                    found.append(median[f"{way}, window"] / min([*plain, median["shared, window"]]))

    def add_to(self, report: Report) -> None:
        for way, found in self._all.items():
            if found:
                part = float(np.mean(np.array(found) <= 1.15))
                goal = 0.95 if way == "auto" else None
                cases = f"{part:.0%} of {len(found)} cases"
                print(f"{way}: within 1.15 of the best fixed way in {cases}")
                case = f"{way}, part of the grid within 1.15 of"
                report.add(case, "the best fixed way", part, part, part, goal)


FIXED = ("native, in place", "ring", "star", "oneshot", "twoshot")
FIXED += ("recursive_doubling", "rabenseifner", "tree", "hierarchical", "shared")


# -- parts


def node(report: Report, regret: Regret, quick: bool) -> None:
    for ranks in (2,) if quick else (2, 4, 8):
        cases, report.versions["MPI"] = measure([_mpirun(), "-n", str(ranks)], "node", quick)
        show(cases, f"One node, {ranks} ranks, {report.versions['MPI']}")
        regret.see(cases)
        for size, times in cases.items():
            case = f"{ranks} ranks, {size}"
            if ranks == 2:
                add(report, case, times, "auto, window", 3.0 if size in MIDDLE + LARGE else 1.1)
                add(report, case, times, "auto", 1.15 if size in LARGE else 0.9)
            else:
                add(report, case, times, "auto, window", 1.8 if size in LARGE else None)
                add(report, case, times, "auto")
            for peer in ("native, in place", "ring by hand"):
                add(report, case, times, "auto", peer=peer)
            add(report, case, times, "reproducible", 0.4)


def between_hosts(
    report: Report, part: str, quick: bool, netlab: Path, note: str = "", each: int = 1
) -> Times:
    """The times of a part on HOSTS ranks, so many of them on each host, which are shown as well."""
    hosts = HOSTS // each
    with emulated(netlab, hosts) as command:
        cases, report.versions["MPI"] = measure(command(each), part, quick)
    several = f" of {each} ranks" if each > 1 else ""
    show(cases, f"{hosts} hosts{several}, {SETTING}, {note}{report.versions['MPI']}")
    return cases


def links(report: Report, regret: Regret, quick: bool, netlab: Path) -> None:
    cases = between_hosts(report, "links", quick, netlab)
    regret.see(cases)
    for size, times in cases.items():
        case = f"{HOSTS} hosts, {size}"
        star, ring = (1.5, 4.0) if size == "32 KiB" else (None, None)
        add(report, case, times, "auto", LINKS.get(size))
        add(report, case, times, "auto", star, peer="TPI-LLM's star")
        add(report, case, times, "auto", ring, peer="ring by hand")


def compressed(report: Report, quick: bool, netlab: Path) -> None:
    for size, times in between_hosts(report, "compressed", quick, netlab).items():
        for form, goal in (("fp16", None), ("bf16", None), ("int8", 2.5)):
            add(report, f"{HOSTS} hosts, {size}", times, form, goal)


def overlap(report: Report, quick: bool, netlab: Path) -> None:
    note = f"after or while {PRODUCER} s of computing, "
    for size, times in between_hosts(report, "overlap", quick, netlab, note).items():
        case = f"{HOSTS} hosts, {size}, exposed by 8 chunks"
        for way, goal in (("native", 2.5), ("auto", None)):
            exposed = ratio(times[way], times["chunks"], least=PRODUCER)
            report.add(case, f"{way} afterwards", *exposed, goal)


def levels(report: Report, regret: Regret, quick: bool, netlab: Path) -> None:
    cases = between_hosts(report, "levels", quick, netlab, each=2)
    regret.see(cases)
    for size, times in cases.items():
        for way, goal in (("hierarchical", None), ("hierarchical, window", 1.8), ("auto", None)):
            add(report, f"{HOSTS // 2} x 2, {size}", times, way, goal)


def growth(quick: bool) -> None:
    """Print tables of time over ranks, as in docs/collectives.md: measured, and the model's."""
    sizes = (8192, 1 << 20)
    shown = ("native", "ring", "twoshot", "recursive_doubling", "rabenseifner", "shared, window")
    found = {}
    for ranks in (2, 4) if quick else RANKS:
        rows = _program(ranks, sizes)
        if rows is None:
            print(f"{ranks} ranks do not start here")
            break
        found[ranks] = rows
    for nbytes in sizes:
        print(_head(binary(nbytes), shown))
        for ranks, rows in found.items():
            first = f"{ranks} ranks" if ranks == RANKS[0] else str(ranks)
            print(_line(first, (_cell(rows, nbytes, way) for way in shown)))
    networks = {"2 us, 10 GB/s": (2e-6, 1e-10), "4 ms, 300 Mbit/s": (4e-3, 8 / 300e6)}
    for name, (latency, per_byte) in networks.items():
        print(_head(name, MODELLED))
        for nbytes in sizes:
            for ranks, cells in _modelled(nbytes, latency, per_byte).items():
                print(_line(f"{binary(nbytes)}, 8 ranks" if ranks == 8 else str(ranks), cells))


def _head(title: str, columns: Iterable[str]) -> str:
    names = list(columns)
    return f"\n{_line(title, names)}\n{_line('---', ['---'] * len(names))}"


def _line(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _program(ranks: int, sizes: tuple[int, ...]) -> list[dict[str, Any]] | None:
    """What `hpckit.apps.allreduce` finds on so many ranks; None where they do not start."""
    with tempfile.TemporaryDirectory() as folder:
        names = "ring,twoshot,recursive_doubling,rabenseifner,shared"
        words = ["--sizes", ",".join(map(str, sizes)), "--algorithms", names]
        words += ["--seconds", "0.5", "--pictures", "false", "--save", "--output", folder]
        program = [sys.executable, "-m", "hpckit.apps.allreduce", *words]
        command = [_mpirun(), "-n", str(ranks), *program]
        options = {"cwd": ROOT, "env": _everywhere(), "capture_output": True}
        if subprocess.run(command, check=False, **options).returncode:
            return None
        return json.loads((Path(folder) / "result.json").read_text())["rows"]


def _cell(rows: list[dict[str, Any]], nbytes: int, way: str) -> str:
    for row in rows:
        if (row["bytes"], row["way"]) == (nbytes, way):
            predicted = f" ({period(row['predicted'])})" if row["predicted"] else ""
            return period(row["median"]) + predicted
    return ""


def _modelled(nbytes: int, latency: float, per_byte: float) -> dict[int, list[str]]:
    """The model's times for hosts of one rank each, by their number."""
    import mpi4py

    mpi4py.rc.initialize = False  # the formulas need none
    from hpckit.collectives.algorithms import predict
    from hpckit.machine.links import Links

    alpha, beta = (np.full((2, 2), value) for value in (latency, per_byte))
    links = Links.of_tables((0, 1), alpha, beta, overhead=3e-7, crowd=1.0, gamma=1e-10)
    lines = {}
    for ranks in (8, 64, 512, 4096):
        times = predict(links, nbytes, ranks)
        fastest = min(MODELLED, key=times.__getitem__)
        shown = {name: period(times[name]) for name in MODELLED}
        shown[fastest] = f"**{shown[fastest]}**"
        lines[ranks] = list(shown.values())
    return lines


def main() -> None:
    parser = _harness.parser("allreduce")
    netlab = os.environ.get("HPCKIT_NETLAB")
    parser.add_argument("--netlab", type=Path, metavar="DIR", default=netlab)
    parser.add_argument("--parts", default=PARTS, help=f"some of {PARTS}")
    options = parser.parse_args()
    report = Report("allreduce")
    regret = Regret()
    parts = options.parts.split(",")
    if "node" in parts:
        node(report, regret, options.quick)
    slow = {"links": partial(links, report, regret), "compressed": partial(compressed, report)}
    slow |= {"overlap": partial(overlap, report), "levels": partial(levels, report, regret)}
    wanted = [run for part, run in slow.items() if part in parts]
    netlab = options.netlab and Path(options.netlab).resolve()
    why = without_netlab(netlab) if wanted else ""
    if why:
        print(f"without slow links: {why}")
    else:
        for run in wanted:
            run(options.quick, netlab)
    if "growth" in parts:
        growth(options.quick)
    regret.add_to(report)
    report.print_targets()
    if options.json:
        report.save(options.json)


if __name__ == "__main__":
    main()
