"""Answers of one turn of the reactor: together, in order, and never too many."""

from __future__ import annotations

from twisted.internet.task import Clock

from protocols.web.turn import MOST, Turn


class Sender:
    """A connection that notes what it is to send."""

    def __init__(self, sent: list[bytes]) -> None:
        self._sent = sent

    def send_now(self, data: bytes) -> None:
        self._sent.append(data)


def test_answers_wait_for_the_end_of_the_turn():
    clock, sent = Clock(), []
    turn = Turn(clock)
    for number in range(3):
        turn.add(Sender(sent), b"%d" % number)
    assert sent == []
    clock.advance(0)
    assert sent == [b"0", b"1", b"2"]
    turn.add(Sender(sent), b"next")
    clock.advance(0)
    assert sent[3:] == [b"next"]


def test_no_more_wait_than_may():
    clock, sent = Clock(), []
    turn = Turn(clock)
    for number in range(2 * MOST + 1):
        turn.add(Sender(sent), b"%d" % number)
    assert len(sent) == 2 * MOST
    clock.advance(0)
    assert sent == [b"%d" % number for number in range(2 * MOST + 1)]


def test_what_must_go_at_once_goes_after_what_waits():
    clock, sent = Clock(), []
    turn = Turn(clock)
    turn.add(Sender(sent), b"first")
    turn.flush()
    assert sent == [b"first"]
    clock.advance(0)
    assert sent == [b"first"]
