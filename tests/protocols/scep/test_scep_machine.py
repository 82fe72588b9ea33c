"""The transaction table, every combination; and texts and queries as clients write them."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation.errors import Refusal, Rejected
from protocols.scep.machine import Arrival, State, Step, on_poll, on_request
from protocols.scep.messages import (
    Operation,
    decode_message,
    ordered_certificates,
    parse_message,
    parse_query,
)

SAME, ALTERED, OTHER_KEY, OTHER_BOTH = (True, True), (True, False), (False, True), (False, False)
"""Whether the key, and the wishes, are those that the transaction began with."""
REFUSED = None
ON_REQUEST: dict[State, tuple[Step | None, Step | None, Step | None, Step | None]] = {
    # .............. SAME .......... ALTERED ...... OTHER_KEY .... OTHER_BOTH
    State.FREE: (Step.ENROLL, Step.ENROLL, Step.ENROLL, Step.ENROLL),
    State.WAITING: (Step.ENROLL, REFUSED, REFUSED, REFUSED),
    State.DENIED: (Step.ENROLL, Step.ENROLL, REFUSED, REFUSED),
    State.MAKING: (Step.WAIT, REFUSED, REFUSED, REFUSED),
    State.ISSUED: (Step.REPEAT, REFUSED, REFUSED, REFUSED),
    State.REVOKED: (REFUSED, REFUSED, REFUSED, REFUSED),
    State.OVER: (Step.ENROLL, Step.ENROLL, Step.ENROLL, Step.ENROLL),
}
ON_POLL: dict[State, Step | None] = {
    State.FREE: REFUSED,
    State.WAITING: Step.RESUME,
    State.DENIED: Step.RESUME,
    State.MAKING: Step.WAIT,
    State.ISSUED: Step.REPEAT,
    State.REVOKED: REFUSED,
    State.OVER: REFUSED,
}


@pytest.mark.parametrize("state", State)
def test_what_a_request_means_by_what_is_known_of_its_transaction(state: State) -> None:
    for (same_key, same_wishes), step in zip((SAME, ALTERED, OTHER_KEY, OTHER_BOTH), ON_REQUEST[state], strict=True):
        arrival = Arrival(state, same_key, same_wishes)
        if step is REFUSED:
            with pytest.raises(Rejected):
                on_request(arrival)
        else:
            assert on_request(arrival) is step


@pytest.mark.parametrize("state", State)
def test_what_a_poll_means_and_that_another_signer_learns_nothing(state: State) -> None:
    with pytest.raises(Rejected) as refused:
        on_poll(state, same_signer=False)
    assert refused.value.has(Refusal.UNKNOWN_REQUEST)
    if ON_POLL[state] is REFUSED:
        with pytest.raises(Rejected):
            on_poll(state, same_signer=True)
    else:
        assert on_poll(state, same_signer=True) is ON_POLL[state]


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
