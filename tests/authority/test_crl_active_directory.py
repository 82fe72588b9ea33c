"""CRLs brought to Active Directory: a real domain controller, whose schema takes the attributes without an option."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pkiserver.authority.delivery.service import TargetDeliveries
from pkiserver.authority.delivery.settings import LdapTarget
from pkiserver.authority.status.points import DeltaPolicy, Point
from pkiserver.authority.status.turns import Turns
from pkiserver.store.authority.crls import Covers, CrlKind
from tests.authority.crl_world import MINUTE, configure, published
from tests.authority.status_world import StatusWorld
from tests.support.samba import REALM, SERVICE_PASSWORD, SUFFIX, DomainController

PARENT = f"CN=pkiserver,CN=CDP,CN=Public Key Services,CN=Services,CN=Configuration,{SUFFIX}"
RIGHTS = ("A;CI;CCLCRPWP;;",)
"""As docs/protocols/crl.md tells to delegate them: create children, list them, read and write their attributes."""


@pytest.fixture(scope="module")
def container(domain_controller: DomainController) -> DomainController:
    """Beside those of Microsoft's own CAs, for an account that may write there and nowhere else."""
    domain_controller.load(f"dn: {PARENT}\nobjectClass: container\n")
    domain_controller.allow(PARENT, *RIGHTS)
    return domain_controller


async def test_lists_are_where_windows_looks_for_them(
    at: StatusWorld, container: DomainController, tmp_path: Path
) -> None:
    await configure(
        at,
        delta=DeltaPolicy(interval=10 * MINUTE, validity=40 * MINUTE),
        points=(Point(), Point(covers=Covers.AUTHORITIES)),
    )
    await at.status.schedule.run_due()
    password = tmp_path / "password"
    password.write_text(SERVICE_PASSWORD)

    def to(*, active_directory: bool) -> TargetDeliveries:
        target = LdapTarget(
            name="domain",
            authorities=("issuing",),
            ldap=(container.ldaps,),
            entry=f"CN={{name}},{PARENT}",
            bind_dn=f"pki@{REALM}",
            password_source=f"file:{password}",
            trust=container.ca.file,
            active_directory=active_directory,
        )
        world = at.world
        turns = Turns(world.database, at.clock, "test")
        return TargetDeliveries(
            target,
            node="ca1",
            database=world.database,
            authorities=world.road.authorities,
            turns=turns,
            clock=at.clock,
        )

    def held(name: str, attribute: str) -> set[bytes]:
        return container.values(f"CN={name},{PARENT}", attribute)

    without = to(active_directory=False)
    await without.run_due()
    assert without.standing.problem is not None, "this schema knows no options"
    at.clock.advance(MINUTE)
    delivery = to(active_directory=True)
    for _ in range(2):  # entries that are new, entries that are there
        assert await delivery.run_due() == 4, delivery.standing.problem
        assert delivery.standing.problem is None
        for path in ("issuing-1", "issuing-1/authorities"):
            name = path.replace("/", ".")
            kind = "certificate" if name == "issuing-1" else "authority"
            assert held(name, f"{kind}RevocationList") == {await published(at, path)}
            assert held(name, "deltaRevocationList") == {await published(at, path, CrlKind.DELTA)}
        at.clock.advance(timedelta(hours=1))
        await at.status.schedule.run_due()
