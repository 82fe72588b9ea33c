"""RFC 7512 URIs: the RFC's own examples, round trips, and what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation.errors import Rejected
from pkiserver.keys.uri import Pkcs11Uri

SPEAKING = (
    "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
    "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin"
)
TEXT = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))


@given(
    st.builds(
        Pkcs11Uri,
        token=TEXT,
        serial=TEXT,
        manufacturer=TEXT,
        model=TEXT,
        slot_id=st.one_of(st.none(), st.integers(0, 2**31)),
        object=TEXT,
        id=st.one_of(st.none(), st.binary(max_size=32)),
        type=st.sampled_from([None, "private", "public", "cert"]),
        module_path=TEXT,
        module_name=TEXT,
        pin_source=TEXT,
    )
)
def test_what_is_written_is_read_back(uri: Pkcs11Uri) -> None:
    assert str(uri).isascii()
    if len(str(uri)) <= 2048:
        assert Pkcs11Uri.parse(str(uri)) == uri


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for candidate in (text, f"pkcs11:{text}"):
        with contextlib.suppress(Rejected):
            assert Pkcs11Uri.parse(str(Pkcs11Uri.parse(candidate)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # RFC 7512, section 3
        ("pkcs11:", Pkcs11Uri()),
        ("pkcs11:object=my-pubkey;type=public", Pkcs11Uri(object="my-pubkey", type="public")),
        (
            "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
            Pkcs11Uri(object="my-key", type="private", pin_source="file:/etc/token"),
        ),
        (
            SPEAKING,
            Pkcs11Uri(
                token="The Software PKCS#11 Softtoken",
                manufacturer="Snake Oil, Inc.",
                model="1.0",
                object="my-certificate",
                type="cert",
                id=bytes.fromhex("69953e5cf4bdec91"),
                serial="",
                pin_source="file:/etc/token_pin",
            ),
        ),
        ("pkcs11:slot-description=Sun%20Metaslot", Pkcs11Uri()),
        ("pkcs11:token=a;x-vend-aaa=value", Pkcs11Uri(token="a")),
        (
            "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
            Pkcs11Uri(object="my-sign-key", type="private", module_name="mypkcs11"),
        ),
        ("pkcs11:id=%00%ff", Pkcs11Uri(id=b"\x00\xff")),
    ],
)
def test_uris_are_read_part_by_part(text: str, expected: Pkcs11Uri) -> None:
    assert Pkcs11Uri.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("file:/x", "pkcs11:"),
        ("pkcs11:token=a;token=b", "twice"),
        ("pkcs11:colour=red", "unknown attributes colour"),
        ("pkcs11:object=a b", "escaped"),
        ("pkcs11:object=%zz", "escaped"),
        ("pkcs11:object", "no value"),
        ("pkcs11:object=%ff", "UTF-8"),
        ("pkcs11:type=hopeful", "type"),
        ("pkcs11:slot-id=x", "slot-id"),
        ("pkcs11:object=a?pin-value=1234", "pin-value"),
        ("pkcs11:" + "a" * 3000, "too long"),
    ],
)
def test_refusals_say_why_and_show_no_pin(text: str, why: str) -> None:
    with pytest.raises(Rejected) as caught:
        Pkcs11Uri.parse(text)
    assert why in str(caught.value)
    assert "1234" not in str(caught.value)
