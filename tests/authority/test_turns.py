"""Many that are woken at once take turns, and one that gave up holds nobody back."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from pkiserver.authority.turns import Turns


class ByHand:
    """A reactor's callLater(0): what is scheduled in one turn runs in the next."""

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []

    def callLater(self, _delay: float, function: Callable[[], None]) -> None:
        self._due.append(function)

    def turn(self) -> None:
        due, self._due = self._due, []
        for function in due:
            function()


def test_one_to_a_reactor_turn() -> None:
    reactor = ByHand()
    order: list[int] = []
    turns = Turns(reactor)  # type: ignore[arg-type]

    async def work(number: int) -> None:
        await turns.wait()
        order.append(number)

    waiting = [Deferred.fromCoroutine(work(number)) for number in range(4)]
    assert order == [0]
    waiting[2].addErrback(lambda _failure: None)
    waiting[2].cancel()
    reactor.turn()
    assert order == [0, 1]
    reactor.turn()
    assert order == [0, 1, 3]
    reactor.turn()
    Deferred.fromCoroutine(work(5))
    assert order == [0, 1, 3, 5]
