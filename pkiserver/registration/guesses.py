"""Wrong guesses at passwords, codes and challenges slow down: by address, and by template.

Counted in the database, so that the figures hold for all workers and nodes together, and over restarts. Asking costs
one read by key, being right no write of the request's own; being wrong is written before the guesser is told, and
while that cannot be done nothing that can be guessed is looked at.

* An address may be wrong ``free`` times; after that each wrong guess doubles a pause, from one second up to
  ``longest``, in which nothing of that address is looked at. One wrong guess is forgiven for each ``forgive`` that
  passes. Being right forgives nothing, or a guesser with an account of their own would never be slowed.
* All addresses together may be wrong about one template ``template_rate`` times a minute. Beyond that, until the minute
  has gone, only addresses that were right lately are listened to, so that a guesser with many addresses slows down
  without shutting out those who are known. Addresses that are right are written down a minute later, many at once.
"""

from __future__ import annotations

import ipaddress
import math
from datetime import datetime, timedelta

from sqlalchemy import Connection
from twisted.internet.defer import DeferredLock

from pkiserver.foundation import bounded
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Unavailable
from pkiserver.registration.guesssettings import GuessSettings
from pkiserver.store.database import Database
from pkiserver.store.registration import guesses as rows
from pkiserver.store.registration.guesses import Charge, Kind, Mark

MOST_ROWS = 65536
"""Rows of each kind that are kept in the database; those that would end soonest go first."""
MOST_KNOWN = 4096
"""Addresses that were right and are not written down yet, in each process; the one that came first goes."""
FLUSH_SECONDS = 60.0
_CLEAN_AFTER = 256
"""Writes of wrong guesses after which old rows are looked for: an attack pays for its own cleaning."""
_KNOWN_FOR = timedelta(days=1)
_KNOWN_ANEW = timedelta(hours=12)
"""An address that is right is written down again when it is known for less than that."""
_MINUTE = timedelta(minutes=1)
_IPV6_SITE = 64
"""Bits of an IPv6 address that tell sites apart; a site chooses the rest."""
_MOST_NAME = 256
TOO_MANY = "too many wrong guesses: try again later"


class Guesses:
    """Counts wrong guesses and says who has to wait."""

    def __init__(self, settings: GuessSettings, database: Database, clock: Clock) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._exempt = tuple(ipaddress.ip_network(text) for text in settings.exempt)
        self._owed: dict[Charge, int] = {}
        self._failing = False
        self._writing = DeferredLock()
        self._writes = 0
        self._known: dict[str, datetime] = {}
        self._new: dict[str, None] = {}

    async def check(self, template: str, address: str) -> None:
        """Ask before a secret that can be guessed is looked at; one read by key.

        Args:
            template: The name of a template that exists, or of a service (with a colon first).
            address: The peer's address as text.

        Raises:
            Unavailable: too many wrong guesses, ``retry_after`` says when to try again; or they cannot be counted.
        """
        if self._failing:
            await self._settle()
        site = None if self.is_exempt(address) else site_of(address)
        marks = await self._database.look_up(
            lambda connection: rows.look(connection, address=site or "", template=template[:_MOST_NAME])
        )
        now = self._clock.now()
        waits = self._address_waits(marks.get(Kind.ADDRESS), now) if site is not None else timedelta()
        if waits > timedelta():
            raise Unavailable(TOO_MANY, retry_after=math.ceil(waits.total_seconds()), public=True)
        if site is not None and self._is_known(site, marks.get(Kind.KNOWN), now):
            return
        waits = self._template_waits(marks.get(Kind.TEMPLATE), now)
        if waits > timedelta():
            raise Unavailable(TOO_MANY, retry_after=math.ceil(waits.total_seconds()) + 1, public=True)

    async def wrong(self, template: str, address: str) -> None:
        """A guess was wrong. Returns when all processes know; raises :class:`Unavailable` where that cannot be had."""
        # Guesses that ran side by side are all charged, but the debt is bounded.
        self._owe(Charge(Kind.TEMPLATE, template[:_MOST_NAME], self._per_guess, 2 * _MINUTE))
        if not self.is_exempt(address):
            forgive = self._settings.forgive
            self._owe(Charge(Kind.ADDRESS, site_of(address), forgive, self._most_wrong * forgive))
        await self._settle()

    def right(self, address: str) -> None:
        """A secret was right: the address is known for a day, to this process at once and to all a minute later."""
        if self.is_exempt(address):
            return
        site, now = site_of(address), self._clock.now()
        known = self._known.get(site)
        if known is None or known - now < _KNOWN_ANEW or known - now > _KNOWN_FOR:
            bounded.keep(self._known, site, now + _KNOWN_FOR, most=MOST_ROWS)
            bounded.keep(self._new, site, None, most=MOST_KNOWN)

    async def flush(self) -> None:
        """Write down who was right, many at once; raises :class:`Unavailable`."""
        new, self._new = self._new, {}
        now = self._clock.now()

        def work(connection: Connection) -> None:
            rows.know(connection, new, at=now, until=now + _KNOWN_FOR)

        if new:
            try:
                await self._database.write(work)
            except PkiError:
                self._new = {**new, **self._new}
                raise

    # -- how long -----------------------------------------------------------------------------------------------------

    @property
    def _per_guess(self) -> timedelta:
        return _MINUTE / self._settings.template_rate

    @property
    def _most_wrong(self) -> int:
        """Wrong guesses that are counted: those that bring the longest pause."""
        return self._settings.free + 1 + max(0, math.ceil(math.log2(self._settings.longest.total_seconds())))

    def _address_waits(self, mark: Mark | None, now: datetime) -> timedelta:
        """How long an address still has to wait, by its last wrong guess and by what was not forgiven then."""
        if mark is None:
            return timedelta()
        forgive, longest = self._settings.forgive, self._settings.longest
        beyond = -((mark.at - mark.ends + self._settings.free * forgive) // forgive)
        if beyond <= 0:
            return timedelta()
        waits = mark.at + min(longest, timedelta(seconds=2.0 ** min(beyond - 1, 32))) - now
        # longer than the longest: the clock that wrote it was wrong
        return waits if waits <= longest else timedelta()

    def _template_waits(self, mark: Mark | None, now: datetime) -> timedelta:
        """How long until one more guess about a template is allowed."""
        if mark is None or mark.ends - now > 2 * _MINUTE:
            return timedelta()
        return mark.ends - now - (_MINUTE - self._per_guess)

    def _is_known(self, site: str, mark: Mark | None, now: datetime) -> bool:
        until = (self._known.get(site), None if mark is None else mark.ends)
        return any(one is not None and now < one <= now + _KNOWN_FOR for one in until)

    # -- counting -----------------------------------------------------------------------------------------------------

    def _owe(self, charge: Charge) -> None:
        self._owed[charge] = self._owed.get(charge, 0) + 1

    async def _settle(self) -> None:
        """Write what is owed: one write at a time, each with all that has come up meanwhile."""
        async with self._writing:
            if self._owed:
                await self._write()

    async def _write(self) -> None:
        owed, self._owed = self._owed, {}
        now = self._clock.now()
        cleans = self._writes % _CLEAN_AFTER == 0
        self._writes += 1

        def work(connection: Connection) -> None:
            rows.charge(connection, owed, now=now)
            if cleans:
                rows.forget(connection, now=now, keep=MOST_ROWS)

        try:
            await self._database.write(work)
        except BaseException:
            self._failing = True
            for charge, count in owed.items():
                self._owed[charge] = self._owed.get(charge, 0) + count
            raise
        self._failing = False

    def is_exempt(self, address: str) -> bool:
        """Whether many may be behind an address, by the settings."""
        if not self._exempt:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._exempt)


def site_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the site of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:_MOST_NAME]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(parsed), _IPV6_SITE), strict=False))  # without a zone
    return str(parsed)
