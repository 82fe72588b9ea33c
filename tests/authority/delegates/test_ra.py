"""Registration authorities for SCEP: made when needed, rolled over in time, once for all processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall

from pkiserver.authority.delegates.ownkeys import OwnKeys
from pkiserver.authority.delegates.ra import RaKeeper
from pkiserver.authority.delegates.ra_policy import RaKeys, ScepPolicy
from pkiserver.authority.lifecycle.ceremonies import SCEP_DOORS, NewAuthority
from pkiserver.authority.lifecycle.profile import CaProfile, parse_name
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.status.turns import Turn, Turns
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.tomldump import dump
from pkiserver.keys.doors import Door
from pkiserver.keys.settings import TokenSettings
from pkiserver.store.authority import authorities
from pkiserver.store.migrate import migrate
from tests.authority.world import ACTOR, SETTINGS, World, new_key, open_world, openssl_verify
from tests.support.clock import FakeClock
from tests.support.keys import lose_and_miss, softhsm_token


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> TokenSettings:
    return softhsm_token(tmp_path_factory.mktemp("ra"))


def keeper(world: World, holder: str = "one") -> RaKeeper:
    road, turns = world.road, Turns(world.database, world.clock, holder)
    return RaKeeper(
        OwnKeys(world.database, world.keys, road.authorities, road.preparer, road.issuer, turns, world.clock)
    )


@asynccontextmanager
async def opened(folder: Path, token: TokenSettings) -> AsyncIterator[World]:
    url = f"sqlite:///{folder / 'db'}"
    migrate(url)
    world = await open_world(url, (token,), FakeClock())
    try:
        await world.road.start()
        await world.root()
        yield world
    finally:
        await world.close()


async def subordinate(world: World, scep: ScepPolicy, kind: str = "ec-p256", **more: object) -> None:
    settings: AuthoritySettings = attrs.evolve(SETTINGS, scep=scep)
    key = attrs.evolve(new_key(kind), **more)
    new = NewAuthority("issuing", parse_name("CN=Test Issuing,O=Example,C=CH"), CaProfile(), key, settings)
    await world.road.ceremonies.create_subordinate(new, ACTOR, issuer="root")


def usage(certificate: x509.Certificate) -> x509.KeyUsage:
    return certificate.extensions.get_extension_for_class(x509.KeyUsage).value


async def test_one_key_signs_and_opens_and_is_issued_by_the_ca(tmp_path: Path, token: TokenSettings) -> None:
    async with opened(tmp_path, token) as world:
        await subordinate(world, ScepPolicy())
        ra = keeper(world)
        (found,) = await ra.get("issuing")
        assert found.signing == found.opening
        assert isinstance(found.signing.certificate.public_key(), rsa.RSAPublicKey)
        assert usage(found.signing.certificate).digital_signature
        assert usage(found.signing.certificate).key_encipherment
        assert world.keys.show(found.signing.key_name).record.doors == {Door.CMS, Door.OPEN}
        at = str(int(world.clock.now().timestamp()))
        assert "OK" in openssl_verify(tmp_path, found.signing.der, found.chain, "-attime", at)
        assert await keeper(world).get("issuing") == (found,), "another process finds it"


async def test_two_keys_share_the_work(tmp_path: Path, token: TokenSettings) -> None:
    async with opened(tmp_path, token) as world:
        await subordinate(world, ScepPolicy(ra=RaKeys.TWO))
        (found,) = await keeper(world).get("issuing")
        assert found.signing.der != found.opening.der
        assert (
            usage(found.signing.certificate).key_encipherment,
            usage(found.opening.certificate).key_encipherment,
        ) == (
            False,
            True,
        )
        assert world.keys.show(found.signing.key_name).record.doors == {Door.CMS}
        assert world.keys.show(found.opening.key_name).record.doors == {Door.OPEN}
        assert len(found.certificates) == 2


async def test_it_rolls_over_by_itself_and_its_predecessor_still_serves(tmp_path: Path, token: TokenSettings) -> None:
    policy = ScepPolicy(certificate_validity=timedelta(days=100), renew_before=timedelta(days=20))
    async with opened(tmp_path, token) as world:
        await subordinate(world, policy)
        clock = world.clock
        assert isinstance(clock, FakeClock)
        ra, other = keeper(world), keeper(world, "two")
        assert await ra.run_due(["issuing"]) == ("issuing",)
        (first,) = await ra.get("issuing")
        assert await other.run_due(["issuing"]) == ()
        clock.advance(timedelta(days=79))
        assert await ra.run_due(["issuing"]) == ()
        clock.advance(timedelta(days=2))
        runs = [Deferred.fromCoroutine(one.run_due(["issuing"])) for one in (ra, other)]
        assert sorted(map(len, await gatherResults(runs))) == [0, 1], "one of two processes"
        clock.advance(timedelta(seconds=6))
        newer, older = await other.get("issuing")
        assert (older.signing.der, newer.signing.der == first.signing.der) == (first.signing.der, False)
        clock.advance(timedelta(days=90))
        await ra.run_due(["issuing"])
        clock.advance(timedelta(days=90))
        await ra.run_due(["issuing"])
        kept = [one.name for one in world.keys.list() if one.name.startswith("scep-")]
        assert first.signing.key_name not in kept, "spent keys are destroyed"


async def test_keys_that_a_node_lacks_give_way_to_those_that_it_has(tmp_path: Path) -> None:
    policy = ScepPolicy(certificate_validity=timedelta(days=100), renew_before=timedelta(days=20))
    token = softhsm_token(tmp_path)
    async with opened(tmp_path, token) as world:
        await subordinate(world, policy)
        clock, ra = world.clock, keeper(world)
        assert isinstance(clock, FakeClock)
        await ra.run_due(["issuing"])
        clock.advance(timedelta(days=81))
        await ra.run_due(["issuing"])
        newer, older = await ra.get("issuing")
        for one in (newer, older):
            await lose_and_miss(world.keys, token, one.signing.key_name)
            clock.advance(timedelta(seconds=6))
            if one is newer:
                assert [each.signing.der for each in await ra.get("issuing")] == [older.signing.der, newer.signing.der]
                assert ra.problems() == ()
        assert await ra.run_due(["issuing"]) == (), "another node may have it"
        [problem] = ra.problems()
        assert problem.authority == "issuing"
        assert "nobody can enrol by SCEP at this node: there is no private key" in problem.text


async def test_many_ask_at_once_and_one_key_is_made(tmp_path: Path, token: TokenSettings) -> None:
    async with opened(tmp_path, token) as world:
        await subordinate(world, ScepPolicy())
        askers = [keeper(world, name) for name in ("one", "two", "three")]
        asked = [Deferred.fromCoroutine(one.get("issuing")) for one in askers for _ in range(4)]
        assert len(set(await gatherResults(asked))) == 1
        assert len([one for one in world.keys.list() if one.name.startswith("scep-")]) == 1


@pytest.mark.parametrize("due", [False, True])
async def test_who_gets_the_turn_late_makes_no_second_one(tmp_path: Path, token: TokenSettings, due: bool) -> None:
    async with opened(tmp_path, token) as world:
        await subordinate(world, ScepPolicy())
        first, second = keeper(world), keeper(world, "two")
        turns = second._own.turns

        @asynccontextmanager
        async def late(name: str) -> AsyncIterator[Turn | None]:
            await first.get("issuing")  # between the second's look and its turn
            async with turns.turn(name) as turn:
                yield turn

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(second, "_own", attrs.evolve(second._own, turns=SimpleNamespace(turn=late)))
            if due:
                assert await second.run_due(["issuing"]) == ()
            assert await second.get("issuing") == await first.get("issuing")
        assert len([one for one in world.keys.list() if one.name.startswith("scep-")]) == 1


async def test_a_new_one_is_found_also_by_who_has_just_looked(tmp_path: Path, token: TokenSettings) -> None:
    async with opened(tmp_path, token) as world:
        await subordinate(world, ScepPolicy())
        ra, other = keeper(world), keeper(world, "two")
        assert await ra.run_due(["issuing"]) == ("issuing",)
        (before,) = await other.get("issuing")
        await set_policy(world, ScepPolicy(ra=RaKeys.TWO))
        assert await ra.run_due(["issuing"]) == ("issuing",)
        assert await other.get("issuing") == (before,)
        clock = world.clock
        assert isinstance(clock, FakeClock)
        passing = LoopingCall(clock.advance, timedelta(seconds=0.1))
        passing.start(0.1, now=False)
        try:
            newer, older = await other.get("issuing", anew=True)
        finally:
            passing.stop()
        assert (newer in await ra.get("issuing"), older) == (True, before)


async def test_an_rsa_authority_may_do_it_with_its_own_key(tmp_path: Path, token: TokenSettings) -> None:
    async with opened(tmp_path, token) as world:
        await subordinate(world, ScepPolicy(ra=RaKeys.AUTHORITY), "rsa-2048", doors=SCEP_DOORS)
        (found,) = await keeper(world).get("issuing")
        ca = world.road.authorities.get("issuing").current.certificate.der
        assert (found.signing.der, found.opening.der, found.chain[0]) == (ca, ca, ca)


@pytest.mark.parametrize("kind", ["ec-p256", "rsa-2048"])
async def test_an_authority_whose_key_was_not_made_for_it_is_told(
    tmp_path: Path, token: TokenSettings, kind: str
) -> None:
    async with opened(tmp_path, token) as world:
        await subordinate(world, ScepPolicy(ra=RaKeys.AUTHORITY), kind)
        with pytest.raises(Rejected, match="not an RSA key with the doors"):
            await keeper(world).get("issuing")


async def test_a_rekeyed_authority_gets_a_registration_authority_of_its_new_key(
    tmp_path: Path, token: TokenSettings
) -> None:
    async with opened(tmp_path, token) as world:
        await subordinate(world, ScepPolicy())
        ra = keeper(world)
        (first,) = await ra.get("issuing")
        await world.road.succession.rekey("issuing", new_key(), ACTOR)
        assert await ra.run_due(["issuing"]) == ("issuing",)
        newer, older = await keeper(world).get("issuing")
        assert older == first
        assert newer.chain[0] == world.road.authorities.get("issuing").current.certificate.der


async def set_policy(world: World, policy: ScepPolicy) -> None:
    """What ``pkiserver apply`` does."""
    text = dump(attrs.evolve(SETTINGS, scep=policy))
    await world.database.write(lambda c: authorities.update_authority(c, "issuing", config=text, state="enabled"))
    await world.road.authorities.refresh()


async def test_other_keys_that_are_set_are_made_at_once_and_the_ones_before_still_serve(
    tmp_path: Path, token: TokenSettings
) -> None:
    async with opened(tmp_path, token) as world:
        await subordinate(world, ScepPolicy(), "rsa-2048", doors=SCEP_DOORS)
        (first,) = await keeper(world).get("issuing")
        await set_policy(world, ScepPolicy(ra=RaKeys.TWO, certificate_validity=timedelta(days=100)))
        assert await keeper(world).run_due(["issuing"]) == ("issuing",)
        assert await keeper(world).run_due(["issuing"]) == ()
        two, one = await keeper(world).get("issuing")
        assert (len(two.certificates), one) == (2, first), "the one to give out first, though it ends first"
        await set_policy(world, ScepPolicy(ra=RaKeys.TWO, key_type="rsa-3072"))
        assert await keeper(world).run_due(["issuing"]) == ("issuing",)
        assert {one.certificate.public_key().key_size for one in (await keeper(world).get("issuing"))[0].keys} == {3072}
        await set_policy(world, ScepPolicy(ra=RaKeys.AUTHORITY))
        assert await keeper(world).run_due(["issuing"]) == ()
        own, *others = await keeper(world).get("issuing")
        assert own.signing.der == world.road.authorities.get("issuing").current.certificate.der
        assert {two, first} < set(others)


def test_only_rsa_can_open_envelopes() -> None:
    with pytest.raises(ValueError, match="RSA"):
        ScepPolicy(key_type="ec-p256")
    with pytest.raises(ValueError, match="shorter"):
        ScepPolicy(renew_before=timedelta(days=900))
