"""How often Python looks for cyclic garbage: in a process that serves, while modules load, in a command, at its end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 5_000
"""So many more objects made than freed bring the next look at the young ones; a look takes under a millisecond."""


@contextmanager
def unhindered() -> Iterator[None]:
    """Load modules without looking for garbage meanwhile, which takes a fifth of the time; what was loaded stays.

    The garbage that loading leaves (4 MB: each slotted class is made twice) stays too, because one look for it takes
    over 0.1 s, at start or, later, of the reactor.
    """
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if looking:
            gc.enable()


def settle() -> None:
    """Call once, a server when everything is set up: what is there now stays, and no later look goes over it again.

    Python looks after every 700 objects as it comes, which are those of a handful of requests that wait; of a server
    that is asked much it took up to a quarter of the time, nearly all of it for objects that live as long as it.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)


def leave() -> None:
    """Call as the last thing of a process whose end somebody waits for: what is there now is not looked over once more.

    Python does that at its end, to take apart what the system takes back as a whole: over 0.1 s of a command's 0.8 s.
    """
    gc.freeze()
