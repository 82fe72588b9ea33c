"""Getting lists from where the settings say, and from nowhere else: no URL in a certificate or list is followed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import attrs
from twisted.internet.threads import deferToThread

from pkiserver.authority.validation.lists import MOST_OCTETS
from pkiserver.authority.validation.settings import LdapFeed
from pkiserver.foundation.errors import Unavailable
from pkiserver.outbound.addresses import LdapServer, Timeouts, WebAddress
from pkiserver.outbound.http import fetch
from pkiserver.outbound.ldap import LdapError, LdapService, open_server
from pkiserver.outbound.ldapwire import Scope
from pkiserver.outbound.problems import OutboundError

TIMEOUTS = Timeouts(connect=timedelta(seconds=10), answer=timedelta(seconds=120))


@attrs.frozen
class Fetched:
    """What a source gave; ``data`` is None where it has nothing new. ``etag`` is for the next look."""

    data: bytes | None = attrs.field(repr=False)
    etag: str = ""


async def fetch_list(url: str, etag: str) -> Fetched:
    """Get a DER CRL from a feed's URL.

    Raises:
        Unavailable: it cannot be had, and why.
    """
    scheme = urlsplit(url).scheme
    try:
        if scheme == "http":
            return await _from_http(url, etag)
        if scheme == "ldap":
            return Fetched(await _from_ldap(LdapFeed.parse(url)))
        return Fetched(await deferToThread(_from_file, Path(unquote(urlsplit(url).path))))
    except OSError as error:
        raise Unavailable(f"{url}: cannot be read: {error.strerror or error}") from error
    except (OutboundError, LdapError) as error:
        raise Unavailable(f"{url}: {error}") from error


async def _from_http(url: str, etag: str) -> Fetched:
    headers = {"If-None-Match": etag} if etag else {}
    answer = await fetch(WebAddress.parse(url), trust=None, timeouts=TIMEOUTS, headers=headers, limit=MOST_OCTETS)
    if answer.status == 304:
        return Fetched(None, etag)
    if answer.status != 200:
        raise Unavailable(f"{url}: the answer has status {answer.status}")
    return Fetched(answer.body, answer.header("ETag") or "")


async def _from_ldap(feed: LdapFeed) -> bytes:
    server = LdapServer.parse(feed.server)
    connection = await open_server(LdapService((server,), trust=None, timeouts=TIMEOUTS), server)
    try:
        entries = await connection.search(feed.dn, Scope.BASE, feed.filter, (feed.attribute,), limit=1)
    finally:
        await connection.close()
    # Servers call a list ";binary" (RFC 4523 section 2.2) whether they were asked for it so or not.
    wanted = _plain(feed.attribute)
    values = [value for entry in entries for key, some in entry.attributes if _plain(key) == wanted for value in some]
    if len(values) != 1:
        raise Unavailable(f"{feed.server}: {feed.dn} has {len(values)} values of {feed.attribute}, not one")
    return values[0]


def _plain(attribute: str) -> str:
    """An attribute's name without options."""
    return attribute.partition(";")[0].lower()


def _from_file(path: Path) -> bytes:
    with path.open("rb") as source:
        data = source.read(MOST_OCTETS + 1)
    if len(data) > MOST_OCTETS:
        raise OSError(f"{path} has more than {MOST_OCTETS} octets")
    return data
