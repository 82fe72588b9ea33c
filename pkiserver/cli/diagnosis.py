"""What ``pkiserver doctor`` finds, and the checks that need no engine: files, disk, TLS, the running node."""

from __future__ import annotations

import json
import os
import shutil
import stat
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from pkiserver.foundation.errors import Rejected
from pkiserver.runtime.health import Health

if TYPE_CHECKING:
    from cryptography import x509

    from pkiserver.runtime.config import NodeSettings

MEBIBYTE = 1024 * 1024
DISK_WARNING = 1024 * MEBIBYTE
DISK_FAILED = 100 * MEBIBYTE
TLS_WARNING = timedelta(days=14)
HTTP_SECONDS = 5.0
ANSWER_BYTES = 64 * MEBIBYTE


@attrs.frozen
class Result:
    """One thing that was looked at."""

    name: str
    health: Health
    text: str
    advice: str | None = None
    """What to do about it; None when all is well."""


def good(name: str, text: str) -> Result:
    """All is well."""
    return Result(name, Health.OK, text)


def warning(name: str, text: str, advice: str) -> Result:
    """It works, but will not for long, or is not as it should be."""
    return Result(name, Health.WARNING, text, advice)


def bad(name: str, text: str, advice: str) -> Result:
    """It does not work."""
    return Result(name, Health.FAILED, text, advice)


def folder_of(settings: NodeSettings) -> Iterator[tuple[str, Path]]:
    """The folders that must have room and must not be open to everybody."""
    yield "state_dir", settings.state_dir
    if settings.database.is_sqlite:
        yield "database", Path(settings.database.url.removeprefix("sqlite:///")).parent


def check_files(config: Path, settings: NodeSettings) -> Iterator[Result]:
    """Modes of the configuration and of the folders of state. Loading has checked the secret files."""
    from pkiserver.authority.status.knownnumbers import trouble_with

    mode = config.stat().st_mode
    if mode & (stat.S_IWOTH | stat.S_IWGRP):
        yield bad("configuration", f"{config} can be written by others ({mode & 0o777:04o})", f"chmod go-w {config}")
    else:
        yield good("configuration", f"{config} is fine")
    for name, folder in dict(folder_of(settings)).items():
        if not folder.is_dir():
            yield bad(name, f"{folder} is no folder", f"mkdir -p -m 0700 {folder}, owned by the server's account")
            continue
        mode = folder.stat().st_mode & 0o777
        if mode & 0o027:
            yield bad(name, f"{folder} is open to others ({mode:04o})", f"chmod 0700 {folder}")
        elif os.statvfs(folder).f_flag & os.ST_RDONLY:
            yield bad(name, f"{folder} is on a read-only file system", "see why in the kernel's log, and mount it anew")
        elif not os.access(folder, os.W_OK | os.X_OK):
            yield bad(name, f"{folder} cannot be written by this account", "run this as the server's account")
        elif os.geteuid() == 0 != folder.stat().st_uid:
            text = f"{folder} belongs to {_owner(folder)}, who cannot use what root's commands make"
            yield warning(name, text, f"run each command as that account: runuser -u {_owner(folder)} -- pkiserver ...")
        else:
            yield good(name, f"{folder} has mode {mode:04o}")
    if why := trouble_with(settings.crl_numbers):
        advice = "give it to the server's account; without it a restored database may use CRL numbers again"
        yield warning("crl-numbers", why, advice)


def _owner(path: Path) -> str:
    """Whose it is: the account's name, or its number where it has none."""
    try:
        return path.owner()
    except KeyError:
        return f"#{path.stat().st_uid}"


def check_disk(settings: NodeSettings) -> Iterator[Result]:
    """Room where the server writes."""
    for name, folder in dict(folder_of(settings)).items():
        if not folder.is_dir():
            continue
        free = shutil.disk_usage(folder).free
        text = f"{free // MEBIBYTE} MiB free under {folder}"
        if free < DISK_FAILED:
            yield bad(f"disk:{name}", text, "make room: without it nothing is issued")
        elif free < DISK_WARNING:
            yield warning(f"disk:{name}", text, "make room soon")
        else:
            yield good(f"disk:{name}", text)


def check_validity(name: str, certificate: x509.Certificate, now: datetime, soon: timedelta, advice: str) -> Result:
    """Whether a certificate is valid now and for some time."""
    end = certificate.not_valid_after_utc
    if now < certificate.not_valid_before_utc:
        return bad(name, f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}Z", "check the clock")
    if now >= end:
        return bad(name, f"expired on {end:%Y-%m-%d}", advice)
    if now + soon >= end:
        return warning(name, f"expires on {end:%Y-%m-%d %H:%M}Z", advice)
    return good(name, f"valid until {end:%Y-%m-%d}")


def check_tls(settings: NodeSettings, now: datetime) -> Iterator[Result]:
    """The TLS listener's files: they load, the key fits, the names are those of the public URL, the chain holds."""
    from cryptography import x509

    from pkiserver.runtime.services.tlsfiles import TlsFiles

    tls = settings.https.tls
    if tls is None or not settings.https.listen:
        return
    try:
        TlsFiles(tls, settings.https.client_certificates)
        chain = x509.load_pem_x509_certificates(tls.certificate.read_bytes())
    except Rejected as error:
        for reason in error.reasons:
            yield bad("tls", reason.text, "put a matching PEM certificate chain and key there")
        return
    yield good("tls:key", "belongs to the certificate")
    renew = f"renew {tls.certificate}, then send SIGHUP"
    yield check_validity("tls:validity", chain[0], now, TLS_WARNING, renew)
    yield from _check_names(chain[0], settings.public.https)
    for below, above in pairwise(chain):
        try:
            below.verify_directly_issued_by(above)
        except Exception as error:  # noqa: BLE001  # cryptography raises several kinds; each says the same
            text = f"{above.subject.rfc4514_string()} did not issue {below.subject.rfc4514_string()}"
            yield bad(
                "tls:chain", f"{text} {error}".rstrip(), f"order {tls.certificate} from the server up to the root"
            )
            return
    yield good("tls:chain", f"{len(chain)} certificate(s) in order")


def _check_names(certificate: x509.Certificate, public: str | None) -> Iterator[Result]:
    from cryptography import x509

    from pkiserver.foundation.extensionvalue import extension_value

    names = extension_value(certificate, x509.SubjectAlternativeName)
    if names is None:
        yield bad("tls:names", "the TLS certificate has no subjectAltName", "get one with the server's names in it")
        return
    shown = [
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    ]
    host = urlsplit(public).hostname if public else None
    if host is None:
        yield good("tls:names", f"{', '.join(shown)} (public.https is not set: nothing to compare with)")
    elif any(_matches(host, name) for name in shown):
        yield good("tls:names", f"{host} is among {', '.join(shown)}")
    else:
        advice = f"get a TLS certificate for {host}, or correct public.https"
        yield bad("tls:names", f"{host} of public.https is not among {', '.join(shown)}", advice)


def _matches(host: str, name: str) -> bool:
    """RFC 9525 section 6.3: a wildcard is the whole leftmost label and stands for exactly one."""
    host, name = host.lower().rstrip("."), name.lower().rstrip(".")
    if name.startswith("*."):
        return host.partition(".")[2] == name[2:] and "." in name[2:]
    return host == name


def fetch(url: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
    """Status and body of a GET or POST, no proxy; blocks up to :data:`HTTP_SECONDS` a step.

    Raises:
        OSError: there is no answer.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type} if body else {})  # noqa: S310
    try:
        with opener.open(request, timeout=HTTP_SECONDS) as answer:
            return int(answer.status), answer.read(ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        return error.code, error.read(ANSWER_BYTES)
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error


def check_node(settings: NodeSettings) -> Iterator[Result]:
    """The running node's own word, from its management listener."""
    places = [str(endpoint) for endpoint in settings.management.listen if endpoint.port]
    if not places:
        advice = 'set management.listen, for instance to ["127.0.0.1:9180"]'
        yield warning("node", "no management listener with a fixed port to ask", advice)
        return
    url = f"http://{places[0]}/health/ready"
    try:
        _, body = fetch(url)
        checks = json.loads(body)["checks"]
        results = [Result(f"node:{c['name']}", Health(c["health"]), str(c["text"])) for c in checks]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield bad("node", f"{url} does not answer: {error}", "start the server, then run this again")
        return
    for result in results:
        yield result if result.health is Health.OK else attrs.evolve(result, advice="see the server's log")


def is_green(results: Iterable[Result], *, strict: bool = False) -> bool:
    """Whether everything works; ``strict``: and nothing even wants to be looked at."""
    return all(result.health is Health.OK or (result.health is Health.WARNING and not strict) for result in results)
