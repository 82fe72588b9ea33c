"""What commands make of what the command line says: certificates, times, reasons, files."""

from __future__ import annotations

import base64
import string
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pkiserver.authority.revocation import Selector
    from pkiserver.store.certificates import RevocationReason

_DIGEST_DIGITS = 64
_SERIAL_DIGITS = 40


def parse_hex(text: str) -> str:
    """Hexadecimal digits, without the colons, blanks and 0x that tools put in.

    Raises:
        click.BadParameter: It is something else.
    """
    digits = text.strip().lower().removeprefix("0x").replace(":", "").replace(" ", "")
    if not digits or set(digits) - set(string.hexdigits):
        raise click.BadParameter(f"{text!r} is not hexadecimal")
    return digits


def parse_digest(text: str) -> bytes:
    """A SHA-256 digest in hexadecimal; raises :class:`click.BadParameter`."""
    digits = parse_hex(text)
    if len(digits) != _DIGEST_DIGITS:
        raise click.BadParameter(f"{text!r} is no SHA-256 digest of {_DIGEST_DIGITS} hexadecimal digits")
    return bytes.fromhex(digits)


def parse_pairs(texts: tuple[str, ...], option: str) -> tuple[tuple[str, str], ...]:
    """``NAME=VALUE`` each; raises :class:`click.BadParameter`, which names the option."""
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        found.append((name, value))
    return tuple(found)


def parse_selector(text: str, authority: str | None) -> Selector:
    """The certificate that is meant: a file that exists, a fingerprint of 64 digits, or a serial number.

    Raises:
        click.BadParameter: It is none of these.
    """
    from pkiserver.authority.revocation import ByCertificate, ByFingerprint, BySerial

    path = Path(text)
    if path.is_file():
        [*found] = load_certificates(path)
        return ByCertificate(found[0])
    try:
        digits = parse_hex(text)
    except click.BadParameter:
        raise click.BadParameter(f"{text!r} is no file, no SHA-256 fingerprint and no serial number") from None
    if len(digits) == _DIGEST_DIGITS:
        return ByFingerprint(bytes.fromhex(digits))
    if len(digits) > _SERIAL_DIGITS:
        raise click.BadParameter(f"{text!r} is too long for a serial number")
    return BySerial(int(digits, 16), authority)


def load_certificates(path: Path) -> list[bytes]:
    """The certificates in a file, PEM or DER, as DER; raises :class:`click.BadParameter` when there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from pkiserver.foundation.unreadable import UNREADABLE

    data = path.read_bytes()
    try:
        found = (
            x509.load_pem_x509_certificates(data) if b"-----BEGIN" in data else [x509.load_der_x509_certificate(data)]
        )
    except UNREADABLE as error:
        raise click.BadParameter(f"{path} holds no certificate that can be read") from error
    return [one.public_bytes(Encoding.DER) for one in found]


def load_crl(path: Path) -> bytes:
    """The CRL in a file, PEM or DER, as DER; raises :class:`click.BadParameter` when there is none."""
    data = path.read_bytes()
    if b"-----BEGIN" not in data:
        return data
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from pkiserver.foundation.unreadable import UNREADABLE

    try:
        return x509.load_pem_x509_crl(data).public_bytes(Encoding.DER)
    except UNREADABLE as error:
        raise click.BadParameter(f"{path} holds no CRL that can be read") from error


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Say of a file that could not be read as ``what`` which file that is, and what it should have been."""
    from pkiserver.foundation.errors import Reason, Refusal, Rejected

    try:
        yield
    except Rejected as error:
        if not error.has(Refusal.MALFORMED):
            raise
        raise Rejected(Reason(one.code, f"{path} is no {what}: {one.text}") for one in error.reasons) from error


def read_octets(path: Path) -> bytes:
    """A small file, whole; before anything else runs, so that nothing waits for the disk meanwhile."""
    return path.read_bytes()


def read_text(path: Path) -> str:
    """A small UTF-8 text file, whole, as :func:`read_octets`; raises :class:`ConfigurationError` where it is none."""
    octets = read_octets(path)
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        from pkiserver.foundation.tomlfile import ConfigurationError, Problem

        line = octets.count(b"\n", 0, error.start) + 1
        text = f"is no UTF-8 text (octet {octets[error.start]:02X}): save it as UTF-8"
        raise ConfigurationError([Problem(str(path), line, "", text)]) from error


def pem(octets: bytes, label: str = "CERTIFICATE") -> str:
    """DER as PEM (RFC 7468)."""
    body = "\n".join(textwrap.wrap(base64.b64encode(octets).decode(), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """A time: ``2026-11-21`` or ``2026-11-21T12:00:00Z``; UTC where it says nothing else."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Text to an aware datetime."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-11-21T12:00:00Z", param, ctx)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class Reason(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """A revocation reason by name or number."""

    name = "reason"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RevocationReason:
        """Text to a reason."""
        from pkiserver.authority.status.values import parse_reason
        from pkiserver.store.certificates import RevocationReason

        if isinstance(value, RevocationReason):
            return value
        try:
            return parse_reason(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """The names that begin so."""
        from click.shell_completion import CompletionItem

        from pkiserver.authority.status.values import REASON_NAMES

        del ctx, param
        return [CompletionItem(name) for name in REASON_NAMES if name.lower().startswith(incomplete.lower())]


MOMENT = Moment()
REASON = Reason()
