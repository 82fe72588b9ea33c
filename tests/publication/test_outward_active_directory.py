"""Publishing to Active Directory: a real domain controller takes certificates without ``;binary``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.authority.revocation import Order
from pkiserver.authority.status.turns import Turns
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.publication.outward.comparing import DirectoryComparison
from pkiserver.publication.outward.settings import load_directory
from pkiserver.store.certificates import RevocationReason
from tests.protocols.addressbook.support import TEMPLATES, enrolled
from tests.publication.test_outward import add_directory, which
from tests.support.clock import FakeClock
from tests.support.engines import engine_with
from tests.support.outward import announce, deliver
from tests.support.samba import PEOPLE, REALM, SERVICE_PASSWORD, USER_CLASS, DomainController

ORDER = Order(actor="test", approved_by=None, comment="")
KIM = f"CN=Kim,{PEOPLE}"


def directory_text(controller: DomainController, more: str = "active_directory = true") -> str:
    return f"""
kind = "directory"
name = "domain"
servers = ["{controller.ldaps}"]
base = "{PEOPLE}"
bind_name = "pki@{REALM}"
bind_password = "env:AD_SERVICE"
filter = "(|(mail=$(mail))(proxyAddresses=smtp:$(mail)))"
mail_attributes = ["mail", "proxyAddresses"]
{more}
[tls]
trust = '''{controller.ca.pem}'''
"""


async def test_entries_of_active_directory_follow(
    domain_controller: DomainController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AD_SERVICE", SERVICE_PASSWORD)
    domain_controller.allow(PEOPLE, "OA;CIIO;RPWP;e16a9db2-403c-11d1-a9c0-0000f80367c1;" + USER_CLASS)
    clock = FakeClock(SystemClock().now())

    def held() -> set[bytes]:
        return domain_controller.values(KIM, "userCertificate")

    async with engine_with(tmp_path, TEMPLATES, clock=clock) as engine:
        more = 'active_directory = true\nsmime_attribute = "userSMIMECertificate"'
        await add_directory(engine, directory_text(domain_controller, more), "domain")

        async def settled() -> set[bytes]:
            clock.advance(timedelta(minutes=2))
            (standing,) = await deliver(engine)
            assert (standing.waiting, standing.problem) == (0, None)
            return held()

        first = await enrolled(engine, "Kim", ("kim@example.org",))
        assert await settled() == {first.der}
        key = ec.generate_private_key(ec.SECP256R1())
        newer = await enrolled(engine, "Kim", ("kim@example.org",), key=key)
        assert await settled() == {newer.der}, "the older one is taken away"
        domain_controller.modify(KIM, "delete: userCertificate")
        comparison = DirectoryComparison(engine.directories.get("domain"), engine.database, seen=lambda _progress: None)
        assert [one.dn.casefold() async for one in comparison.differences()] == [KIM.casefold()]
        assert [one async for one in comparison.resync(Turns(engine.database, clock, "test"))] == []
        assert held() == {newer.der}
        message = await announce(engine, "kim@example.org", newer.der, key)
        await settled()
        assert domain_controller.values(KIM, "userSMIMECertificate") == {message}
        for one in (first, newer):
            await engine.status.revocations.revoke(which(one.der), RevocationReason.SUPERSEDED, ORDER)
        assert await settled() == set()
        assert domain_controller.values(KIM, "userSMIMECertificate") == set()


def test_an_option_does_not_go_with_active_directory(domain_controller: DomainController) -> None:
    text = directory_text(domain_controller)
    assert load_directory(text, "domain.toml").user_certificate == "userCertificate"
    assert load_directory(directory_text(domain_controller, ""), "d").user_certificate.endswith(";binary")
    with pytest.raises(ConfigurationError, match="takes none"):
        load_directory(directory_text(domain_controller, 'active_directory = true\nsmime_attribute = "a;binary"'), "d")
