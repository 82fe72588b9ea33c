"""Run coroutine tests on a real reactor, which lives in a thread of its own for the whole session."""

from __future__ import annotations

import functools
import inspect
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pyhanko.sign.timestamps  # noqa: F401 - it adds to asn1crypto's names, which are fixed at their first use
import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.process import reapAllProcesses
from twisted.internet.task import LoopingCall
from twisted.internet.threads import blockingCallFromThread

from tests.support.keys import stores
from tests.support.postgres import empty_url, postgres_server, postgres_url, url
from tests.support.samba import domain_controller
from tests.support.slapd import directory, slapd

__all__ = ["directory", "domain_controller", "empty_url", "postgres_server", "postgres_url", "slapd", "stores", "url"]
reactor: Any = _reactor
REAP_SECONDS = 0.05
ASYNC_TEST_SECONDS = 120
"""A coroutine test that has not ended by then is cancelled, so that a lost answer fails instead of hanging the run."""


def pytest_configure() -> None:
    """Let servers that tests start be stopped by Ctrl-C: a shell has what it runs in the background ignore that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_on_reactor(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run ``make()`` on the reactor thread and return its result, from any other thread."""

    def start() -> Deferred[Any]:
        deferred = Deferred.fromCoroutine(make())
        deferred.addTimeout(ASYNC_TEST_SECONDS, reactor)
        return deferred

    return blockingCallFromThread(reactor, start)


@pytest.fixture(scope="session", autouse=True)
def reactor_thread() -> Iterator[None]:
    """The reactor, running beside the tests until the session ends."""
    thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False}, daemon=True)
    started = threading.Event()
    reactor.callWhenRunning(started.set)
    # outside the main thread the reactor gets no SIGCHLD: somebody must look whether processes have ended
    reactor.callWhenRunning(LoopingCall(reapAllProcesses).start, REAP_SECONDS)
    thread.start()
    assert started.wait(10)
    yield
    reactor.callFromThread(reactor.stop)
    thread.join(10)


@pytest.fixture(scope="session")
def on_reactor() -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]:
    """For synchronous fixtures that must set something up on the reactor."""
    return run_on_reactor


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run ``async def`` tests on the reactor."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(inspect.unwrap(function)):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    run_on_reactor(functools.partial(function, **arguments))
    return True
