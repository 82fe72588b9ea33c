"""CRLs: a million entries built, signed and imported, a shard of ten thousand, and small lists served beside nginx."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import web
from bench.report import RUNS, Figure, Report
from bench.support import free_port, listening, running, set_up
from pkiserver.cli.setup.layout import HTTP_OFFSET, Layout

MILLION = 1_000_000
ABOUT_A_MEGABYTE = 25_000
PATH = "/crl/issuing-1.crl"


def run(seconds: float) -> Report:
    """Figures ``crl_1m_build_s``, ``crl_shard_10k_ms``, ``crl_1m_import_s``, ``crl_small_per_s``, ``crl_1mb_per_s``."""
    report = Report()
    if shutil.which("wrk") is None:
        report.missing["wrk"] = "the load generator: apt-get install wrk"
    else:
        _served(report, seconds)
    with set_up(workers=1) as layout:
        _work(layout, "fill", MILLION)
        built = _work(layout, "build", MILLION)
        report.figures["crl_1m_build_s"] = Figure("s", tuple(built["full"]))
        report.figures["crl_shard_10k_ms"] = Figure("ms", tuple(1000 * one for one in built["shard"]))
        report.figures["crl_1m_build_peak_mib"] = Figure("MiB", (built["peak_mib"],))
        taken = _work(layout, "import", MILLION)
        report.figures["crl_1m_import_s"] = Figure("s", tuple(taken["import"]))
        report.figures["crl_1m_import_peak_mib"] = Figure("MiB", (taken["peak_mib"],))
        report.notes.append(
            f"From the records in SQLite to the signed, stored and audited list (P-256 in SoftHSM); a shard has "
            f"{built['shard_entries']:,} entries; the list of a million is {taken['octets'] / 1e6:.0f} MB. "
            "Peaks are of the whole process."
        )
    return report


def _work(layout: Layout, what: str, count: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.crl_worker", str(layout.config), what, str(count), str(RUNS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _served(report: Report, seconds: float) -> None:
    """One worker and nginx with the same octets, within the same minutes."""
    for name, count, connections in (("small", 0, web.CONNECTIONS), ("1mb", ABOUT_A_MEGABYTE, 8)):
        with set_up(workers=1) as layout:
            if count:
                _work(layout, "fill", count)
            _work(layout, "issue")
            with running(layout), _nginx(report, layout) as other:
                port = layout.port_base + HTTP_OFFSET
                ours = f"crl_{name}_per_s"
                report.measure(ours, "1/s", lambda port=port, c=connections: web.load(port, PATH, seconds, c))
                if other is not None:
                    theirs = f"nginx_crl_{name}_per_s"
                    report.measure(theirs, "1/s", lambda p=other, c=connections: web.load(p, "/list.crl", seconds, c))
                    report.compare(f"nginx, CRL {name}", ours, theirs)
    report.notes.append(f"one process each, {web.CONNECTIONS} kept connections (8 for 1 MB), wrk on the same machine")


@contextlib.contextmanager
def _nginx(report: Report, layout: Layout) -> Iterator[int | None]:
    """nginx serving what the running instance serves; its port."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if program is None:
        report.missing["nginx"] = "apt-get install nginx-light"
        yield None
        return
    url = f"http://127.0.0.1:{layout.port_base + HTTP_OFFSET}{PATH}"
    with tempfile.TemporaryDirectory() as folder, urllib.request.urlopen(url) as answer:
        Path(folder).chmod(0o755)
        (Path(folder) / "list.crl").write_bytes(answer.read())
        port = free_port()
        (Path(folder) / "conf").write_text(web.NGINX.format(folder=folder, port=port))
        with listening([program, "-c", f"{folder}/conf"], port):
            yield port
