"""Where the status of a key generation's certificates is found, and which list each certificate belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from pkiserver.authority.model import Authority, Generation
from pkiserver.authority.status.points import Bounded, Partition, Point
from pkiserver.store.authority.crls import FULL_SCOPE, Cover, Covers, CrlScope


def scope_path(crl_path: str, scope: str) -> str:
    """The path of a list's URL below the key generation's own."""
    return crl_path if scope == FULL_SCOPE else f"{crl_path}/{scope}"


@attrs.frozen
class DistributionPoint:
    """One list of a key generation: its scope's name, what it covers, its URLs and those of its deltas."""

    issuer_id: int
    generation_id: int
    scope: str
    cover: Cover
    urls: tuple[str, ...]
    delta_urls: tuple[str, ...]


@attrs.frozen
class Distribution:
    """The distribution points of one key generation. ``is_first``: it is the first of its issuer's name."""

    authority: Authority
    generation: Generation
    is_first: bool

    def standing(self) -> tuple[DistributionPoint, ...]:
        """Every list that there is whatever certificates are issued: all but those by template."""
        found: list[DistributionPoint] = []
        for point in self.authority.settings.crl.points:
            match point.partition:
                case Partition.NONE:
                    found.append(self._point(point, point.label))
                case Partition.SHARDS:
                    found += [self._shard(point, number) for number in range(point.shards)]
                case Partition.TEMPLATES:
                    found += [self._template(point, name) for name in point.templates]
        return tuple(one for one in found if self._can_be(one))

    def is_kept_up(self, scope: CrlScope) -> bool:
        """Whether lists are still to come in a scope: the settings have it, certificates name it, or they come in."""
        offline = self.generation.key_name is None
        return scope.announced or offline or scope.scope in {point.scope for point in self.standing()}

    def named(self, *, template: str, ca: bool, drawn: int) -> tuple[DistributionPoint, ...]:
        """Those that a new certificate names; ``drawn`` is a number that chooses its shard."""
        return tuple(one for one in self._named(template, ca, drawn) if one.urls)

    def _named(self, template: str, ca: bool, drawn: int) -> Iterator[DistributionPoint]:
        for point in self.authority.settings.crl.points:
            if not point.announced or not point.has(ca=ca):
                continue
            match point.partition:
                case Partition.NONE:
                    yield self._point(point, point.label)
                case Partition.SHARDS:
                    yield self._shard(point, drawn % point.shards)
                case Partition.TEMPLATES if point.has_template(template):
                    yield self._template(point, template)

    def of_scope(self, scope: CrlScope) -> DistributionPoint:
        """The list of a scope as the database knows it, whatever the settings say now."""
        publication = self.authority.settings.publication
        path = scope_path(self.generation.crl_path, scope.scope)
        return DistributionPoint(
            issuer_id=scope.issuer_id,
            generation_id=scope.generation_id,
            scope=scope.scope,
            cover=scope.cover,
            urls=publication.urls(publication.crl, path),
            delta_urls=self._delta_urls(path),
        )

    def main(self) -> DistributionPoint:
        """The complete list at the path of the key itself, whether or not the settings have it."""
        return self._point(Point(), "")

    @staticmethod
    def _can_be(point: DistributionPoint) -> bool:
        # Without a URL a partition has no name of its own, and so no scope.
        return bool(point.urls) or not point.cover.bounded

    def _shard(self, point: Point, number: int) -> DistributionPoint:
        return self._point(point, f"{point.label}/{number}", shard=number)

    def _template(self, point: Point, template: str) -> DistributionPoint:
        return self._point(point, f"{point.label}/{template}", template=template)

    def _point(
        self, point: Point, label: str, *, shard: int | None = None, template: str | None = None
    ) -> DistributionPoint:
        publication = self.authority.settings.publication
        scope = label or FULL_SCOPE
        path = scope_path(self.generation.crl_path, scope)
        urls = publication.urls(publication.crl, path)
        bounded = point.partition is not Partition.NONE or (bool(urls) and self._is_bounded())
        cover = Cover(
            covers=point.coverage, shard=shard, template=template, bounded=bounded, urls=urls if bounded else ()
        )
        return DistributionPoint(
            issuer_id=self.authority.issuer_id,
            generation_id=self.generation.id,
            scope=scope,
            cover=cover,
            urls=urls,
            delta_urls=self._delta_urls(path),
        )

    def _is_bounded(self) -> bool:
        match self.authority.settings.crl.bounded:
            case Bounded.ALWAYS:
                return True
            case Bounded.NEVER:
                return False
            case Bounded.LATER_KEYS:
                return not self.is_first

    def _delta_urls(self, path: str) -> tuple[str, ...]:
        settings = self.authority.settings
        return settings.publication.urls(settings.publication.delta, path) if settings.crl.delta is not None else ()


def covers_text(cover: Cover) -> str:
    """What a list is about, in words."""
    whose = {Covers.ALL: "all certificates", Covers.USERS: "end entities", Covers.AUTHORITIES: "authorities"}
    parts = [whose[cover.covers]]
    if cover.shard is not None:
        parts.append(f"shard {cover.shard}")
    if cover.template is not None:
        parts.append(f"template {cover.template}")
    parts.append("of this key" if cover.bounded else "of the name")
    return ", ".join(parts)
