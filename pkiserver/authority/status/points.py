"""The distribution points of an authority: which lists of revoked certificates there are and what each is about."""

from __future__ import annotations

import enum
import re
from datetime import timedelta

import attrs

from pkiserver.foundation.bounds import lasting
from pkiserver.foundation.tomlfile import Invalid, format_duration
from pkiserver.store.authority.crls import FULL_SCOPE, Covers

MOST_SHARDS = 4096
_NAME = re.compile(r"(?:[a-z][a-z0-9-]{0,31})?")
_of_a_delta = lasting(timedelta(seconds=1), timedelta(days=3650))
_RESERVED = frozenset({FULL_SCOPE, "delta"})


class Partition(enum.StrEnum):
    """Whether a distribution point is one list or several."""

    NONE = "none"
    SHARDS = "shards"
    """Each certificate is assigned to one of a number of lists when it is issued."""
    TEMPLATES = "templates"
    """One list for each template."""


class Bounded(enum.StrEnum):
    """Which complete lists are bounded to the certificates of the key that signs them.

    A bounded list names its distribution point in a critical extension, which some simple clients do not know; one that
    is not speaks for all certificates of the issuer's name, whichever of its keys signed them.
    """

    LATER_KEYS = "later-keys"
    """Those of every key of the name but the first."""
    ALWAYS = "always"
    NEVER = "never"


def _point_name(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    del instance, attribute
    if not _NAME.fullmatch(value) or value in _RESERVED:
        allowed = 'up to 32 of a-z, 0-9 and "-", beginning with a letter; not "full" or "delta"'
        raise Invalid(f"{value!r} is no name of a distribution point", allowed=allowed)


@attrs.frozen
class Point:
    """A distribution point, or with a partition a family of them.

    Attributes:
        name: Its part of the path; empty for the one at the path of the key itself, or, for a partition or where only
            some certificates are covered, to be named after that.
        covers: Whose certificates: all, users' (end entities'), authorities'. By default all, in partitions users'.
        partition: One list, or one for each shard or template.
        shards: How many, for new certificates. Shards that certificates name are issued on even when it is lowered.
        templates: For a partition by template, which; empty for every template.
        announced: Whether certificates name it. Lists that are not announced are for whoever knows where they are.
    """

    name: str = attrs.field(default="", validator=_point_name)
    covers: Covers | None = None
    partition: Partition = Partition.NONE
    shards: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, MOST_SHARDS + 1)))
    templates: tuple[str, ...] = ()
    announced: bool = True

    def __attrs_post_init__(self) -> None:
        if self.templates and self.partition is not Partition.TEMPLATES:
            text = "are for a partition by template"
            raise Invalid(text, key="templates", allowed='with partition = "templates"')

    @property
    def coverage(self) -> Covers:
        """Whose certificates its lists are about."""
        if self.covers is not None:
            return self.covers
        return Covers.ALL if self.partition is Partition.NONE else Covers.USERS

    @property
    def label(self) -> str:
        """Its part of the path; empty for the one at the path of the key itself."""
        if self.name:
            return self.name
        if self.partition is not Partition.NONE:
            return self.partition.value
        return "" if self.coverage is Covers.ALL else self.coverage.value

    def has(self, *, ca: bool) -> bool:
        """Whether it is about a CA's certificates, or about others."""
        return self.coverage is Covers.ALL or (self.coverage is Covers.AUTHORITIES) == ca

    def has_template(self, template: str) -> bool:
        """Whether there is a list for a template; partitions by template only."""
        return bool(template) and (not self.templates or template in self.templates)


@attrs.frozen
class DeltaPolicy:
    """Delta CRLs: what changed since a complete list, shorter and more often.

    Attributes:
        interval: From one to the next.
        validity: From thisUpdate to nextUpdate.
        complete_on_revocation: Whether a change of status brings a complete list too, and not only a delta.
    """

    interval: timedelta = attrs.field(default=timedelta(minutes=15), validator=_of_a_delta)
    validity: timedelta = attrs.field(default=timedelta(hours=2), validator=_of_a_delta)
    complete_on_revocation: bool = False

    def __attrs_post_init__(self) -> None:
        if self.interval >= self.validity:
            text = "a delta would be out of date before the next one"
            raise Invalid(text, key="validity", allowed=f"more than its interval, {format_duration(self.interval)}")


def check_points(points: tuple[Point, ...]) -> None:
    """Raise :class:`Invalid` where two distribution points cannot be together."""
    labels = [point.label for point in points]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        text = f"two distribution points have the same name: {', '.join(twice) or '(empty)'}"
        raise Invalid(text, key="points", allowed="each with a name of its own")
    if sum(point.partition is Partition.SHARDS for point in points) > 1:
        text = "a certificate can be in one shard only"
        raise Invalid(text, key="points", allowed='one distribution point with partition = "shards"')
