"""The log as whoever reads it gets it: files, syslog's and journald's sockets."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import warnings
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel, formatEvent

from pkiserver.runtime.health import Health
from pkiserver.runtime.logformat import as_json, as_text, message_of
from pkiserver.runtime.logging import NodeLog, pass_over_remarks
from pkiserver.runtime.logsettings import LogFormat, LogSettings, LogTarget
from pkiserver.runtime.logsettings import LogLevel as Level
from pkiserver.runtime.services.checks import log_check


def logger(log: NodeLog) -> Logger:
    return Logger(namespace="pkiserver.test", observer=log)


def test_text_lines_carry_the_request_id(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = NodeLog(LogSettings(target=LogTarget("file", file)), "0")
    logger(log).info("issued {serial}", serial="0A", request_id="0123456789abcdef")
    logger(log).debug("not this")
    line = file.read_text()
    assert " info  [0] pkiserver.test: issued 0A request_id=0123456789abcdef\n" in line
    assert line.count("\n") == 1
    assert file.stat().st_mode & 0o777 == 0o640


def test_remarks_on_what_clients_send_are_no_lines(tmp_path: Path) -> None:
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -outform DER -days 1"
        " -subj /CN=x -set_serial 0 -out zero"
    )
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    odd = (tmp_path / "zero").read_bytes()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        look_at(odd)
        assert len(told) > 1, "cryptography remarks on the serial, and on the length of the country"
        del told[:]
        pass_over_remarks()
        look_at(odd)
        assert told == []


def look_at(certificate: bytes) -> None:
    found = x509.load_der_x509_certificate(certificate)
    assert found.serial_number == 0
    long = found.subject.public_bytes().replace(b"\x55\x04\x03", b"\x55\x04\x06")  # one letter for a country
    assert len(list(x509.Name.from_bytes(long))) == 1


def test_json_lines_carry_every_plain_field(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = NodeLog(LogSettings(LogTarget("file", file), LogFormat.JSON, Level.DEBUG), "3")
    logger(log).debug("x {a}", a=1, b=None, c=object(), message="forged", request_id="r")
    record = json.loads(file.read_text())
    assert record | {"time": ""} == {
        "time": "", "level": "debug", "namespace": "pkiserver.test", "message": "x 1", "worker": "3",
        "a": 1, "b": None, "request_id": "r",
    }  # fmt: skip


@given(st.text(), st.text())
def test_an_event_is_one_line_whatever_is_in_it(message: str, field: str) -> None:
    event = {
        "log_format": "{m}",
        "m": message,
        "f": field,
        "request_id": field,
        "log_time": 0.0,
        "log_level": LogLevel.info,
    }
    for text in (as_text(event, "0"), as_json(event, "0")):
        assert text.splitlines() == [text]
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)


class _Silent:
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "form",
    [
        "",
        "plain",
        "{a}",
        "{a} and {b}",
        "{{a}} {b}",
        "{a!r}",
        "{a:>5}",
        "{c}",
        "{a.real}",
        "{f()}",
        "{",
        "{}",
        "{0}",
        "{bad}",
        None,
    ],
)
def test_a_message_is_what_twisted_makes_of_the_event(form: str | None) -> None:
    event = {
        "log_format": form,
        "a": 1,
        "b": "two",
        "f": lambda: "called",
        "bad": _Silent(),
        "log_level": LogLevel.info,
    }
    assert message_of(event).splitlines()[:1] == formatEvent(event).splitlines()[:1]


def test_a_traceback_cannot_pass_for_another_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = NodeLog(LogSettings(LogTarget("file", file)), "0")
    try:
        raise ValueError("a\n2026-01-01T00:00:00.000Z info  [0] pkiserver: all is well\x1b[2J")
    except ValueError:
        logger(log).failure("it broke")
    first, *rest = file.read_text().splitlines()
    assert first.endswith("pkiserver.test: it broke")
    assert rest
    assert all(line.startswith("  | ") for line in rest)
    assert "\x1b" not in file.read_text()


def listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(path))
    server.settimeout(5)
    return server


def test_syslog_datagrams(tmp_path: Path) -> None:
    server = listen(tmp_path / "s")
    log = NodeLog(LogSettings(LogTarget.parse(f"syslog:{tmp_path}/s")), "1")
    logger(log).warn("bad\nthing", request_id="r1")
    assert server.recv(9000).decode().partition("]: ")[2] == "[1] pkiserver.test: bad\\nthing request_id=r1"
    server.close()
    server = listen(tmp_path / "s")
    logger(log).error("after the daemon was restarted")
    assert server.recv(9000).startswith(b"<27>pkiserver[")
    server.close()


def test_journald_entries(tmp_path: Path) -> None:
    with listen(tmp_path / "j") as server:
        log = NodeLog(LogSettings(LogTarget.parse(f"journald:{tmp_path}/j")), "2")
        logger(log).critical("two\nPRIORITY=7", request_id="r2")
        entry = server.recv(9000)
    assert entry.startswith(b"MESSAGE\n" + struct.pack("<Q", 14) + b"two\nPRIORITY=7\n")
    assert b"\nPRIORITY=2\n" in entry
    assert b"PKISERVER_REQUEST_ID=r2\n" in entry


async def test_a_log_that_cannot_be_written_stops_nothing_and_says_so_later(tmp_path: Path) -> None:
    log = NodeLog(LogSettings(LogTarget.parse(f"syslog:{tmp_path}/s")), "0")
    for _ in range(3):
        logger(log).info("lost")
    assert log.lost == 3
    [found] = await log_check(log).run()
    assert (found.health, found.text) == (Health.WARNING, f"syslog:{tmp_path}/s has not taken the last 3 events")
    with listen(tmp_path / "s") as server:
        logger(log).info("here again")
        said = server.recv(9000) + server.recv(9000)
    assert b"here again" in said
    assert b"3 log events before the last one could not be written" in said
    [found] = await log_check(log).run()
    assert found.health is Health.OK


def test_settings_change_while_running(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    log = NodeLog(LogSettings(LogTarget("file", first)), "0")
    logger(log).info("one")
    first.rename(tmp_path / "rotated")
    assert log.change(LogSettings(LogTarget("file", first))) is None
    logger(log).info("two")
    changed = log.change(LogSettings(LogTarget("file", second), LogFormat.JSON))
    assert changed == f"target file:{first} -> file:{second}, format text -> json"
    logger(log).info("three")
    with pytest.raises(OSError, match="No such file"):
        log.change(LogSettings(LogTarget("file", tmp_path / "no" / "such")))
    logger(log).info("four")
    assert "one" in (tmp_path / "rotated").read_text()
    assert "two" in first.read_text()
    assert [json.loads(line)["message"] for line in second.read_text().splitlines()] == ["three", "four"]


def test_what_twisted_says_of_its_factories_is_told_at_debug_only(tmp_path: Path) -> None:
    """Each request that a worker makes would be two lines."""
    file = tmp_path / "log"
    log = NodeLog(LogSettings(LogTarget("file", file)), "0")
    of_twisted = Logger(namespace="twisted.web.client._HTTP11ClientFactory", observer=log)
    of_twisted.info("Starting factory {factory!r}", factory=object())
    of_twisted.info("told")
    logger(log).info("ours {factory}", factory="told")
    assert [line.rpartition(": ")[2] for line in file.read_text().splitlines()] == ["told", "ours told"]
