"""What settings of an authority must not say though each of them is right: looked at when they are written.

Not when they are read: an authority that was set up before a rule was known goes on working as it did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import timedelta

import attrs

from pkiserver.authority.delegates.ra_policy import RaKeys, opens_envelopes
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.status.points import Partition
from pkiserver.authority.status.policy import OcspSigning
from pkiserver.foundation.durations import format_duration
from pkiserver.foundation.tomlfile import Problem, TomlIndex, format_path
from pkiserver.keys.algorithms import KeyType, load_spki
from pkiserver.store.authority.keys import SigningKey

_LOOKS = timedelta(minutes=1)
"""From one look whether a responder is to be made, in each process, to the next."""
_SHOWN = 20
"""Names that a message lists at most."""


@attrs.frozen
class Contradiction:
    """Something that cannot be: where it stands in the settings, what is wrong, and what is allowed."""

    path: tuple[str | int, ...]
    message: str
    allowed: str


def contradictions(settings: AuthoritySettings) -> Iterator[Contradiction]:
    """What cannot be, whatever else there is on this server."""
    crl, publication = settings.crl, settings.publication
    for position, point in enumerate(crl.points):
        if point.partition is not Partition.NONE and not publication.urls(publication.crl, "path"):
            yield Contradiction(
                ("crl", "points", position, "partition"),
                "lists in parts are known by their URLs, and these have none",
                "with publication.base_url, or with URLs in publication.crl that need no {base}",
            )
    ocsp = settings.ocsp
    if ocsp.signing is not OcspSigning.AUTHORITY and ocsp.renew_before < _LOOKS * 2:
        yield Contradiction(
            ("ocsp", "renew_before"),
            "a responder would end before its successor signs everywhere: each process looks once a minute",
            f"{format_duration(_LOOKS * 2)} and more",
        )
    if crl.delta is not None and crl.delta.validity > crl.validity:
        yield Contradiction(
            ("crl", "delta", "validity"),
            "a delta would outlive the complete list that it changes",
            f"up to crl.validity, {format_duration(crl.validity)}",
        )
    if len(crl.points) > 1 or any(point.partition is not Partition.NONE for point in crl.points):
        patterns = {"crl": publication.crl, "delta": publication.delta if crl.delta is not None else ()}
        for key, urls in patterns.items():
            for position, url in enumerate(urls):
                if "{path}" not in url and "{name}" not in url:
                    text = f'several lists would be at the one URL "{url}"'
                    yield Contradiction(("publication", key, position), text, "URLs with {path} or {name} in them")


def unknown_templates(settings: AuthoritySettings, templates: Collection[str]) -> Iterator[Contradiction]:
    """Distribution points of templates that are not among ``templates``, those that there are."""
    known = sorted(templates)
    allowed = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "") if known else "none: there is none"
    for position, point in enumerate(settings.crl.points):
        for number, name in enumerate(point.templates):
            if name not in templates:
                path = ("crl", "points", position, "templates", number)
                yield Contradiction(path, f'there is no template "{name}"', allowed)


def unfit_keys(settings: AuthoritySettings, keys: Iterable[SigningKey]) -> Iterator[Contradiction]:
    """``scep.ra = "authority"`` where none of the authority's own keys was made to open envelopes."""
    if settings.scep.ra is RaKeys.AUTHORITY and not any(_opens(one) for one in keys):
        text = "no key of this authority was made for it: an RSA key of pkiserver ca create --scep or ca rekey --scep"
        yield Contradiction(("scep", "ra"), text, f'"{RaKeys.ONE}", "{RaKeys.TWO}"')


def _opens(key: SigningKey) -> bool:
    return opens_envelopes(KeyType.of(load_spki(key.spki)), key.doors)


def as_problems(found: Iterable[Contradiction], source: str, file: str, *table: str) -> list[Problem]:
    """Contradictions as problems of a text whose ``table`` has the settings."""
    index = TomlIndex(source)
    paths = [((*table, *one.path), one) for one in found]
    return [Problem(file, index.line(path), format_path(path), one.message, one.allowed) for path, one in paths]
