"""The interpreter is handed over often while work beside the reactor lasts, and as usual afterwards."""

from __future__ import annotations

import sys
import threading

import pytest

from pkiserver.foundation.interpreter import OFTEN, sharing


def test_as_usual_after_an_error() -> None:
    usual, within = sys.getswitchinterval(), []

    @sharing()
    def work() -> None:
        within.append(sys.getswitchinterval())
        raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert within == [pytest.approx(OFTEN)]
    assert sys.getswitchinterval() == pytest.approx(usual)


def test_as_usual_when_the_last_one_is_done() -> None:
    usual = sys.getswitchinterval()
    begun, end = threading.Event(), threading.Event()

    @sharing()
    def work() -> None:
        begun.set()
        end.wait(30)

    other = threading.Thread(target=work)
    other.start()
    assert begun.wait(30)
    with sharing():
        pass
    assert sys.getswitchinterval() == pytest.approx(OFTEN), "the other one is still at work"
    end.set()
    other.join()
    assert sys.getswitchinterval() == pytest.approx(usual)
