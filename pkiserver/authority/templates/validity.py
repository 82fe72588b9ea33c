"""From when to when (RFC 5280 section 4.1.2.5: both ends belong to the period)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pkiserver.authority.requests import Wishes
from pkiserver.authority.templates.context import Context
from pkiserver.authority.templates.model import BeyondIssuer, ValidityRules, WishedValidity
from pkiserver.foundation.errors import Refusal

FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def validity(
    rules: ValidityRules, context: Context, now: datetime, issuer_from: datetime, issuer_until: datetime
) -> tuple[datetime, datetime]:
    """NotBefore and notAfter in whole seconds; reasons against them go to the context."""
    now = now.replace(microsecond=0)
    start = now - rules.backdate
    end = _end(rules, start)
    if issuer_until <= now:
        context.refuse(Refusal.BAD_VALIDITY, "the issuing CA's certificate has expired")
    if issuer_from > now:
        context.refuse(Refusal.BAD_VALIDITY, "the issuing CA's certificate is not valid yet")
    start, end = _wished(rules, context, now, start, end)
    start = max(start, issuer_from)
    if end > issuer_until:
        if rules.beyond_issuer is BeyondIssuer.REFUSE:
            text = f"would end at {end.isoformat()}, after its issuer at {issuer_until.isoformat()}"
            context.refuse(Refusal.BAD_VALIDITY, text)
        end = issuer_until
    if end - now < rules.minimum:
        context.refuse(Refusal.BAD_VALIDITY, f"would be valid until {end.isoformat()} only, which is too short")
    return start, end


def _end(rules: ValidityRules, start: datetime) -> datetime:
    if rules.not_after is not None:
        return rules.not_after.replace(microsecond=0)
    try:
        return min(start + (rules.duration or timedelta()) - _SECOND, FOREVER)
    except OverflowError:
        return FOREVER


def _wished(
    rules: ValidityRules, context: Context, now: datetime, start: datetime, end: datetime
) -> tuple[datetime, datetime]:
    wishes = context.wishes
    asked_end = _asked_end(wishes, now)
    if rules.wishes is WishedValidity.IGNORE or (asked_end is None and wishes.not_before is None):
        return start, end
    if rules.wishes is WishedValidity.REFUSE:
        context.refuse(Refusal.BAD_VALIDITY, "the template does not let a request choose its validity")
        return start, end
    if wishes.not_before is not None:
        start = max(start, wishes.not_before.replace(microsecond=0))
    if asked_end is not None:
        end = min(end, asked_end.replace(microsecond=0))
    if start >= end:
        context.refuse(Refusal.BAD_VALIDITY, "the validity asked for ends before it begins")
        return now, FOREVER
    return start, end


def _asked_end(wishes: Wishes, now: datetime) -> datetime | None:
    if wishes.not_after is not None:
        return wishes.not_after
    if wishes.lifetime_seconds is None:
        return None
    try:
        return now + timedelta(seconds=wishes.lifetime_seconds)
    except OverflowError:
        return FOREVER
