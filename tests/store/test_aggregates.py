"""The smaller tables: what is recorded is found, what may happen once happens once, rivals are told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import attrs
import pytest
from sqlalchemy import Connection
from twisted.internet.defer import ensureDeferred

from pkiserver.foundation.errors import Defect, Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.store import leases, secrets
from pkiserver.store.authority import authorities, crls, keys, templates
from pkiserver.store.authority.authorities import AuthorityRow, GenerationState
from pkiserver.store.authority.crls import Crl, CrlKind
from pkiserver.store.certificates import blocked_keys
from pkiserver.store.names import San, SanKind
from pkiserver.store.outbox import Feed, current
from pkiserver.store.registration import accounts, codes, requests
from pkiserver.store.registration.requests import NewRequest, RequestState
from tests.support.stored import NOW, opened

HOUR = timedelta(hours=1)


async def test_a_key_is_registered_once_and_deleted_once(url: str) -> None:
    key = keys.SigningKey("root", "pkcs11:object=root", b"spki", frozenset({"certificate", "crl"}), NOW)
    async with opened(url) as database:
        await database.write(lambda c: keys.insert_key(c, key))
        assert await database.read(lambda c: keys.get(c, "root")) == key
        assert await database.read(keys.list_all) == (key,)
        with pytest.raises(Rejected, match="'root' exists already"):
            await database.write(lambda c: keys.insert_key(c, key))
        assert await database.write(lambda c: keys.delete_key(c, "root"))
        assert not await database.write(lambda c: keys.delete_key(c, "root"))
        assert await database.read(lambda c: current(c, Feed.CONFIGURATION)) == 2


async def test_authorities_of_one_name_share_an_issuer(url: str) -> None:
    async with opened(url) as database:

        def create(connection: Connection) -> authorities.Generation:
            first = authorities.issuer_for(connection, b"dn", "CN=CA", now=NOW)
            assert authorities.issuer_for(connection, b"dn", "CN=CA", now=NOW) == first
            assert authorities.get_issuer(connection, first.id) == first
            authorities.insert_authority(connection, AuthorityRow("ca", first.id, "x = 1", "active", NOW))
            return authorities.add_generation(
                connection,
                authority_name="ca",
                certificate=None,
                key_name="k",
                chain=(b"up", b"top"),
                ski=None,
                state=GenerationState.PENDING,
                now=NOW,
            )

        made = await database.write(create)
        assert (made.number, made.chain) == (1, (b"up", b"top"))
        active = attrs.evolve(made, certificate=b"der", ski=b"s", state=GenerationState.ACTIVE, crl_path="/crl/ca.crl")
        await database.write(lambda c: authorities.update_generation(c, active))
        await database.write(lambda c: authorities.update_authority(c, "ca", config="x = 2", state="retired"))
        assert active in await database.read(authorities.generations)
        assert await database.read(lambda c: authorities.generations(c, "ca")) == (active,)
        assert await database.read(lambda c: authorities.generations_using_key(c, "k")) == (active,)
        found = await database.read(authorities.list_all)
        assert [(one.name, one.config, one.state) for one in found] == [("ca", "x = 2", "retired")]
        for change in (
            lambda c: authorities.update_authority(c, "no", config="", state=""),
            lambda c: authorities.update_generation(c, attrs.evolve(active, id=99)),
        ):
            with pytest.raises(Rejected) as refused:
                await database.write(change)
            assert refused.value.has(Refusal.UNKNOWN_AUTHORITY)


async def test_a_template_changed_meanwhile_is_not_overwritten(url: str) -> None:
    async with opened(url) as database:
        await database.write(lambda c: templates.put(c, "t", "a = 1", now=NOW, expected=None))
        await database.write(lambda c: templates.put(c, "t", "a = 2", now=NOW, expected=1))
        for change in (
            lambda c: templates.put(c, "t", "a = 3", now=NOW, expected=None),
            lambda c: templates.put(c, "t", "a = 3", now=NOW, expected=1),
            lambda c: templates.remove(c, "t", expected=1),
        ):
            with pytest.raises(Rejected) as refused:
                await database.write(change)
            assert refused.value.has(Refusal.CONFLICT)
        await database.write(lambda c: templates.put(c, "t", "other kind", now=NOW, expected=None, kind="connector"))
        found = await database.read(lambda c: templates.get(c, "t"))
        assert found is not None
        assert (found.toml, found.revision) == ("a = 2", 2)
        assert await database.read(templates.list_kinds) == ("connector", "template")
        await database.write(lambda c: templates.remove(c, "t", expected=2))
        assert await database.read(templates.list_all) == ()


async def test_crl_numbers_rise_whoever_takes_them(url: str) -> None:
    def prepare(connection: Connection) -> crls.CrlScope:
        issuer = authorities.issuer_for(connection, b"dn", "CN=CA", now=NOW)
        authorities.insert_authority(connection, AuthorityRow("ca", issuer.id, "", "active", NOW))
        generation = authorities.add_generation(
            connection,
            authority_name="ca",
            certificate=b"c",
            key_name="k",
            chain=(),
            ski=None,
            state=GenerationState.ACTIVE,
            now=NOW,
        )
        scope = crls.scope_for(connection, issuer.id, generation.id)
        assert crls.scope_for(connection, issuer.id, generation.id) == scope
        return scope

    async with opened(url) as one, opened(url) as two:
        scope = await one.write(prepare)
        taken = [ensureDeferred((one, two)[n % 2].write(lambda c: crls.next_number(c, scope.id))) for n in range(20)]
        assert sorted([await number for number in taken]) == list(range(1, 21))
        await one.write(lambda c: crls.raise_number(c, scope.id, 100))
        await one.write(lambda c: crls.raise_number(c, scope.id, 50))
        assert await two.write(lambda c: crls.next_number(c, scope.id)) == 101

        made = [Crl(scope.id, CrlKind.COMPLETE, n, None, NOW, NOW + n * HOUR, b"crl", 0, 0) for n in (1, 2, 3)]
        for crl in made:
            await one.write(lambda c, crl=crl: crls.store(c, crl))
        with pytest.raises(Rejected):
            await one.write(lambda c: crls.store(c, made[0]))
        with pytest.raises(Defect):
            await one.write(lambda c: crls.store(c, attrs.evolve(made[0], number=200)))
        assert await two.read(lambda c: crls.latest(c, scope.id)) == made[2]
        assert await two.read(lambda c: crls.latest_number(c, scope.id)) == 3
        assert await two.read(lambda c: crls.latest(c, scope.id, CrlKind.DELTA)) is None
        assert await one.write(lambda c: crls.forget_before(c, scope.id, NOW + 10 * HOUR)) == 2
        assert await two.read(lambda c: crls.get(c, scope.id, 1)) is None
        assert await two.read(lambda c: crls.get(c, scope.id, 3)) == made[2]


async def test_an_account_is_kept_changed_and_deleted(url: str) -> None:
    account = accounts.Account("alice", "$argon2id$old", frozenset({"a", "ü"}), (("mail", "a@b"),), False, NOW)
    async with opened(url) as database:
        await database.write(lambda c: accounts.insert_account(c, account))
        with pytest.raises(Rejected):
            await database.write(lambda c: accounts.insert_account(c, account))
        assert "argon2" not in repr(await database.read(lambda c: accounts.get(c, "alice")))
        assert await database.read(lambda c: accounts.get(c, "alice")) == account
        assert await database.write(lambda c: accounts.replace_hash(c, "alice", old="$argon2id$old", new="new"))
        assert not await database.write(lambda c: accounts.replace_hash(c, "alice", old="$argon2id$old", new="x"))
        changed = attrs.evolve(account, password_hash=None, disabled=True)
        assert await database.write(lambda c: accounts.update_account(c, changed))
        assert await database.read(accounts.list_page) == (changed,)
        assert await database.read(lambda c: accounts.list_page(c, after="alice")) == ()
        assert await database.write(lambda c: accounts.delete_account(c, "alice"))


async def test_a_code_expires_and_is_withdrawn(url: str) -> None:
    sans = (San(SanKind.DNS, "a.example"),)

    def new(mark: bytes, expires: timedelta) -> codes.NewCode:
        return codes.NewCode(mark * 32, "device", "CN=a", sans, NOW + expires, "alice", NOW)

    async with opened(url) as database:
        short, long = await database.write(
            lambda c: (codes.insert_code(c, new(b"s", HOUR)), codes.insert_code(c, new(b"l", 9 * HOUR)))
        )
        assert not await database.write(lambda c: codes.spend(c, short, now=NOW + HOUR))
        assert await database.write(lambda c: codes.spend(c, short, now=NOW))
        assert not await database.write(lambda c: codes.spend(c, short, now=NOW))
        assert not await database.write(lambda c: codes.revoke_code(c, short))
        assert await database.write(lambda c: codes.revoke_code(c, long))
        found = await database.read(codes.list_page)
        assert [(code.id, code.subject, code.sans, code.spent_at) for code in found] == [(short, "CN=a", sans, NOW)]
        assert await database.read(lambda c: codes.by_id(c, long)) is None
        assert not await database.write(lambda c: codes.revoke_code(c, long))
        assert await database.write(lambda c: codes.forget_expired(c, expired_before=NOW + 2 * HOUR)) == 1


async def test_no_number_of_a_code_is_given_out_twice(url: str) -> None:
    """Certificates, requests and the audit log name codes by number for longer than codes are kept."""

    def make(mark: bytes) -> Callable[[Connection], int]:
        return lambda c: codes.insert_code(c, codes.NewCode(mark * 32, "device", None, (), NOW, "alice", NOW))

    async with opened(url) as database:
        given = [await database.write(make(b"a")), await database.write(make(b"b"))]
        assert await database.write(lambda c: codes.revoke_code(c, given[-1]))
        given.append(await database.write(make(b"c")))
        while await database.write(lambda c: codes.forget_expired(c, expired_before=NOW + HOUR, most=1)):
            pass
        given.append(await database.write(make(b"d")))
        assert len(set(given)) == 4
        assert [one.id for one in await database.read(codes.list_page)] == [given[3]]


async def test_a_request_is_decided_once_and_issued_once(url: str) -> None:
    new = NewRequest("user", b"csr", b"spki", b"payload", "password\nalice", b"f" * 32, NOW, NOW + HOUR)
    async with opened(url) as database:
        waiting = await database.write(lambda c: requests.open_request(c, new, reasons=("needs approval",)))
        assert (waiting.state, waiting.evidence, waiting.reasons) == (
            RequestState.PENDING,
            "password\\nalice",
            ("needs approval",),
        )
        assert await database.write(lambda c: requests.open_request(c, new)) == waiting

        def decide(*, approved: bool) -> Callable[[Connection], bool]:
            return lambda c: requests.decide(c, waiting.id, approved=approved, by="ra", at=NOW)

        assert not await database.write(lambda c: requests.mark_issued(c, waiting.id, 5))
        assert await database.write(decide(approved=True))
        assert not await database.write(decide(approved=False))
        assert await database.write(lambda c: requests.mark_issued(c, waiting.id, 5))
        assert not await database.write(lambda c: requests.mark_issued(c, waiting.id, 6))
        found = await database.read(lambda c: requests.get(c, waiting.id))
        assert found is not None
        assert (found.state, found.certificate_id, found.decided_by) == (RequestState.ISSUED, 5, "ra")
        again = await database.write(lambda c: requests.open_request(c, new))
        assert again.id != waiting.id
        late = NOW + HOUR
        assert not await database.write(lambda c: requests.decide(c, again.id, approved=True, by="ra", at=late))
        assert await database.write(lambda c: requests.expire(c, now=late)) == ((again.id, new.payload),)
        assert await database.read(requests.list_page) == ()
        listed = await database.read(lambda c: requests.list_page(c, state=None))
        assert [one.state for one in listed] == [RequestState.EXPIRED, RequestState.ISSUED]


async def test_a_lease_has_one_holder_and_a_stale_one_writes_nothing(url: str) -> None:
    minute = timedelta(minutes=1)
    async with opened(url) as one, opened(url) as two:

        def take(holder: str, after: timedelta) -> Callable[[Connection], leases.Lease | None]:
            return lambda c: leases.acquire(c, "crl", holder, now=NOW + after, lasting=minute)

        first = await one.write(take("a", timedelta(0)))
        assert first is not None
        assert await two.write(take("b", timedelta(seconds=59))) is None
        renewed = await one.write(lambda c: leases.renew(c, first, now=NOW + minute / 2, lasting=minute))
        assert renewed is not None
        assert renewed.fence == first.fence
        assert await two.write(take("b", minute)) is None
        second = await two.write(take("b", 2 * minute))
        assert second is not None
        assert second.fence == first.fence + 1

        def guarded(held: leases.Lease) -> Callable[[Connection], None]:
            def work(connection: Connection) -> None:
                leases.guard(connection, held, now=NOW + 2 * minute)
                blocked_keys.add_many(connection, [held.holder.encode() * 32], why="guarded", now=NOW)

            return work

        with pytest.raises(Unavailable, match="no longer held"):
            await one.write(guarded(renewed))
        await two.write(guarded(second))
        assert await one.write(lambda c: leases.renew(c, renewed, now=NOW, lasting=minute)) is None
        assert [key.spki_sha256 for key in await one.read(blocked_keys.list_page)] == [b"b" * 32]
        assert await two.write(lambda c: leases.release(c, second, now=NOW + 2 * minute))
        third = await one.write(take("a", 2 * minute))
        assert third is not None
        assert third.fence == second.fence + 1
        assert await one.read(lambda c: leases.get(c, "crl")) == third


async def test_a_race_for_a_lease_has_one_winner(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        taken = [
            ensureDeferred(
                (one, two)[n % 2].write(lambda c, n=n: leases.acquire(c, "x", f"h{n}", now=NOW, lasting=HOUR))
            )
            for n in range(20)
        ]
        held = [await one_ for one_ in taken]
        assert sum(lease is not None for lease in held) == 1


async def test_blocked_keys_are_kept_with_their_first_reason(url: str) -> None:
    digests = [bytes([n]) * 32 for n in range(5)]
    async with opened(url) as database:
        assert await database.write(lambda c: blocked_keys.add_many(c, digests, why="weak", now=NOW)) == 5
        await database.write(lambda c: blocked_keys.add_many(c, digests[:1], why="other", now=NOW))
        found = await database.read(lambda c: blocked_keys.get(c, digests[0]))
        assert found == blocked_keys.BlockedKey(digests[0], "weak", NOW)
        assert await database.write(lambda c: blocked_keys.remove(c, digests[0]))
        assert await database.read(lambda c: blocked_keys.get(c, digests[0])) is None
        assert len(await database.read(lambda c: blocked_keys.list_page(c, after=digests[1], limit=2))) == 2


async def test_all_processes_get_the_same_secret(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        mine, theirs = Secret(b"m" * 32), Secret(b"t" * 32)
        assert await one.write(lambda c: secrets.get_or_put(c, "codes", mine, now=NOW)) == mine
        assert await two.write(lambda c: secrets.get_or_put(c, "codes", theirs, now=NOW)) == mine
        assert await two.read(lambda c: secrets.get(c, "none")) is None
