"""Carriers: to a directory, by HTTP PUT, to an LDAP directory; SFTP has a module of its own."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import tempfile
import threading
from pathlib import Path

from twisted.internet.threads import deferToThread

from pkiserver.authority.delivery.settings import CrlTarget, DirectoryTarget, LdapTarget, PutTarget
from pkiserver.authority.delivery.values import Carrier, DeliveryError, Parcel
from pkiserver.authority.settings import entry_name
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secrets_by_reference import SecretUnreadable, read_secret
from pkiserver.outbound.addresses import LdapServer, Timeouts, WebAddress
from pkiserver.outbound.dial import Servers
from pkiserver.outbound.http import fetch
from pkiserver.outbound.ldap import NO_SUCH_OBJECT, LdapConnection, LdapError, LdapService, opened
from pkiserver.outbound.ldapattributes import certificate_attribute
from pkiserver.outbound.ldapwire import Change, ChangeKind
from pkiserver.outbound.pem import PemCertificates
from pkiserver.outbound.problems import OutboundError
from pkiserver.outbound.trust import TlsTrust
from pkiserver.store.authority.crls import Covers, CrlKind

_BESIDE = ".crl-"
"""How the names of files begin that are not yet in their place."""
_ABANDONED = 3600.0
"""Seconds after which nobody writes any more into one of them."""
_TAKEN = frozenset({200, 201, 202, 204})


def carrier(target: CrlTarget, clock: Clock) -> Carrier:
    """What brings lists to a target."""
    match target:
        case DirectoryTarget():
            return DirectoryCarrier(target)
        case PutTarget():
            return PutCarrier(target)
        case LdapTarget():
            return LdapCarrier(target, clock)
    # SSH is not loaded where nobody needs it.
    from pkiserver.authority.delivery.sftp import SftpCarrier

    return SftpCarrier(target)


def _secret(reference: str) -> Secret:
    try:
        return read_secret(reference)
    except SecretUnreadable as error:
        raise DeliveryError(str(error)) from error


def _trust(path: Path | None) -> TlsTrust | None:
    return None if path is None else TlsTrust(PemCertificates(f"file:{path}"))


class DirectoryCarrier:
    """Writes beside the place, flushes, and renames: readers see the old list or the new one."""

    def __init__(self, target: DirectoryTarget) -> None:
        self._directory = target.directory
        self._one_at_a_time = threading.Lock()

    async def deliver(self, parcel: Parcel) -> None:
        """Put the list in its place."""
        place = self._directory / parcel.file
        try:
            await deferToThread(self._put, place, parcel.der)
        except OSError as error:
            raise DeliveryError(f"{place}: {error.strerror}") from error

    def _put(self, place: Path, octets: bytes) -> None:
        # A file system that does not answer keeps the one thread that waits for it, and no more of them.
        if not self._one_at_a_time.acquire(blocking=False):
            raise OSError(errno.EBUSY, "an earlier list is still being written")
        try:
            _write(place, octets)
        finally:
            self._one_at_a_time.release()


def _write(place: Path, octets: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=_BESIDE, delete=False) as beside:
        try:
            beside.write(octets)
            beside.flush()
            os.fsync(beside.fileno())
            Path(beside.name).chmod(0o644)
            Path(beside.name).replace(place)
        except OSError:
            Path(beside.name).unlink(missing_ok=True)
            raise
    _clear_abandoned(place)
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _clear_abandoned(place: Path) -> None:
    """Remove what processes that died left half written; by the file system's own clock."""
    with contextlib.suppress(OSError):
        now = place.stat().st_mtime
        for beside in place.parent.glob(f"{_BESIDE}*"):
            if now - beside.stat().st_mtime > _ABANDONED:
                beside.unlink(missing_ok=True)


class PutCarrier:
    """HTTP PUT below a URL; the server's answer must be a success."""

    def __init__(self, target: PutTarget) -> None:
        self._target = target
        self._timeouts = Timeouts(connect=min(target.timeout, Timeouts().connect), answer=target.timeout)

    async def deliver(self, parcel: Parcel) -> None:
        """Put the list in its place."""
        target = self._target
        headers = {"Content-Type": "application/pkix-crl"}
        if target.user is not None and target.password_source is not None:
            password = _secret(target.password_source).reveal_text()
            headers["Authorization"] = "Basic " + base64.b64encode(f"{target.user}:{password}".encode()).decode()
        try:
            answer = await fetch(
                WebAddress.parse(f"{target.put}/{parcel.file}"),
                trust=_trust(target.trust),
                timeouts=self._timeouts,
                body=parcel.der,
                headers=headers,
                method="PUT",
            )
        except (OutboundError, Invalid) as error:
            raise DeliveryError(str(error)) from error
        if answer.status not in _TAKEN:
            raise DeliveryError(f"{target.put}/{parcel.file}: answered with status {answer.status}")


class LdapCarrier:
    """Replaces the one value of an entry's attribute; makes the entry where it is missing (RFC 4523)."""

    def __init__(self, target: LdapTarget, clock: Clock) -> None:
        self._target = target
        self._servers = Servers(clock)

    async def deliver(self, parcel: Parcel) -> None:
        """Put the list in its place."""
        target = self._target
        password = _secret(target.password_source)
        try:
            service = LdapService(
                servers=tuple(LdapServer.parse(one) for one in target.ldap),
                trust=_trust(target.trust),
                start_tls=target.start_tls,
                timeouts=Timeouts(connect=min(target.timeout, Timeouts().connect), answer=target.timeout),
            )
            async with opened(service, self._servers) as connection:
                await connection.bind(target.bind_dn, password)
                await self._replace(connection, parcel)
        except (OutboundError, LdapError, Invalid) as error:
            raise DeliveryError(str(error)) from error

    async def _replace(self, connection: LdapConnection, parcel: Parcel) -> None:
        name = entry_name(parcel.path)
        entry = self._target.entry.replace("{name}", name)
        attribute = certificate_attribute(_attribute(parcel), active_directory=self._target.active_directory)
        try:
            await connection.modify(entry, (Change(ChangeKind.REPLACE, attribute, (parcel.der,)),))
        except LdapError as error:
            if error.code != NO_SUCH_OBJECT:
                raise
            attributes = (
                ("objectClass", (b"top", b"cRLDistributionPoint")),
                ("cn", (name.encode(),)),
                (attribute, (parcel.der,)),
            )
            await connection.add(entry, attributes)


def _attribute(parcel: Parcel) -> str:
    if parcel.kind is CrlKind.DELTA:
        return "deltaRevocationList"
    if parcel.covers is Covers.AUTHORITIES:
        return "authorityRevocationList"
    return "certificateRevocationList"
