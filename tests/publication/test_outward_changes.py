"""Publishing to a slapd: people's own SignedData beside their certificates, and a clock that is set back."""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.store.certificates import RevocationReason
from tests.protocols.addressbook.support import enrolled
from tests.publication.test_outward import ALICE, ORDER, Outside, outside, secret, which
from tests.support.outward import announce, deliver
from tests.support.slapd import SUFFIX, Slapd

__all__ = ["secret"]


async def test_what_people_signed_themselves_is_brought_too(tmp_path: Path, slapd: Slapd) -> None:
    """And taken away with its certificate; what others wrote there stays."""
    key = ec.generate_private_key(ec.SECP256R1())
    attribute = "userSMIMECertificate"

    def signed(at: Outside) -> set[bytes]:
        shown = at.slapd.search(f"uid=alice,ou=people,{SUFFIX}", attribute)
        return {base64.b64decode(one) for one in re.findall(rf"^{attribute}:: (.*)$", shown, re.MULTILINE)}

    async with outside(tmp_path, slapd, more=f'smime_attribute = "{attribute}"') as at:
        theirs = b"\x30\x03\x02\x01\x07"
        text = base64.b64encode(theirs).decode()
        slapd.load(f"dn: uid=alice,ou=people,{SUFFIX}\nchangetype: modify\nadd: {attribute}\n{attribute}:: {text}\n")
        issued = await enrolled(at.engine, "Alice", ALICE, key=key)
        message = await announce(at.engine, ALICE[0], issued.der, key)
        assert await at.settled() == {issued.der}
        assert signed(at) == {theirs, message}
        await at.engine.status.revocations.revoke(which(issued.der), RevocationReason.SUPERSEDED, ORDER)
        assert await at.settled() == set()
        assert signed(at) == {theirs}


async def test_a_clock_that_is_set_back_does_not_prolong_a_pause(tmp_path: Path, slapd: Slapd) -> None:
    async with outside(tmp_path, slapd) as at:
        issued = await enrolled(at.engine, "Alice", ALICE)
        assert await at.settled() == {issued.der}
        at.clock.advance(timedelta(hours=1))
        slapd.stop()
        await at.engine.status.revocations.revoke(which(issued.der), RevocationReason.SUPERSEDED, ORDER)
        (standing,) = await deliver(at.engine)
        assert standing.attempts == 1
        slapd.start()
        at.clock.step(-timedelta(minutes=30))
        assert await at.settled() == set()
