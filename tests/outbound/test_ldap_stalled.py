"""A directory server that stops reading in the middle of a change."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from datetime import timedelta

import pytest
from twisted.internet.threads import deferToThread

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.secret import Secret
from pkiserver.outbound.addresses import LdapServer, Timeouts
from pkiserver.outbound.dial import Servers, within
from pkiserver.outbound.ldap import LdapService, opened
from pkiserver.outbound.ldapwire import Change, ChangeKind
from pkiserver.outbound.problems import OutboundError, Trouble

BOUND = bytes.fromhex("300c02010161070a010004000400")
"""Message 1: a BindResponse that says success (RFC 4511 section 4.2.2)."""
LONG = bytes(32 << 20)


@pytest.mark.parametrize("seconds", [0.2, 20], ids=["given up from outside", "its own time is over"])
async def test_what_it_did_not_take_is_given_up_with_the_connection(seconds: float) -> None:
    """Else it would lie in memory for as long as the other end pleases, once for each try."""
    go_on = threading.Event()
    taken = []

    def serve() -> None:
        connection, _ = listening.accept()
        with closing(connection):
            connection.recv(65536)
            connection.sendall(BOUND)
            go_on.wait(60)
            connection.settimeout(10)
            taken.append(0)
            try:
                while piece := connection.recv(1 << 20):
                    taken[0] += len(piece)
            except ConnectionResetError:
                return

    async def change() -> None:
        timeouts = Timeouts(connect=timedelta(seconds=5), answer=timedelta(seconds=0.2 if seconds > 1 else 20))
        server = LdapServer.parse(f"ldap://127.0.0.1:{listening.getsockname()[1]}")
        service = LdapService((server,), trust=None, timeouts=timeouts)
        async with opened(service, Servers(SystemClock())) as connection:
            await connection.bind("cn=us", Secret(b"secret"))
            await connection.modify("cn=list", (Change(ChangeKind.REPLACE, "list", (LONG,)),))

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(OutboundError):
            await within(change(), seconds, lambda: OutboundError(Trouble.SILENT, "it", "takes too long"))
        go_on.set()
        await deferToThread(thread.join)
    assert taken[0] < len(LONG)
