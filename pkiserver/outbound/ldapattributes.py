"""What attributes with certificates and CRLs are called in a directory."""

from __future__ import annotations

_BINARY = ";binary"


def certificate_attribute(name: str, *, active_directory: bool) -> str:
    """The name under which an attribute of RFC 4523, such as ``userCertificate``, is written.

    RFC 4523 section 2 wants the option ``;binary``. Active Directory does without, and Samba's knows no options at all.
    """
    return name if active_directory else f"{name}{_BINARY}"


def bare(name: str) -> str:
    """The name without the option: servers answer with it or without, whatever they were asked for."""
    return name.removesuffix(_BINARY)


def with_option(name: str) -> str:
    """The name with the option."""
    return f"{bare(name)}{_BINARY}"
