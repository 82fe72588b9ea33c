"""What a directory says about a password beside right or wrong: it expires soon, has expired, the account is locked.

Two sources: the password policy response control (draft-behera-ldap-password-policy-11), and the codes in Active
Directory's error text.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import attrs

from pkiserver.outbound.ldap import NOT_THE_ENTRY, PASSWORD_POLICY, LdapError
from pkiserver.registration.connectors.values import Denied, Step

_AD_DATA = re.compile(r"\bdata ([0-9a-f]{1,8})\b")
_AD = {
    "532": (Step.EXPIRED, "the password has expired"),
    "773": (Step.EXPIRED, "the password must be changed before it can be used"),
    "530": (Step.PASSWORD, "the account may not log on at this time"),
    "531": (Step.PASSWORD, "the account may not log on here"),
    "533": (Step.PASSWORD, "the account is disabled"),
    "701": (Step.PASSWORD, "the account has expired"),
    "775": (Step.PASSWORD, "the account is locked"),
}
_ERRORS = {
    0: (Step.EXPIRED, "the password has expired"),
    1: (Step.PASSWORD, "the account is locked"),
    2: (Step.EXPIRED, "the password must be changed before it can be used"),
}
# Windows' error codes ([MS-ERREF] 2.2) with which Active Directory's text begins when it refuses a new password
_AD_CHANGE = {
    "0000052D": "it does not meet the domain's policy: length, complexity, history or minimum age",
    "00000056": "the old password is wrong",
    "00000775": "the account is locked",
}
_FILETIME = datetime(1601, 1, 1, tzinfo=UTC)


@attrs.frozen
class Policy:
    """What is known of a password: seconds until it expires, logins left after that, the policy's error number."""

    expires: int | None = None
    grace: int | None = None
    error: int | None = None


def policy_of(controls: tuple[tuple[bytes, bytes], ...]) -> Policy:
    """What the password policy response control says."""
    value = next((value for oid, value in controls if oid == PASSWORD_POLICY), b"")
    if len(value) < 2 or value[0] != 0x30 or value[1] != len(value) - 2:
        return Policy()
    found = Policy()
    at = 2
    while at + 2 <= len(value):
        tag, inner = value[at], value[at + 2 : at + 2 + value[at + 1]]
        if tag == 0xA0 and inner[:1] == b"\x80":
            found = attrs.evolve(found, expires=int.from_bytes(inner[2:], "big"))
        elif tag == 0xA0 and inner[:1] == b"\x81":
            found = attrs.evolve(found, grace=int.from_bytes(inner[2:], "big"))
        elif tag == 0x81:
            found = attrs.evolve(found, error=int.from_bytes(inner, "big"))
        at += 2 + value[at + 1]
    return found


def bind_denial(error: LdapError) -> Denied:
    """Why a user's bind was refused. An expired password was the right one: saying so helps only its owner.

    Raises:
        LdapError: the same again, where it says nothing about the user: nobody can be asked now.
    """
    if error.code in NOT_THE_ENTRY:
        raise error
    found = _AD_DATA.search(error.text)
    step, text = _AD.get(found.group(1), (Step.PASSWORD, "")) if found else (Step.PASSWORD, "")
    number = policy_of(error.controls).error
    if number in _ERRORS:
        step, text = _ERRORS[number]
    return Denied(step, text or f"the directory refuses the password: {error}", proved=step is Step.EXPIRED)


def must_change(controls: tuple[tuple[bytes, bytes], ...]) -> Denied | None:
    """A bind that succeeded for changing the password only."""
    number = policy_of(controls).error
    if number in {0, 2}:
        return Denied(*_ERRORS[number], proved=True)
    return None


def change_denial(error: LdapError) -> Denied:
    """Why a new password was refused; whoever is told has proved the old one."""
    why = _AD_CHANGE.get(error.text[:8].upper())
    text = f"the directory refuses the new password: {f'{why}: ' if why else ''}{error}"
    return Denied(Step.PASSWORD, text, proved=True)


def expiry_note(policy: Policy, warning: timedelta) -> tuple[str, ...]:
    """A note where the password ends within ``warning``, or has ended and is taken a few times more."""
    if policy.grace is not None:
        left = f"{policy.grace} more login{'s' if policy.grace > 1 else ''} with it"
        return (f"the password has expired: {left if policy.grace else 'this was the last login with it'}",)
    seconds = policy.expires
    if seconds is None or seconds > warning.total_seconds():
        return ()
    days, hours = seconds // 86400, seconds // 3600
    return (f"the password expires in {f'{days} days' if days > 1 else f'{hours} hours'}",)


def ad_expiry(filetime: str, now: datetime) -> int | None:
    """Seconds until ``msDS-UserPasswordExpiryTimeComputed``; None where the password never expires."""
    if not filetime.isdigit() or not 0 < int(filetime) < 0x7FFFFFFFFFFFFFFF:
        return None
    try:
        end = _FILETIME + timedelta(microseconds=int(filetime) // 10)
    except OverflowError:
        return None
    return max(0, int((end - now).total_seconds()))
