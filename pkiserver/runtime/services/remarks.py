"""What an administrator should look at in a protocol's settings: readiness says it while it is so, the log once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from twisted.logger import Logger

from pkiserver.runtime.health import Finding, Health, NamedCheck


class Remarks:
    """The remarks on one protocol.

    Args:
        name: The protocol's, as checks and log lines have it.
        look: All that is to be said now; cheap.
        well: What is said where there is nothing to remark.
    """

    def __init__(self, name: str, look: Callable[[], Iterable[str]], well: Callable[[], str]) -> None:
        self._name = name
        self._look = look
        self._well = well
        self._told: frozenset[str] = frozenset()
        self._log = Logger(namespace=f"pkiserver.{name}")

    def check(self) -> NamedCheck:
        """The remarks in readiness."""

        async def run() -> Sequence[Finding]:
            found = [Finding(self._name, Health.WARNING, text) for text in sorted(set(self._look()))]
            return found or [Finding(self._name, Health.OK, self._well())]

        return NamedCheck(self._name, run)

    async def tell(self) -> None:
        """Log those that are new."""
        found = frozenset(self._look())
        for text in sorted(found - self._told):
            self._log.warn("{protocol}: {what}", protocol=self._name.upper(), what=text)
        self._told = found


def missing_default(section: str, wanted: str, usable: Collection[str]) -> Iterable[str]:
    """Whether the template for paths without a name is none: its name may be wrong, or not be applied yet."""
    if wanted and wanted not in usable:
        allowed = ", ".join(sorted(usable)) or "none yet"
        text = f"{wanted!r} is no template that {section.upper()} may use (allowed: {allowed})"
        yield f"[{section}] default_template: {text}"
