"""Whole nodes: started by twistd, asked over their listeners, told by signals, with one process and with several."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.nodes import Node, certificate, reachable_python
from tests.support.ports import free_port

MakeNode = Callable[..., Node]
ENDED = -signal.SIGTERM
"""twistd, once all is closed, ends by the signal that asked it to."""


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    nodes: list[Node] = []

    def make(**options: object) -> Node:
        folder = tmp_path / str(len(nodes))
        folder.mkdir()
        nodes.append(Node(folder, **options))  # type: ignore[arg-type]
        return nodes[-1]

    yield make
    for node in nodes:
        if node.process is not None:
            node.stop()


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


def test_one_process_serves_and_stops_cleanly(make_node: MakeNode) -> None:
    node = make_node().start()
    assert node.process is not None
    assert node.pids() == {node.process.pid}
    assert node.get("/health/live", "management") == (200, '{"live": true}\n')
    assert node.ready()["checks"] == [
        {"name": "node", "health": "ok", "text": "serving"},
        {"name": "token:a", "health": "ok", "text": "it signs"},
        {"name": "log", "health": "ok", "text": "goes to stderr"},
    ]
    assert node.stop() == ENDED
    assert (node.state / f"closed-{node.process.pid}").exists()
    assert "Traceback" not in node.log.read_text()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_who_asks_for_the_end_more_than_once_is_not_answered_with_a_traceback(
    make_node: MakeNode, workers: int, first: signal.Signals
) -> None:
    node = make_node(workers=workers).start()
    for number in (first, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        node.signal(number)
        time.sleep(0.02)  # one after the other, while it ends
    assert node.process is not None
    assert node.process.wait(30) == -first
    assert "Traceback" not in node.log.read_text()


def test_readiness_names_what_is_away(make_node: MakeNode) -> None:
    node = make_node()
    (node.state / "away").touch()
    node.start(wait=False)
    node.wait_for("not ready: the database is away")
    assert node.get("/health/live", "management")[0] == 200
    status, text = node.get("/health/ready", "management")
    assert status == 503
    assert "the database is away" in text
    (node.state / "away").unlink()
    node.wait_for(": ready: ")
    assert node.ready()["ready"] is True
    (node.state / "broken").touch()
    assert node.get("/health/ready", "management")[0] == 503
    node.wait_for("job count: no token for the job; trying again")
    (node.state / "job").unlink()
    node.until((node.state / "job").exists, "the job's next run")
    assert node.log.read_text().count("no token for the job") == 1
    assert node.ready()["checks"][1] == {"name": "token:a", "health": "failed", "text": "it is away"}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_can_never_serve_ends_with_the_configuration_code(make_node: MakeNode, workers: int) -> None:
    node = make_node(workers=workers)
    (node.state / "refuse").touch()
    node.start(wait=False)
    assert node.process is not None
    assert node.process.wait(20) == 78
    assert "cannot serve: the schema is not this program's" in node.log.read_text()


def test_a_port_that_is_taken_is_told_and_nothing_listens(make_node: MakeNode) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = make_node(listen=f'"127.0.0.1:0", "127.0.0.1:{taken.getsockname()[1]}"').start(wait=False)
        assert node.process is not None
        assert node.process.wait(20) != 0
    told = [line for line in node.log.read_text().splitlines() if " crit" in line]
    assert len(told) == 1
    assert "cannot serve: cannot listen: http: 127.0.0.1:" in told[0]
    assert "Address already in use" in told[0]
    assert "Traceback" not in node.log.read_text()


def test_sigterm_lets_running_requests_end_and_takes_no_new_ones(make_node: MakeNode) -> None:
    node = make_node(workers=2).start()
    port = node.port("http")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = [pool.submit(node.get, "/slow?1.5") for _ in range(4)]
        time.sleep(0.5)
        node.signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(OSError, match=r"refused|reset"):
            socket.create_connection(("127.0.0.1", port)).close()
        assert [one.result() for one in running] == [(200, "done")] * 4
    assert node.stop() == ENDED


def test_what_does_not_end_within_the_drain_time_is_cut(make_node: MakeNode) -> None:
    node = make_node(top='drain = "1s"').start()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(node.get, "/slow?600", timeout=120)
        time.sleep(0.5)
        began = time.monotonic()
        assert node.stop() == ENDED
        assert 0.8 < time.monotonic() - began < 60  # a second was given, the answer would take ten minutes
        with pytest.raises(OSError):  # noqa: PT011  # refused, reset or closed: each is right
            running.result()


def test_workers_share_the_sockets_and_a_dead_one_is_replaced(make_node: MakeNode) -> None:
    node = make_node(workers=3).start()
    assert node.process is not None
    first = node.until(lambda: len(found := node.pids()) == 3 and found, "three workers")
    assert node.process.pid not in first
    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    assert all(node.get("/who")[0] == 200 for _ in range(20) if not time.sleep(0.01))
    node.wait_for("was ended by SIGKILL: another starts in 0.2 s")
    second = node.until(lambda: len(found := node.pids()) == 3 and found, "three workers again")
    assert first & second == first - {victim}
    assert node.stop() == ENDED
    assert not any(map(alive, second))
    assert not list(Path(tempfile.gettempdir()).glob(f"pkiserver-*/worker-{victim}"))


def test_a_worker_that_ends_in_order_is_replaced_by_one_that_serves(make_node: MakeNode) -> None:
    node = make_node(workers=2).start()
    first = node.until(lambda: len(found := node.pids()) == 2 and found, "two workers")
    os.kill(min(first), signal.SIGTERM)
    node.wait_for("ended by itself: another starts in 0.2 s")
    node.wait_for(" serves", times=6)  # three processes, and their parent of each
    second = node.until(lambda: len(found := node.pids()) == 2 and found, "two workers again")
    assert first & second == {max(first)}
    metrics = node.get("/metrics", "management")[1]
    assert {f'worker="{number}"' in metrics for number in (0, 1)} == {True}
    assert "Traceback" not in node.log.read_text()


def test_a_unix_socket_outlives_a_worker_and_lets_in_whom_it_should(make_node: MakeNode) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "http"
        node = make_node(workers=2, listen=f'"127.0.0.1:0", "unix:{path}"').start()
        first = node.until(lambda: len(found := node.pids()) == 2 and found, "two workers")
        assert path.stat().st_mode & 0o777 == 0o660
        os.kill(min(first), signal.SIGTERM)
        node.wait_for(" serves", times=6)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in client.recv(1000)
        assert node.stop() == ENDED
        assert not path.exists()


def test_workers_end_when_their_parent_is_killed(make_node: MakeNode) -> None:
    node = make_node(workers=2).start()
    workers = node.until(lambda: len(found := node.pids()) == 2 and found, "two workers")
    node.signal(signal.SIGKILL)
    node.until(lambda: not any(map(alive, workers)), "the workers' end")
    log = node.log.read_text()
    assert "the parent process is gone: stopping" in log
    folder = re.search(r"internal listens on unix:(\S+)/worker-0", log)
    assert folder
    assert not Path(folder[1]).exists()


def test_metrics_of_all_workers_come_from_any(make_node: MakeNode) -> None:
    node = make_node(workers=2).start()
    node.until(lambda: len(node.pids()) == 2, "two workers")
    node.get("/block?0.2")
    status, text = node.get("/metrics", "management")
    assert status == 200
    counts = [line for line in text.splitlines() if line.startswith("pkiserver_http_requests_total{")]
    assert {label for line in counts for label in ('worker="0"', 'worker="1"') if label in line} == {
        'worker="0"', 'worker="1"',
    }  # fmt: skip
    longest = [float(x.split()[1]) for x in text.splitlines() if x.startswith("pkiserver_reactor_latency_max_seconds{")]
    assert max(longest) > 0.15
    assert text.count("# TYPE pkiserver_http_requests_total counter") == 1
    assert text.count("process_resident_memory_bytes{") == 2


TLS = '[https]\nlisten = ["127.0.0.1:0"]\n[https.tls]\ncertificate = "chain.pem"\nkey = "key.pem"\n'


def shown_certificate(node: Node, alpn: list[str]) -> bytes | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(alpn)
    with socket.create_connection(("127.0.0.1", node.port("https"))) as plain, context.wrap_socket(plain) as tls:
        assert tls.selected_alpn_protocol() == "http/1.1"
        return tls.getpeercert(binary_form=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_follows_tls_files_and_log_settings(make_node: MakeNode, workers: int) -> None:
    node = make_node(workers=workers, more=TLS)
    certificate(node.folder, "one")
    node.start()
    first = shown_certificate(node, ["h2", "http/1.1"])
    assert first == ssl.PEM_cert_to_DER_cert((node.folder / "chain.pem").read_text())

    node.signal(signal.SIGHUP)
    node.wait_for("reload: changed: nothing", workers)

    certificate(node.folder, "two")
    node.signal(signal.SIGHUP)
    node.wait_for(f"reload: changed: TLS certificate {node.folder}/chain.pem", workers)
    second = shown_certificate(node, ["http/1.1"])
    assert second != first

    good = (node.folder / "key.pem").read_bytes()
    (node.folder / "key.pem").write_text("nonsense")
    node.signal(signal.SIGHUP)
    node.wait_for("the old TLS certificate stays", workers)
    assert shown_certificate(node, ["http/1.1"]) == second
    (node.folder / "key.pem").write_bytes(good)

    node.write(workers=workers, more=f"{TLS}\nnonsense = 1\n")
    node.signal(signal.SIGHUP)
    node.wait_for("reload: the settings are unusable and the old ones stay", workers)

    target = node.folder / "other.log"
    node.write(workers=workers, top='drain = "9s"', more=f'{TLS}\n[log]\ntarget = "file:{target}"\nformat = "json"\n')
    node.signal(signal.SIGHUP)
    node.until(lambda: target.exists() and "a restart is needed for: drain" in target.read_text(), "the new log")
    assert f"log target stderr -> file:{target}, format text -> json" in target.read_text()
    assert node.get("/who")[0] == 200


def test_systemd_hands_over_sockets_by_name(make_node: MakeNode) -> None:
    assert shutil.which("systemd-socket-activate"), "apt-get install systemd"
    port = free_port()
    node = make_node(workers=2, listen='"systemd:pki-http"')
    node.start(
        "systemd-socket-activate", f"--listen=127.0.0.1:{port}", "--fdname=pki-http", "--setenv=PYTHONPATH", wait=False
    )
    node.wait_for("Listening on")
    # the first connection starts the service
    with socket.create_connection(("127.0.0.1", port)) as first:
        first.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        node.wait_for(": ready: ")
        assert b" 200 " in first.recv(1000)
    assert node.port("http") == port
    assert node.stop() == ENDED


@pytest.mark.parametrize(("address", "serves"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_socket_of_systemd_for_management_is_on_loopback(make_node: MakeNode, address: str, serves: bool) -> None:
    port = free_port()
    node = make_node()
    text = node.config.read_text().replace(
        '[management]\nlisten = ["127.0.0.1:0"]', '[management]\nlisten = ["systemd:m"]'
    )
    node.config.write_text(text)
    node.start("systemd-socket-activate", f"--listen={address}:{port}", "--fdname=m", "--setenv=PYTHONPATH", wait=False)
    node.wait_for("Listening on")
    with socket.create_connection(("127.0.0.1", port)) as first:
        first.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        if serves:
            assert b" 200 " in first.recv(1000)
        else:
            node.wait_for(f"management: 0.0.0.0:{port} can be reached from outside (allowed: loopback, or ")
            assert node.process is not None
            assert node.process.wait(20) != 0


def test_a_socket_that_systemd_does_not_give_is_named(make_node: MakeNode) -> None:
    node = make_node(listen='"systemd:nothing"').start(wait=False)
    assert node.process is not None
    assert node.process.wait(20) != 0
    assert "systemd hands over no socket of this name (it gives: none)" in node.log.read_text()


def test_systemd_is_told_when_all_workers_serve(make_node: MakeNode, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        node = make_node(workers=2).start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}, wait=False)
        assert manager.recv(100).startswith(b"READY=1\n")
        assert len(node.log.read_text().split(" serves")) >= 3
        node.signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("workers", [1, 2])
def test_privileges_are_dropped_once_the_sockets_are_bound(workers: int) -> None:
    assert os.geteuid() == 0, "this test binds port 80 as root and becomes nobody"
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        node = Node(folder, workers=workers, top='user = "nobody"', listen='"127.0.0.1:0", "127.0.0.91:80"')
        node.state.chmod(0o777)
        node.start(*reachable_python(nobody.pw_uid, folder))
        try:
            pid, uid, gid = map(int, node.get("/who")[1].split())
            assert (uid, gid) == (nobody.pw_uid, nobody.pw_gid)
            status = Path(f"/proc/{pid}/status").read_text()
            assert "CapEff:\t0000000000000000" in status
            with socket.create_connection(("127.0.0.91", 80)) as low:
                low.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b"200 OK" in low.recv(1000)
        finally:
            assert node.stop() == ENDED


def test_twistd_knows_the_plugin_from_any_directory(tmp_path: Path) -> None:
    import sys

    from tests.runtime.nodes import TWISTD

    done = subprocess.run([*TWISTD, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "pkiserver" in done.stdout
    (tmp_path / "bad.toml").write_text("workers = 0\nunknown = 1\n")
    done = subprocess.run(
        [*TWISTD, "pkiserver", "--config", "bad.toml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 78, done
    assert f"pkiserver: {tmp_path}/bad.toml:1: workers:" in done.stderr
    assert f"pkiserver: {tmp_path}/bad.toml:2: unknown: unknown key" in done.stderr
    assert "Traceback" not in done.stderr
    assert sys.executable


def test_an_account_that_does_not_exist_is_told_before_anything_is_bound(tmp_path: Path) -> None:
    from tests.runtime.nodes import TWISTD

    (tmp_path / "node.toml").write_text('state_dir = "."\nuser = "no-such-user"\n[database]\nurl = "sqlite:///x"\n')
    done = subprocess.run(
        [*TWISTD, "pkiserver", "--config", "node.toml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (78, "pkiserver: user: there is no account no-such-user\n")
