"""The LDAP connector against a real Active Directory domain controller: who is shown, who is not, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.connectors.ldap import LdapConnector
from pkiserver.registration.connectors.values import Denied, Shown, Step
from tests.registration.connectors.domain import (
    IN_CHAIN,
    MAIL,
    NESTED,
    RIGHT,
    SERVICE,
    TEMPLATE,
    WAYS,
    WRONG,
    at,
    denied,
    made,
)
from tests.support.ports import free_port
from tests.support.samba import GROUPS, GUESSES, PEOPLE, REALM, SERVICE_PASSWORD, SUFFIX, DomainController
from tests.support.tlsfiles import TestCa

Adding = Callable[..., str]


@pytest.fixture(autouse=True)
def service_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AD_SERVICE", SERVICE_PASSWORD)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("tables", [IN_CHAIN, NESTED])
async def test_somebody_with_nested_groups_and_filtered_attributes(
    domain_controller: DomainController, how: str, tables: str
) -> None:
    shown = await at(domain_controller, how, MAIL + tables).authenticate("alice", RIGHT)
    assert isinstance(shown, Shown)
    assert shown.groups >= {"Engineers", "Staff", "Certificates"}
    assert shown.attributes == (("mail", "alice@example.org"), ("display_name", "Alice Example"))
    assert shown.notes == ()


@pytest.mark.parametrize("how", WAYS)
async def test_a_required_group_may_be_reached_through_others(domain_controller: DomainController, how: str) -> None:
    required = f'required = ["cn=certificates, {GROUPS}"]'
    assert isinstance(await at(domain_controller, how, IN_CHAIN + required).authenticate("alice", RIGHT), Shown)
    outside = await denied(at(domain_controller, how, IN_CHAIN + required), "bob", RIGHT)
    assert (outside.step, outside.proved) == (Step.GROUP, True)
    direct = f"[ldap.groups]\n{required}"
    assert (await denied(at(domain_controller, how, direct), "alice", RIGHT)).step is Step.GROUP
    # nobody learns about groups who has not the password
    assert not (await denied(at(domain_controller, how, IN_CHAIN + required), "bob", WRONG)).proved


@pytest.mark.parametrize("tables", ["", "[ldap.groups]\n", IN_CHAIN, NESTED])
async def test_the_primary_group_counts_though_it_lists_nobody(
    domain_controller: DomainController, tables: str
) -> None:
    _primary(domain_controller, f"CN=Kim,{PEOPLE}", f"CN=Staff,{GROUPS}")
    shown = await at(domain_controller, SERVICE, tables).authenticate("kim", RIGHT)
    assert isinstance(shown, Shown)
    assert "Staff" in shown.groups
    # the group that the primary group is in
    assert ("Certificates" in shown.groups) is bool("base" in tables)
    bob = await at(domain_controller, SERVICE, tables).authenticate("bob", RIGHT)
    assert isinstance(bob, Shown)
    # Domain Users is not below the base of the search for groups in one of them
    assert ("Domain Users" in bob.groups) is (tables != IN_CHAIN)


def _primary(controller: DomainController, dn: str, group: str) -> None:
    """Make a group somebody's primary one; the domain controller takes the ``member`` away."""
    (sid,) = controller.values(group, "objectSid")
    rid = str(int.from_bytes(sid[-4:], "little"))
    if controller.values(dn, "primaryGroupID") != {rid.encode()}:
        controller.modify(group, "add: member", f"member: {dn}")
        controller.modify(dn, "replace: primaryGroupID", f"primaryGroupID: {rid}")
    assert dn.encode() not in controller.values(group, "member")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    ("name", "password", "step"),
    [
        ("alice", WRONG, Step.PASSWORD),
        ("alice", Secret(""), Step.PASSWORD),
        ("nobody", RIGHT, Step.USER),
        ("*", RIGHT, Step.USER),
        ("alice)(objectClass=*", RIGHT, Step.USER),
        ("bob", RIGHT, Step.ATTRIBUTE),
    ],
)
async def test_why_nobody_is_shown_is_told_by_step(
    domain_controller: DomainController, how: str, name: str, password: Secret, step: Step
) -> None:
    found = await denied(at(domain_controller, how, MAIL), name, password)
    # who is bound by a template first is not told apart from a wrong password, by the directory either
    assert found.step in ({step, Step.PASSWORD} if step is Step.USER and "bind_name" in how else {step})


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("state", ["disabled", "locked", "left", "must-change", "expired"])
async def test_states_of_an_account_are_told_apart(
    domain_controller: DomainController, account: Adding, how: str, state: str
) -> None:
    name = account(state)
    connector = at(domain_controller, how)
    right = await denied(connector, name, RIGHT)
    step, text = {
        "disabled": (Step.PASSWORD, "the account is disabled"),
        "locked": (Step.PASSWORD, "the account is locked"),
        "left": (Step.PASSWORD, "the account has expired"),
        "must-change": (Step.EXPIRED, "the password must be changed before it can be used"),
        "expired": (Step.EXPIRED, "the password has expired"),
    }[state]
    assert (right.step, right.text, right.proved) == (step, text, step is Step.EXPIRED)
    # and only who has the password learns that it has expired
    wrong = await denied(connector, name, WRONG)
    assert (wrong.step, wrong.proved) == (Step.PASSWORD, False)


@pytest.fixture(scope="session")
def account(domain_controller: DomainController) -> Adding:
    """Adds somebody whose account is in a state."""
    made: dict[str, str] = {}

    def add(state: str) -> str:
        if state in made:
            return made[state]
        name = made[state] = f"{state}-one"
        control = 514 if state == "disabled" else 512
        more = {"left": "accountExpires: 131000000000000000", "must-change": "pwdLastSet: 0"}.get(state, "")
        dn = domain_controller.person(name, control=control, more=more)
        if state == "expired":
            domain_controller.let_expire(dn)
        elif state == "expiring":
            policy(domain_controller, dn)
        elif state == "locked":
            for _ in range(GUESSES):
                assert not domain_controller.binds(f"{name}@{REALM}", "a wrong guess")
        return name

    return add


async def test_who_is_bound_by_a_name_is_nobody_else_whom_the_filter_finds(domain_controller: DomainController) -> None:
    """Where user principal names end in another domain than Active Directory's own, they are free to be chosen."""
    other, bind_name = "Mallory-Knows-This-1", 'bind_name = "$(userid)@example.org"\n'
    for name, principal in (("victim", "victoria"), ("mallory", "victim")):
        dn = domain_controller.person(name, password=other if name == "mallory" else "Another-Long-Secret-1")
        domain_controller.modify(dn, "replace: userPrincipalName", f"userPrincipalName: {principal}@example.org")
    assert domain_controller.binds("victim@example.org", other)
    by_principal = "(&(objectClass=user)(userPrincipalName=$(userid)@example.org))"
    for how in (bind_name, bind_name + SERVICE):
        wrong = await denied(at(domain_controller, how, IN_CHAIN), "victim", Secret(other))
        assert (wrong.step, wrong.proved) == (Step.PASSWORD, False)
        assert "CN=Victim" in wrong.text
        shown = await at(domain_controller, how, IN_CHAIN, by_principal).authenticate("victim", Secret(other))
        assert isinstance(shown, Shown), shown


def policy(controller: DomainController, dn: str) -> None:
    """A fine-grained password policy for one account: a password is good for five days and an hour (in 100 ns)."""
    age = (5 * 86400 + 3600) * 10_000_000
    controller.load(f"""dn: CN=five days,CN=Password Settings Container,CN=System,{SUFFIX}
objectClass: msDS-PasswordSettings
msDS-PasswordSettingsPrecedence: 1
msDS-PasswordReversibleEncryptionEnabled: FALSE
msDS-PasswordHistoryLength: 0
msDS-PasswordComplexityEnabled: FALSE
msDS-MinimumPasswordLength: 0
msDS-MinimumPasswordAge: 0
msDS-MaximumPasswordAge: -{age}
msDS-LockoutThreshold: 0
msDS-LockoutObservationWindow: -600000000
msDS-LockoutDuration: -600000000
msDS-PSOAppliesTo: {dn}
""")


@pytest.mark.parametrize("how", WAYS)
async def test_a_password_that_ends_soon_is_mentioned(
    domain_controller: DomainController, account: Adding, how: str
) -> None:
    name = account("expiring")
    shown = await at(domain_controller, how).authenticate(name, RIGHT)
    assert isinstance(shown, Shown)
    assert shown.notes == ("the password expires in 5 days",)


async def test_a_disabled_account_is_found_by_renewals_unless_the_filter_leaves_it_out(
    domain_controller: DomainController, account: Adding
) -> None:
    name = account("disabled")
    assert isinstance(await at(domain_controller).lookup(name), Shown)
    enabled = "(&(sAMAccountName=$(userid))(!(userAccountControl:1.2.840.113556.1.4.803:=2)))"
    connector = at(domain_controller, SERVICE, user_filter=enabled)
    assert isinstance(await connector.lookup("alice"), Shown)
    gone = await connector.lookup(name)
    assert isinstance(gone, Denied)
    assert gone.step is Step.USER


@pytest.mark.parametrize("how", WAYS)
async def test_a_global_catalog_knows_users_groups_and_attributes(
    domain_controller: DomainController, how: str
) -> None:
    _primary(domain_controller, f"CN=Kim,{PEOPLE}", f"CN=Staff,{GROUPS}")
    tables = MAIL.replace('from = "displayName"', 'from = "dn"') + NESTED
    servers, trust = f'"{domain_controller.catalog}"', domain_controller.ca.pem
    for name in ("alice", "kim"):
        shown = await made(servers, trust, how, tables).authenticate(name, RIGHT)
        assert isinstance(shown, Shown)
        assert shown.groups >= {"Staff", "Certificates"}
        assert ("mail", f"{name}@example.org") in shown.attributes
    assert (await denied(made(servers, trust, how), "alice", WRONG)).step is Step.PASSWORD


async def test_several_servers_in_their_order(domain_controller: DomainController) -> None:
    dead = f"ldaps://127.0.0.1:{free_port()}"
    connector = made(f'"{dead}", "{domain_controller.ldaps}"', domain_controller.ca.pem)
    assert isinstance(await connector.authenticate("alice", RIGHT), Shown)
    assert [one.step for one in await connector.check("alice", RIGHT)] == [Step.CONNECT, Step.FINE]


async def test_start_tls_and_nothing_in_the_clear(domain_controller: DomainController) -> None:
    servers, trust = f'"{domain_controller.ldap}"', domain_controller.ca.pem
    over = made(servers, trust, f"{SERVICE}start_tls = true\n")
    assert isinstance(await over.authenticate("alice", RIGHT), Shown)
    # a domain controller wants TLS before a password: that says nothing about the password
    for how in (SERVICE, TEMPLATE):
        plain = made(servers, None, f"{how}insecure = true\n")
        with pytest.raises(Unavailable, match="stronger authentication required"):
            await plain.authenticate("alice", RIGHT)
        with pytest.raises(Unavailable, match="stronger authentication required"):
            await plain.change_password("alice", RIGHT, WRONG)


async def test_what_a_check_tells_apart(
    domain_controller: DomainController, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(connector: LdapConnector, name: str | None = None, password: Secret | None = None) -> Step:
        return (await connector.check(name, password))[-1].step

    trust = domain_controller.ca.pem
    required = IN_CHAIN + f'required = ["CN=Certificates,{GROUPS}"]'
    assert await found(made('"ldaps://no.such.host.invalid"', trust)) is Step.RESOLVE
    assert await found(made(f'"ldaps://127.0.0.1:{free_port()}"', trust)) is Step.CONNECT
    other = TestCa(tmp_path_factory.mktemp("ca"), "Another CA")
    assert await found(made(f'"{domain_controller.ldaps}"', other.pem)) is Step.TLS
    assert await found(at(domain_controller)) is Step.FINE
    assert await found(at(domain_controller), "nobody") is Step.USER
    assert await found(at(domain_controller, SERVICE, required), "bob") is Step.GROUP
    assert await found(at(domain_controller, SERVICE, MAIL), "bob") is Step.ATTRIBUTE
    assert await found(at(domain_controller, SERVICE, MAIL + required), "alice") is Step.FINE
    assert await found(at(domain_controller), "alice", WRONG) is Step.PASSWORD
    assert await found(at(domain_controller), "alice", RIGHT) is Step.FINE
    # without a service account nobody may search, unless bound as the user
    (alone,) = await at(domain_controller, TEMPLATE).check("alice", None)
    assert alone.step is Step.BIND
    assert "without a service account" in alone.text
    assert await found(at(domain_controller, TEMPLATE), "alice", RIGHT) is Step.FINE
    plain = made(f'"{domain_controller.ldap}"', None, f"{TEMPLATE}insecure = true\n")
    assert await found(plain, "alice", RIGHT) is Step.ANSWER
    monkeypatch.setenv("AD_SERVICE", "wrong")
    assert await found(at(domain_controller)) is Step.BIND
