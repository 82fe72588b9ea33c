"""SFTP by Twisted Conch: our own key, a host key that must be known, and a rename that replaces."""

# Conch is only partly typed.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
import os
import posixpath
from collections import deque
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.client.knownhosts import KnownHostsFile
from twisted.conch.error import ConchError, HostKeyChanged
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.filetransfer import FXF_CREAT, FXF_TRUNC, FXF_WRITE, FileTransferClient, SFTPError
from twisted.conch.ssh.keys import BadKeyError, EncryptedKeyError, Key
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed, ConnectionDone
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

from pkiserver.authority.delivery.settings import SftpTarget
from pkiserver.authority.delivery.values import DeliveryError, Parcel
from pkiserver.outbound.dial import connect, once, within
from pkiserver.outbound.problems import OutboundError

_CHUNK = 32 * 1024
_UNDER_WAY = 16
"""Chunks that are sent before the first is answered."""
_SSH_PORT = 22


def client_key(path: Path) -> Key:
    """The private key in a file of OpenSSH's, without passphrase.

    Raises:
        DeliveryError: it cannot be read.
    """
    try:
        key: Key = Key.fromFile(str(path))
    except OSError as error:
        raise DeliveryError(f"{path}: {error.strerror}") from error
    except (BadKeyError, EncryptedKeyError) as error:
        raise DeliveryError(f"{path}: no usable private key: {error}") from error
    return key


def make_client_key(path: Path) -> None:
    """A new Ed25519 key in a file of OpenSSH's, readable by its owner only; a file that is there is left alone."""
    made = Key(ed25519.Ed25519PrivateKey.generate()).toString("openssh")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(made)


def public_line(path: Path) -> str:
    """The public half of a private key's file, as ``authorized_keys`` has it."""
    line: str = client_key(path).public().toString("openssh").decode()
    return line


class _Transport(SSHClientTransport):
    """Knows the host before it says who we are."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Deferred[bool]:  # noqa: N802, N803
        """Conch's interface: fails where the key is not the one that is known."""
        done: Deferred[bool] = Deferred()
        problem = self._session.host_problem(hostKey, fingerprint.decode())
        if problem is None:
            done.callback(True)
        else:
            self._session.fail(DeliveryError(problem))
            done.errback(ConchError(problem))
        return done

    def connectionSecure(self) -> None:  # noqa: N802
        """Conch's interface."""
        connection = _Connection(self._session)
        self.requestService(_Authentication(self._session, connection))

    def connectionLost(self, reason: Failure | None = connectionDone) -> None:  # noqa: N802
        """Conch's interface."""
        super().connectionLost(reason)
        self._session.fail(DeliveryError(f"{self._session.server}: the connection was lost"))


class _Authentication(SSHUserAuthClient):
    def __init__(self, session: _Session, connection: SSHConnection) -> None:
        super().__init__(session.user.encode(), connection)
        self._session = session
        self._offered = False

    def getPublicKey(self) -> Key | None:  # noqa: N802
        """Conch's interface: the one key, once."""
        if self._offered:
            return None
        self._offered = True
        public: Key = self._session.key.public()
        return public

    def getPrivateKey(self) -> Deferred[Key]:  # noqa: N802
        """Conch's interface."""
        done: Deferred[Key] = Deferred()
        done.callback(self._session.key)
        return done

    def getPassword(self, prompt: Any = None) -> None:  # noqa: N802
        """Conch's interface: there is none."""

    def ssh_USERAUTH_FAILURE(self, packet: bytes) -> Any:  # noqa: N802
        """Conch's interface."""
        if self._offered:
            self._session.fail(DeliveryError(f"{self._session.server}: our key is refused for {self._session.user}"))
        return super().ssh_USERAUTH_FAILURE(packet)


class _Connection(SSHConnection):
    def __init__(self, session: _Session) -> None:
        super().__init__()
        self._session = session

    def serviceStarted(self) -> None:  # noqa: N802
        """Conch's interface."""
        super().serviceStarted()
        self.openChannel(_Channel(self._session, conn=self))


class _Channel(SSHChannel):
    name = b"session"

    def __init__(self, session: _Session, **more: Any) -> None:
        super().__init__(**more)
        self._session = session
        self._client: FileTransferClient | None = None

    def channelOpen(self, specificData: bytes) -> None:  # noqa: ARG002, N802, N803
        """Conch's interface."""
        connection: Any = self.conn
        asked = connection.sendRequest(self, b"subsystem", NS(b"sftp"), wantReply=1)
        asked.addCallbacks(self._opened, lambda _: self._refused())

    def _opened(self, _: object) -> None:
        client = FileTransferClient()
        client.makeConnection(self)
        self._client = client
        self._session.ready(client)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Conch's interface."""
        if self._client is not None:
            self._client.dataReceived(data)

    def openFailed(self, reason: Any) -> None:  # noqa: ARG002, N802
        """Conch's interface."""
        self._refused()

    def _refused(self) -> None:
        self._session.fail(DeliveryError(f"{self._session.server}: has no SFTP"))


class _Session:
    """One connection, until its SFTP client is there or it has failed."""

    def __init__(self, target: SftpTarget) -> None:
        self.user, self._host, self._port = target.address
        self.server = f"{self._host}:{self._port}"
        self.key = client_key(target.key)
        self._known_hosts = target.known_hosts
        self.client: Deferred[Any] = Deferred()
        self.transport = _Transport(self)

    def host_problem(self, octets: bytes, fingerprint: str) -> str | None:
        """Why a host key is not to be trusted; None where it is the known one."""
        name = self._host if self._port == _SSH_PORT else f"[{self._host}]:{self._port}"
        try:
            known = KnownHostsFile.fromPath(FilePath(str(self._known_hosts)))
            if known.hasHostKey(name.encode(), Key.fromString(octets)):
                return None
        except HostKeyChanged:
            return f"{self.server}: the host key ({fingerprint}) is ANOTHER than in {self._known_hosts}"
        except (OSError, BadKeyError) as error:
            return f"{self.server}: the host key cannot be checked: {error}"
        return f"{self.server}: the host key ({fingerprint}) is not in {self._known_hosts}"

    def ready(self, client: Any) -> None:
        """The SFTP client is there."""
        if not self.client.called:
            self.client.callback(client)

    def fail(self, error: DeliveryError) -> None:
        """It will not be."""
        if not self.client.called:
            self.client.errback(error)

    async def open(self, target: SftpTarget) -> Any:
        """Connect and log in; the SFTP client."""
        await connect(once(lambda: self.transport), self._host, self._port, target.timeout)
        return await self.client

    def close(self) -> None:
        """Drop the connection."""
        self.client.addErrback(lambda _: None)
        wire: Any = self.transport.transport
        if wire is not None:
            wire.abortConnection()


class SftpCarrier:
    """A connection for each list: they are rare."""

    def __init__(self, target: SftpTarget) -> None:
        self._target = target

    async def deliver(self, parcel: Parcel) -> None:
        """Write beside the place and rename."""
        session = _Session(self._target)
        silent = DeliveryError(f"{session.server}: did not take the list within {self._target.timeout}")

        async def run() -> None:
            client = await session.open(self._target)
            await _store(client, posixpath.join(self._target.folder, parcel.file), parcel.der)

        try:
            await within(run(), self._target.timeout.total_seconds(), lambda: silent)
        except SFTPError as error:
            raise DeliveryError(f"{session.server}: {error}") from error
        except (OutboundError, ConchError, ConnectionDone, ConnectionClosed) as error:
            raise DeliveryError(f"{session.server}: {error}") from error
        finally:
            session.close()


async def _store(client: Any, place: str, octets: bytes) -> None:
    folder = posixpath.dirname(place)
    beside = posixpath.join(folder, f".{posixpath.basename(place)}.new")
    try:
        file = await _open(client, beside)
    except SFTPError:
        await _make_folders(client, folder)
        file = await _open(client, beside)
    under_way: deque[Deferred[Any]] = deque()
    for start in range(0, len(octets), _CHUNK):
        if len(under_way) == _UNDER_WAY:
            await under_way.popleft()
        under_way.append(file.writeChunk(start, octets[start : start + _CHUNK]))
    while under_way:
        await under_way.popleft()
    await file.close()
    await _rename(client, beside, place)


async def _open(client: Any, place: str) -> Any:
    return await client.openFile(place.encode(), FXF_WRITE | FXF_CREAT | FXF_TRUNC, {})


async def _make_folders(client: Any, folder: str) -> None:
    path = ""
    for part in folder.split("/"):
        path = posixpath.join(path, part) if part else "/"
        try:
            await client.makeDirectory(path.encode(), {})
        except SFTPError:
            continue  # it is there already; if not, opening the file will say so


async def _rename(client: Any, old: str, new: str) -> None:
    """Replace at once where the server can (OpenSSH's extension); elsewhere the old list is away for a moment."""
    try:
        await client.extendedRequest(b"posix-rename@openssh.com", NS(old.encode()) + NS(new.encode()))
    except (SFTPError, NotImplementedError):
        with contextlib.suppress(SFTPError):
            await client.removeFile(new.encode())
        await client.renameFile(old.encode(), new.encode())
