"""Validators and conditional requests (RFC 9110 section 13) for answers that caches may keep."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

import attrs

from protocols.web import errors
from protocols.web.encode import pre_encode
from protocols.web.headers import Headers
from protocols.web.values import EncodedResponse, Response


def http_date(moment: datetime) -> str:
    """An IMF-fixdate (RFC 9110 section 5.6.7)."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


@attrs.frozen
class Representation:
    """What a GET answers, with what caches need to know.

    Attributes:
        body: The octets.
        content_type: Their media type.
        modified: Last-Modified, aware; fractions of a second are dropped.
        expires: Expires, aware; None leaves it out.
        cache_control: The Cache-Control field; None leaves it out.
        etag: A strong entity tag with its quotes; the SHA-256 of the body in hexadecimal where it is empty.
        headers: Further fields.
        dated: Whether ``modified`` is later than that of those before it. Where it is not, whoever has one of these
            must not be told that it is this one: If-Modified-Since is not looked at.
    """

    body: bytes = attrs.field(repr=False)
    content_type: str
    modified: datetime
    expires: datetime | None = None
    cache_control: str | None = None
    etag: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    dated: bool = True

    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields that stand in a 200 as well as in a 304 (RFC 9110 section 15.4.5)."""
        found = [("ETag", self.etag or entity_tag(self.body)), ("Last-Modified", http_date(self.modified))]
        if self.expires is not None:
            found.append(("Expires", http_date(self.expires)))
        if self.cache_control is not None:
            found.append(("Cache-Control", self.cache_control))
        return (*found, *self.headers)


def entity_tag(body: bytes) -> str:
    """A strong entity tag: the SHA-256 of the octets in hexadecimal (RFC 9919 section 7.2), in quotes."""
    return f'"{hashlib.sha256(body).hexdigest()}"'


_FAILED = errors.plain(412, "this is not the representation that was asked for")
_FAILED_ENCODED = pre_encode(_FAILED)


def _matches(given: str, etag: str) -> bool:
    # Weak comparison is what If-None-Match asks for (RFC 9110 section 13.1.2).
    tags = (tag.strip().removeprefix("W/") for tag in given.split(","))
    return any(tag in ("*", etag) for tag in tags)


def _moment(given: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(given)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def forbidden(headers: Headers, etag: str, modified: datetime) -> bool:
    """Whether the client wants another representation than this one, or none (RFC 9110 sections 13.1.1 and 13.1.4)."""
    if (given := headers.get("If-Match")) is not None:
        # Compared strongly: a weak tag matches nothing.
        return not any(tag.strip() in ("*", etag) for tag in given.split(","))
    if (until := headers.get("If-Unmodified-Since")) is None:
        return False
    moment = _moment(until)
    return moment is not None and modified.replace(microsecond=0) > moment


def unchanged(headers: Headers, etag: str, modified: datetime, *, dated: bool = True) -> bool:
    """Whether a GET's validators say that the client has this representation already (RFC 9110 section 13.2.2)."""
    if (given := headers.get("If-None-Match")) is not None:
        return _matches(given, etag)
    if not dated or (since := headers.get("If-Modified-Since")) is None:
        return False
    moment = _moment(since)
    return moment is not None and modified.replace(microsecond=0) <= moment


def respond(headers: Headers, found: Representation) -> Response:
    """200 with the representation, 304 when the client has it already, 412 when it wants another one."""
    fields = found.fields()
    etag = dict(fields)["ETag"]
    if forbidden(headers, etag, found.modified):
        return _FAILED
    if unchanged(headers, etag, found.modified, dated=found.dated):
        return Response(304, headers=fields)
    return Response(200, found.body, found.content_type, fields)


class PreparedRepresentation:
    """A representation whose 200 and 304 are encoded once, for answers that are asked for often.

    Raises:
        Defect: a header field holds what a header cannot carry.
    """

    def __init__(self, found: Representation) -> None:
        fields = found.fields()
        self._etag = dict(fields)["ETag"]
        self._modified = found.modified
        self._dated = found.dated
        self._full = pre_encode(Response(200, found.body, found.content_type, fields))
        self._not_modified = pre_encode(Response(304, headers=fields))

    def answer(self, headers: Headers) -> EncodedResponse:
        """What :func:`respond` answers, without encoding anything."""
        if not headers.conditional:
            return self._full
        if forbidden(headers, self._etag, self._modified):
            return _FAILED_ENCODED
        same = unchanged(headers, self._etag, self._modified, dated=self._dated)
        return self._not_modified if same else self._full
