"""Named points of the road, at which crash tests stop the process dead."""

from __future__ import annotations

import enum
import os
import signal
from collections.abc import Callable

CRASH_VARIABLE = "PKISERVER_CRASH_AT"


class Step(enum.StrEnum):
    """The steps of the road, in order; each names what has just happened."""

    BUILT = "built"
    """The certificate to be is made and linted; the store knows nothing."""
    PREPARED = "prepared"
    """Serial and intent are durable."""
    ASKED = "asked"
    """That a signature is asked for is durable; the key has not been called."""
    SIGNED = "signed"
    """A signature exists that the store does not know."""
    STORED = "stored"
    """The certificate is durable; the client has no answer."""


Checkpoint = Callable[[Step], None]


def go_on(step: Step) -> None:
    """Do nothing: the checkpoint of a server in service."""
    del step


def from_environment() -> Checkpoint:
    """A checkpoint that kills this process (SIGKILL) at the step that ``PKISERVER_CRASH_AT`` names; else :func:`go_on`.

    Raises:
        ValueError: the variable names no step.
    """
    wanted = os.environ.get(CRASH_VARIABLE)
    if not wanted:
        return go_on
    fatal = Step(wanted)

    def crash(step: Step) -> None:
        if step is fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    return crash
