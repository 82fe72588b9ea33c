"""HTTP edge: answers a second from one process, small and 1 MB, beside nginx serving the same bytes."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.report import Report
from bench.support import free_port, listening

SMALL = 500
LARGE = 1_000_000
CONNECTIONS = 32

SERVER = """
from twisted.internet import epollreactor
epollreactor.install()
from twisted.internet import reactor
from pkiserver.foundation.clock import SystemClock
from pkiserver.runtime.polling import poll_straight
from protocols.web.encode import pre_encode
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.router import Router
from protocols.web.values import Method, Response, Route

small, large = bytes({small}), bytes({large})
encoded = pre_encode(Response(200, small, "application/ocsp-response", (("ETag", '"1"'),)))

async def coroutine(request):
    return Response(200, small, "application/ocsp-response", (("ETag", '"1"'),))

def route(path, handler):
    return Route(path[1:], path, {{Method.GET}}, handler, quiet=True)

routes = [
    route("/encoded", lambda request: encoded),
    route("/plain", lambda request: Response(200, small, "application/ocsp-response", (("ETag", '"1"'),))),
    route("/async", coroutine),
    route("/large", lambda request: Response(200, large, "application/pkix-crl")),
]
limits = WebLimits(requests_per_connection=10**9)
reactor.listenTCP({port}, HttpServerFactory(Router(routes), limits, SystemClock(), reactor), interface="127.0.0.1")
poll_straight()
reactor.run()
"""

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000; sendfile on; tcp_nopush on; client_body_temp_path {folder}/b;
    proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    open_file_cache max=100;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def load(port: int, path: str, seconds: float, connections: int = CONNECTIONS) -> float:
    """Answers a second that wrk gets from one kept set of connections; every one of status 200."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"http://127.0.0.1:{port}{path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    match = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    assert match is not None
    return float(match[1])


def run(seconds: float) -> Report:
    """All figures, ours and those of nginx within the same minutes."""
    report = Report()
    if shutil.which("wrk") is None:
        report.missing["wrk"] = "the load generator: apt-get install wrk"
        return report
    port, other = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        code = SERVER.format(small=SMALL, large=LARGE, port=port)
        stack.enter_context(listening([sys.executable, "-c", code], port))
        nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
        if nginx is None:
            report.missing["nginx"] = "apt-get install nginx-light"
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.chmod(0o755)
            (folder / "encoded").write_bytes(bytes(SMALL))
            (folder / "large").write_bytes(bytes(LARGE))
            (folder / "conf").write_text(NGINX.format(folder=folder, port=other))
            stack.enter_context(listening([nginx, "-c", str(folder / "conf")], other))
        for path in ("encoded", "plain", "async"):
            report.measure(f"web_{path}_per_s", "1/s", lambda path=path: load(port, f"/{path}", seconds))
        report.measure("web_large_per_s", "1/s", lambda: load(port, "/large", seconds, 8))
        if nginx is not None:
            report.measure("nginx_small_per_s", "1/s", lambda: load(other, "/encoded", seconds))
            report.measure("nginx_large_per_s", "1/s", lambda: load(other, "/large", seconds, 8))
            report.compare("nginx, small", "web_encoded_per_s", "nginx_small_per_s")
            report.compare("nginx, 1 MB", "web_large_per_s", "nginx_large_per_s")
    report.notes.append(f"one process each, {CONNECTIONS} kept connections (8 for 1 MB), wrk on the same machine")
    return report
