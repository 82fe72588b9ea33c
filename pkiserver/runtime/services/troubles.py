"""What readiness would say of keys, authorities and CRL numbers, in the log as well, whenever it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.logger import Logger

from pkiserver.runtime.engine import Engine

_log = Logger(namespace="pkiserver.node")

SECONDS = 5.0
"""How often it is looked."""
_MOST_NAMES = 5

Trouble = tuple[str, str]
"""A name such as ``key:issuing-1``, and why it cannot be used."""


class TroubleLog:
    """Tells once of what cannot be used, and once when it can be used again.

    Args:
        look: All that is wrong now; cheap.
    """

    def __init__(self, look: Callable[[], Iterable[Trouble]]) -> None:
        self._look = look
        self._told: frozenset[Trouble] = frozenset()

    async def run_due(self) -> None:
        """Look, and tell of changes. A token with many keys is one line: they have one reason."""
        found = frozenset(self._look())
        for text, names in _by_text(found - self._told):
            _log.error("cannot be used: {names}: {why}", names=names, why=text)
        still = {name for name, _ in found}
        back = frozenset((name, "") for name, _ in self._told if name not in still)
        for _, names in _by_text(back):
            _log.info("can be used again: {names}", names=names)
        self._told = found


def troubles_of(engine: Engine) -> Iterable[Trouble]:
    """Stores, keys, authorities and the node's file of CRL numbers, where they do not do what they should."""
    for problem in engine.keys.problems():
        yield f"key:{problem.name}", problem.text
    for one in engine.authorities.problems():
        yield f"ca:{one.authority}", one.text
    if engine.status.numbers.problem:
        yield "crl-numbers", engine.status.numbers.problem


def _by_text(troubles: Iterable[Trouble]) -> Iterable[tuple[str, str]]:
    names: dict[str, list[str]] = {}
    for name, text in sorted(troubles):
        names.setdefault(text, []).append(name)
    for text, some in names.items():
        more = f" and {len(some) - _MOST_NAMES} more" if len(some) > _MOST_NAMES else ""
        yield text, ", ".join(some[:_MOST_NAMES]) + more
