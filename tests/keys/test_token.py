"""Keys in a SoftHSM token: how they are born, found, adopted, kept and deleted; pkcs11-tool is the second opinion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from pkcs11 import Attribute, ObjectClass
from pkcs11.exceptions import AttributeSensitive

from pkiserver.audit.chain import CHECKPOINT_PREFIX
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.faults import KeyUnavailable
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.pkcs11.search import TokenSearch
from pkiserver.keys.pkcs11.token import Token
from pkiserver.keys.records import KeyRecord
from pkiserver.keys.settings import ProviderSettings, TokenSettings
from pkiserver.keys.softhsm import create_token
from pkiserver.keys.software import generate_private_key
from pkiserver.keys.uri import Pkcs11Uri
from tests.support.keys import MemoryRegistry, lose_and_miss, pkcs11_tool, softhsm_token, software_store

P256 = KeyType.parse("ec-p256")


@pytest.fixture
def token(tmp_path: Path) -> TokenSettings:
    return softhsm_token(tmp_path)


class Rings:
    """Opens rings and closes them after the test."""

    def __init__(self) -> None:
        self.open: list[KeyRing] = []

    async def __call__(self, settings: list[ProviderSettings], registry: MemoryRegistry | None = None) -> KeyRing:
        ring = await KeyRing.open_with(settings, registry or MemoryRegistry(), SystemClock())
        self.open.append(ring)
        return ring


@pytest.fixture
def rings(on_reactor: object) -> Iterator[Rings]:
    made = Rings()
    yield made

    async def close() -> None:
        for ring in made.open:
            await ring.close()

    on_reactor(close)  # type: ignore[operator]


async def test_keys_are_born_sensitive_and_stay_in_the_token(token: TokenSettings, rings: Rings) -> None:
    ring = await rings([token])
    for kind in ("rsa-2048", "ec-p256", "ed25519"):
        await ring.generate(f"born-{kind}", KeyType.parse(kind), store="softhsm", doors=[Door.CERTIFICATE])
    await ring.close()
    rings.open.clear()
    listing = pkcs11_tool(token, "--list-objects", "--type", "privkey")
    for kind in ("rsa-2048", "ec-p256", "ed25519"):
        block = listing.split(f"born-{kind}")[1].split("Private Key Object")[0]
        access = re.search(r"Access:(.*)", block)
        assert access is not None
        assert "sensitive" in access.group(1)
        assert "never extractable" in access.group(1)
        usage = re.search(r"Usage:(.*)", block)
        assert usage is not None
        assert usage.group(1).split() == ["sign"], "a key that opens no envelopes can neither decrypt nor derive"


def test_the_token_is_private_to_its_owner(token: TokenSettings) -> None:
    assert token.softhsm_config is not None
    pin = Path(token.pin_source.removeprefix("file:"))
    assert pin.stat().st_mode & 0o777 == 0o600
    assert len(pin.read_text().strip()) == 32
    assert token.softhsm_config.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(Rejected, match="exists already"):
        create_token(token.softhsm_config.parent, "again", pin)


async def test_a_registered_key_is_found_again_after_a_restart(token: TokenSettings, rings: Rings) -> None:
    registry = MemoryRegistry()
    ring = await rings([token], registry)
    born = await ring.generate("ca", P256, store="softhsm", doors=[Door.CERTIFICATE, Door.CRL])
    uri = Pkcs11Uri.parse(born.record.uri)
    assert (uri.token, uri.object, uri.type) == ("test", "ca", "private")
    await ring.close()
    ring = await rings([token], registry)
    assert ring.problems() == ()
    assert ring.show("ca").record == born.record
    assert (await ring.test("ca")).seconds > 0
    assert registry.events == [("generate", "ca", "ok"), ("test", "ca", "ok")]


async def test_names_labels_and_stores_are_checked(token: TokenSettings, rings: Rings, tmp_path: Path) -> None:
    ring = await rings([token, software_store(tmp_path)])
    await ring.generate("ca", P256, store="softhsm", doors=[Door.CERTIFICATE])
    with pytest.raises(Rejected) as caught:
        await ring.generate("ca", P256, store="software", doors=[Door.CERTIFICATE])
    assert caught.value.has(Refusal.CONFLICT)
    await ring.delete("ca", keep_object=True)
    with pytest.raises(Rejected, match="label 'ca' already"):
        await ring.generate("ca", P256, store="softhsm", doors=[Door.CERTIFICATE])
    with pytest.raises(Rejected, match="softhsm, software"):
        await ring.generate("x", P256, store="nowhere", doors=[Door.CERTIFICATE])
    with pytest.raises(Rejected, match="not a key name"):
        await ring.generate("../x", P256, store="software", doors=[Door.CERTIFICATE])
    with pytest.raises(Rejected, match="at least one door"):
        await ring.generate("x", P256, store="software", doors=[])
    with pytest.raises(Rejected, match="software store"):
        await ring.generate("x", KeyType.parse("ml-dsa-65"), store="softhsm", doors=[Door.CERTIFICATE])


async def test_deleting_destroys_the_objects(token: TokenSettings, rings: Rings) -> None:
    ring = await rings([token])
    await ring.generate("gone", P256, store="softhsm", doors=[Door.CRL])
    signer = ring.request_signer("gone")
    await ring.delete("gone")
    assert ring.list() == ()
    with pytest.raises(Unavailable):
        await signer.build(
            lambda key: x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        )
    await ring.close()
    rings.open.clear()
    assert "gone" not in pkcs11_tool(token, "--list-objects")


async def test_a_key_that_another_tool_deletes_while_it_signs_is_missed(token: TokenSettings, rings: Rings) -> None:
    pkcs11_tool(token, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "short", "--id", "0102")
    ring = await rings([token])
    await ring.adopt("short", "pkcs11:token=test;object=short", [Door.CHECKPOINT])
    signer = ring.checkpoint_signer("short")
    assert signer.in_place

    async def sign(times: int) -> None:
        for _ in range(times):
            await signer.sign(CHECKPOINT_PREFIX + b"{}")

    await sign(100)
    pkcs11_tool(token, "--delete-object", "--type", "privkey", "--label", "short")
    with pytest.raises(KeyUnavailable):
        await sign(1_000_000)  # a minute of signatures; the token's own object is asked for once a second


async def test_a_key_that_is_missed_is_not_ready_while_it_is_looked_for(
    token: TokenSettings, rings: Rings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = await rings([token])
    for name in ("lost", "kept"):
        await ring.generate(name, P256, store="softhsm", doors=[Door.CRL])
    await lose_and_miss(ring, token, "lost")
    looks: list[tuple[str, bool]] = []
    find = TokenSearch.private

    def watched(search: TokenSearch, lane: Any, uri: str, name: str) -> Any:
        looks.append((name, ring.is_ready(name)))
        return find(search, lane, uri, name)

    monkeypatch.setattr(TokenSearch, "private", watched)
    await ring.refresh()
    assert ("lost", False) in looks
    assert ("lost", True) not in looks


async def test_no_copy_of_a_key_can_be_found_or_taken_out_of_the_token(token: TokenSettings, rings: Rings) -> None:
    registry = MemoryRegistry()
    ring = await rings([token], registry)
    await ring.generate("one", P256, store="softhsm", doors=[Door.CHECKPOINT])
    signer = ring.checkpoint_signer("one")
    for _ in range(100):
        await signer.sign(CHECKPOINT_PREFIX + b"{}")
    store = ring._providers.for_store("softhsm")
    assert isinstance(store, Token)
    with store.module.entered() as lane:
        terms = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: "one"}
        private = list(store.module.session(lane, store.login).get_objects(terms))
        assert {bool(thing[Attribute.TOKEN]) for thing in private} == {True, False}, "the key, and the session's copy"
        for thing in private:
            assert thing[Attribute.SENSITIVE]
            assert not thing[Attribute.EXTRACTABLE]
            with pytest.raises(AttributeSensitive):
                thing[Attribute.VALUE]
    # Found once more, by the same location, although the session has a copy of it.
    assert store.public_half(ring.show("one").record.uri) == signer.public_key
    with pytest.raises(Rejected, match="already"):
        await ring.generate("one", P256, store="softhsm", doors=[Door.CHECKPOINT])


async def test_a_key_made_by_another_tool_is_adopted(token: TokenSettings, rings: Rings) -> None:
    pkcs11_tool(token, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "foreign", "--id", "0102")
    ring = await rings([token])
    info = await ring.adopt("mine", "pkcs11:token=test;object=foreign", [Door.CERTIFICATE])
    assert info.ready
    assert info.in_place
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(Rejected, match="other"):
        await ring.adopt("other", "pkcs11:token=test;object=foreign", [Door.CRL], public_key=other)
    assert [one.name for one in ring.list()] == ["mine"]


async def test_two_objects_with_one_label_are_an_error_until_the_id_tells_them_apart(
    token: TokenSettings, rings: Rings
) -> None:
    for key_id in ("0a", "0b"):
        pkcs11_tool(token, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "twin", "--id", key_id)
    ring = await rings([token])
    with pytest.raises(Rejected, match="2 private keys"):
        await ring.adopt("twin", "pkcs11:token=test;object=twin", [Door.CRL])
    assert (await ring.adopt("twin", "pkcs11:token=test;object=twin;id=%0b", [Door.CRL])).ready


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p256", "ec-p521", "ed25519", "ed448"])
@pytest.mark.parametrize("store", ["softhsm", "software"])
async def test_private_keys_are_imported(
    token: TokenSettings, rings: Rings, tmp_path: Path, kind: str, store: str
) -> None:
    private = generate_private_key(KeyType.parse(kind))
    data = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw")
    )
    ring = await rings([token, software_store(tmp_path)])
    with pytest.raises(Rejected) as caught:
        await ring.import_pkcs8("in", data, Secret("wrong"), store=store, doors=[Door.CMS])
    assert caught.value.has(Refusal.BAD_KEY)
    info = await ring.import_pkcs8("in", data, Secret("pw"), store=store, doors=[Door.CMS])
    assert info.ready
    assert ring.public_key("in") == private.public_key()


@pytest.mark.parametrize("store", ["softhsm", "software"])
async def test_the_longest_rsa_keys_sign(token: TokenSettings, rings: Rings, tmp_path: Path, store: str) -> None:
    # Made once with `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:8192`: making one takes up to minutes.
    data = (Path(__file__).parent / "data" / "rsa-8192.pem").read_bytes()
    ring = await rings([token, software_store(tmp_path)])
    info = await ring.import_pkcs8("long", data, None, store=store, doors=[Door.CERTIFICATE])
    assert str(info.key_type) == "rsa-8192"
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "long")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for rsa_padding in (None, padding.PSS(padding.MGF1(hashes.SHA512()), 64)):
        request = await ring.request_signer("long").build(
            lambda key, chosen=rsa_padding: builder.sign(key, hashes.SHA512(), rsa_padding=chosen)
        )
        assert request.is_signature_valid
        assert request.public_key() == ring.public_key("long")


async def test_a_registry_that_refuses_leaves_no_orphan_key(token: TokenSettings, rings: Rings, tmp_path: Path) -> None:
    @attrs.define
    class Refusing(MemoryRegistry):
        async def add(self, record: KeyRecord, *, actor: str, operation: str) -> None:
            raise Unavailable("the database is away")

    ring = await rings([token, software_store(tmp_path)], Refusing())
    for store in ("softhsm", "software"):
        with pytest.raises(Unavailable, match="database"):
            await ring.generate("orphan", P256, store=store, doors=[Door.CRL])
    await ring.close()
    rings.open.clear()
    assert "orphan" not in pkcs11_tool(token, "--list-objects")
    assert list((tmp_path / "keys").iterdir()) == []


async def test_keys_registered_elsewhere_are_taken_up(token: TokenSettings, rings: Rings) -> None:
    registry = MemoryRegistry()
    first, second = await rings([token], registry), await rings([token], registry)
    await first.generate("later", P256, store="softhsm", doors=[Door.CRL])
    with pytest.raises(Rejected, match="no key"):
        second.crl_signer("later")
    await second.refresh()
    assert second.show("later").ready
    await first.delete("later")
    await second.refresh()
    assert second.list() == ()


async def test_a_fast_key_signs_in_place_at_the_tokens_rate(token: TokenSettings, rings: Rings) -> None:
    ring = await rings([token])
    info = await ring.generate("fast", P256, store="softhsm", doors=[Door.OCSP])
    slow = await ring.generate("slow", KeyType.parse("rsa-2048"), store="softhsm", doors=[Door.OCSP])
    assert info.in_place
    assert not slow.in_place
    result = await ring.bench("fast", 0.3)
    assert result.per_second > 2_000
    assert result.signatures > 600
    assert 0 < result.median <= result.p99


async def test_a_key_that_was_slow_for_a_moment_signs_in_place_again(token: TokenSettings, rings: Rings) -> None:
    ring = await rings([token])
    await ring.generate("ca", P256, store="softhsm", doors=[Door.CHECKPOINT])
    signer = ring.checkpoint_signer("ca")
    signer._handle.measured(1.0, local=True)
    assert not signer.in_place
    for _ in range(2000):
        await signer.sign(CHECKPOINT_PREFIX + b"{}")
        if signer.in_place:
            break
    assert signer.in_place
    signer._handle.measured(1.0, local=False)
    for _ in range(100):
        await signer.sign(CHECKPOINT_PREFIX + b"{}")
    assert not signer.in_place, "what is not in this process never signs on the reactor's thread"


async def test_tokens_describe_themselves(token: TokenSettings, rings: Rings) -> None:
    ring = await rings([token])
    (info,) = await ring.tokens()
    assert info.label == "test"
    assert info.problem is None
    assert "ECDSA" in info.mechanisms
    assert "SoftHSM" in info.library


async def test_keys_of_other_programs_do_not_hide_those_that_are_in_no_record(
    token: TokenSettings, rings: Rings
) -> None:
    """A label of PKCS#11 is UTF-8, and tokens keep what they are given."""
    for label, key_id in (("caf\udce9", "01" * 16), ("left", "02" * 16), ("short-id", "03")):
        pkcs11_tool(token, "--keypairgen", "--key-type", "EC:prime256v1", "--label", label, "--id", key_id)
    ring = await rings([token])
    await ring.generate("ours", P256, store="softhsm", doors=[Door.CERTIFICATE])
    assert [one.name for one in await ring.unregistered.find()] == ["left"]
