"""Secrets have a type that does not show them."""

from __future__ import annotations

import hmac


class Secret:
    """Text or octets that must not be printed. Compared in constant time; never hashable, never pickled."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # a secret as a dictionary key would be compared in variable time

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """The octets, for the one place that needs them."""
        return self._value

    def reveal_text(self) -> str:
        """The secret as text; raises :class:`UnicodeDecodeError` when it is not UTF-8."""
        return self._value.decode()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret is not serialised")
