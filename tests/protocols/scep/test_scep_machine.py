"""The transaction table, every combination; and texts and queries as clients write them."""

from __future__ import annotations

import base64
import itertools
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation.errors import Rejected
from protocols.scep.machine import Arrival, State, Step, on_poll, on_request
from protocols.scep.messages import (
    Operation,
    decode_message,
    ordered_certificates,
    parse_message,
    parse_query,
)

ALWAYS = {State.FREE, State.OVER}


@pytest.mark.parametrize(
    ("state", "same_key", "same_wishes"), list(itertools.product(State, (True, False), (True, False)))
)
def test_requests(state: State, same_key: bool, same_wishes: bool) -> None:
    arrival = Arrival(state, same_key, same_wishes)
    if state in ALWAYS:
        assert on_request(arrival) is Step.ENROLL
    elif not same_key or (not same_wishes and state is not State.DENIED) or state is State.REVOKED:
        with pytest.raises(Rejected):
            on_request(arrival)
    else:
        expected = {State.MAKING: Step.WAIT, State.ISSUED: Step.REPEAT}.get(state, Step.ENROLL)
        assert on_request(arrival) is expected


@pytest.mark.parametrize(("state", "same_signer"), list(itertools.product(State, (True, False))))
def test_polls(state: State, same_signer: bool) -> None:
    if not same_signer or state in {State.FREE, State.OVER, State.REVOKED}:
        with pytest.raises(Rejected):
            on_poll(state, same_signer=same_signer)
    else:
        expected = {State.MAKING: Step.WAIT, State.ISSUED: Step.REPEAT}.get(state, Step.RESUME)
        assert on_poll(state, same_signer=same_signer) is expected


@given(st.binary(min_size=1, max_size=200))
def test_messages_come_out_of_a_query_however_they_were_escaped(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    for written in (quote(text, safe=""), text, text.rstrip("="), quote(lines, safe=""), text.replace("+", "%20")):
        query = parse_query(f"operation=PKIOperation&message={written}")
        assert query.operation is Operation.PKI_OPERATION
        assert decode_message(query.message or b"") == data


@given(st.binary(max_size=300))
def test_no_octets_are_a_message_by_accident(data: bytes) -> None:
    with pytest.raises(Rejected):
        parse_message(data)


@given(st.text(max_size=100))
def test_no_query_breaks_the_reader(text: str) -> None:
    parse_query(text)


def test_certificates_keep_their_order() -> None:
    certificates = (b"\x30\x01\x05", b"\x30\x01\x01", b"\x30\x01\x05", b"\x30\x01\x03")
    made = ordered_certificates(certificates)
    assert b"\x30\x01\x05\x30\x01\x01\x30\x01\x03" in made
