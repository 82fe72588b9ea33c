"""An SFTP server of the test's own, by Twisted Conch: one user with one key, a folder, and a host key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import ISession
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.filetransfer import FileTransferServer, ISFTPServer
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession
from twisted.conch.unix import SFTPServerForUnixConchUser
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor as _reactor
from twisted.internet.threads import blockingCallFromThread
from twisted.python.components import registerAdapter
from zope.interface import implementer

reactor: Any = _reactor
USER = "crl"


class Avatar(ConchUser):
    """Whoever holds the key; everything happens below ``root``."""

    def __init__(self, root: Path, *, renames: bool) -> None:
        super().__init__()
        self.root, self.renames = root, renames
        self.channelLookup[b"session"] = SSHSession
        self.subsystemLookup[b"sftp"] = FileTransferServer

    def getUserGroupId(self) -> tuple[int, int]:
        return os.getuid(), os.getgid()

    def getHomeDir(self) -> str:
        return str(self.root)

    def _runAsUser(self, function: Any, *args: Any, **more: Any) -> Any:
        calls = [(function, args, more)] if callable(function) else function
        for call in calls:
            result = call[0](*(call[1] if len(call) > 1 else ()), **(call[2] if len(call) > 2 else {}))
        return result


class Files(SFTPServerForUnixConchUser):
    """Knows OpenSSH's rename where the avatar says so."""

    def _absPath(self, path: bytes) -> str:
        return str(self.avatar.root / path.decode().lstrip("/"))

    def extendedRequest(self, name: bytes, data: bytes) -> Any:
        if name != b"posix-rename@openssh.com" or not self.avatar.renames:
            raise NotImplementedError
        old, rest = getNS(data)
        new, _ = getNS(rest)
        Path(self._absPath(old)).replace(self._absPath(new))
        return b""


registerAdapter(Files, Avatar, ISFTPServer)
registerAdapter(lambda avatar: avatar, Avatar, ISession)


@implementer(IRealm)
class Realm:
    def __init__(self, root: Path, *, renames: bool) -> None:
        self._root, self._renames = root, renames

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:  # noqa: N803
        return interfaces[0], Avatar(self._root, renames=self._renames), lambda: None


class SftpServer:
    """A started server on loopback; ``client_key`` and ``known_hosts`` are files that let one in."""

    def __init__(self, folder: Path, *, renames: bool = True) -> None:
        self.root = folder / "served"
        self.root.mkdir(parents=True)
        host, client = Key(ed25519.Ed25519PrivateKey.generate()), Key(ed25519.Ed25519PrivateKey.generate())
        self.client_key = folder / "client"
        self.client_key.write_bytes(client.toString("openssh"))
        self.client_key.chmod(0o600)
        factory = SSHFactory()
        factory.publicKeys = {b"ssh-ed25519": host.public()}
        factory.privateKeys = {b"ssh-ed25519": host}
        checker = SSHPublicKeyChecker(InMemorySSHKeyDB({USER.encode(): [client.public()]}))
        factory.portal = Portal(Realm(self.root, renames=renames), [checker])
        self._port = blockingCallFromThread(reactor, reactor.listenTCP, 0, factory, 50, "127.0.0.1")
        self.port = self._port.getHost().port
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host.public().toString('openssh').decode()}\n")

    def discard(self) -> None:
        blockingCallFromThread(reactor, self._port.stopListening)
