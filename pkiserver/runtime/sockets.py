"""Listening sockets: bound here, taken over from systemd, or inherited from the parent process."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs
from twisted.python.systemd import ListenFDs

from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.runtime.endpoints import Endpoint, EndpointKind

BACKLOG = 1024


@attrs.frozen(eq=False)
class BoundSocket:
    """A listening socket of a named listener."""

    listener: str
    """``http``, ``https`` or ``management``."""
    socket: socket.socket
    path: Path | None = None
    """Of a UNIX socket that was bound here: to be removed in the end."""

    @property
    def place(self) -> str:
        """Where it listens, in words."""
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{name}"
        return f"[{name[0]}]:{name[1]}" if self.socket.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"

    @property
    def is_public(self) -> bool:
        """Whether other machines can reach it."""
        return (
            self.socket.family != socket.AF_UNIX and not ipaddress.ip_address(self.socket.getsockname()[0]).is_loopback
        )


def systemd_sockets() -> dict[str, list[int]]:
    """The descriptors that systemd handed over to this process, by name.

    A ``.socket`` unit with several ListenStream= lines gives several descriptors of one name.
    """
    names = os.environ.get("LISTEN_FDNAMES", "")
    found: dict[str, list[int]] = {}
    for name, descriptor in zip(names.split(":"), _systemd_descriptors(), strict=False):
        os.set_inheritable(descriptor, False)
        found.setdefault(name, []).append(descriptor)
    return found


def _systemd_descriptors() -> list[int]:
    # Twisted reads LISTEN_PID and LISTEN_FDS when its endpoints are imported, which twistd does before we run, and
    # deletes them. Its own named look-up gives one descriptor a name, hence not the public "systemd:" endpoint.
    from twisted.internet import endpoints

    daemon: ListenFDs = endpoints._SystemdParser._sddaemon  # noqa: SLF001
    return daemon.inheritedDescriptors()


def bind_all(wanted: Mapping[str, Iterable[Endpoint]]) -> list[BoundSocket]:
    """Bind every endpoint of every listener; all or none.

    Args:
        wanted: Listener name to its endpoints.

    Raises:
        Rejected: CONFIGURATION, one reason for each endpoint that cannot be had; nothing stays bound then.
    """
    given = systemd_sockets()
    bound: list[BoundSocket] = []
    reasons = []
    for listener, endpoints in wanted.items():
        for endpoint in endpoints:
            try:
                path = Path(endpoint.host) if endpoint.kind is EndpointKind.UNIX else None
                bound.extend(BoundSocket(listener, one, path) for one in _open(endpoint, given))
            except OSError as error:
                reasons.append(f"{listener}: {endpoint}: {error.strerror or error}")
    if reasons:
        for one in bound:
            one.socket.close()
        raise Rejected(Reason(Refusal.CONFIGURATION, f"cannot listen: {text}") for text in reasons)
    return bound


def require_private(bound: Iterable[BoundSocket], *, unless: str) -> None:
    """Refuse sockets that other machines can reach, as those can be that systemd hands over.

    Args:
        bound: Sockets of a listener that asks nobody who they are.
        unless: The setting that allows it.

    Raises:
        Rejected: CONFIGURATION, one reason for each such socket; it is closed then.
    """
    public = [one for one in bound if one.is_public]
    reasons = [
        Reason(
            Refusal.CONFIGURATION,
            f"cannot listen: {one.listener}: {one.place} can be reached from outside (allowed: loopback, or {unless})",
        )
        for one in public
    ]
    for one in public:
        one.socket.close()
    if reasons:
        raise Rejected(reasons)


def _open(endpoint: Endpoint, given: Mapping[str, list[int]]) -> list[socket.socket]:
    if endpoint.kind is EndpointKind.SYSTEMD:
        if endpoint.host not in given:
            raise OSError(f"systemd hands over no socket of this name (it gives: {', '.join(given) or 'none'})")
        sockets = [socket.socket(fileno=descriptor) for descriptor in given[endpoint.host]]
        for one in sockets:
            one.setblocking(False)
        return sockets
    if endpoint.kind is EndpointKind.UNIX:
        return [bind_unix(endpoint.host, mode=0o660)]
    return [_bind_tcp(endpoint)]


def _bind_tcp(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Each address is listed by itself: [::]:80 must not take 0.0.0.0:80 as well.
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((endpoint.host, endpoint.port))
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return one


def bind_unix(path: str, *, mode: int) -> socket.socket:
    """Listen on a UNIX socket; a socket that nobody answers any more is replaced.

    Raises:
        OSError: it cannot be, or somebody answers there.
    """
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if _is_stale(path):
            Path(path).unlink()
        old = os.umask(0o777 & ~mode)
        try:
            one.bind(path)
        finally:
            os.umask(old)
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return one


def _is_stale(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
