"""What a device meets whose certificate was being made by a process that died."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from twisted.internet.defer import Deferred

from pkiserver.authority.recover import LEASE, Recovery, Settled
from pkiserver.foundation.errors import Unavailable
from pkiserver.keys.signers import CertificateSigner
from pkiserver.registration.release import release
from tests.protocols.scep.device import CERT_POLL, PENDING
from tests.protocols.scep.support import World
from tests.support.clock import FakeClock


def test_a_poll_brings_what_officers_agreed_to_though_the_process_that_made_it_died(
    scep: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, gate = scep.device("orphan", at="approved"), Deferred[None]()
    assert device.enroll().status == PENDING
    (request,) = [one for one in scep.one(scep.engine.approvals.list_page()) if one.template == "approved"]
    scep.one(scep.engine.approvals.decide(request.id, approved=True, by="officer"))
    poll = device.message(CERT_POLL, device.envelope(b"\x30\x00"))
    signing: list[bytes] = []

    async def never(_signer: CertificateSigner, tbs: bytes, *_more: object) -> bytes:
        signing.append(tbs)
        await gate
        raise Unavailable("the process is dead")

    async def go_on() -> None:
        gate.callback(None)

    later = FakeClock(scep.engine.clock.now() + LEASE + timedelta(seconds=1))
    other = Recovery(
        database=scep.engine.database, audit=scep.engine.audit, clock=later, holder="other", released=release
    )
    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patched:
        patched.setattr(CertificateSigner, "sign", never)
        first = pool.submit(device.post, poll)
        while not signing:
            time.sleep(0.05)
        assert scep.one(other.settle()) == Settled(kept=1)
        patched.undo()  # what has not come back yet is as good as dead
        answer = device.read(device.post(poll))
        scep.run(go_on)
        late = device.read(first.result())  # should it come back all the same
    (made,) = device.certificates(answer)
    assert made.subject.rfc4514_string() == "CN=orphan"
    assert device.certificates(device.read(device.post(poll))) == device.certificates(late) == [made]
