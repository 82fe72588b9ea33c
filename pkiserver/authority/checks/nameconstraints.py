"""Names of a certificate to be against the name constraints of its issuers (RFC 5280 section 4.2.1.10).

A verifier would refuse the chain; so the certificate is not made.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import urlsplit

import attrs
from cryptography import x509
from cryptography.x509.oid import NameOID

from pkiserver.foundation.errors import Reason, Refusal
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.listing import listed

_WHAT: dict[type[x509.GeneralName], str] = {
    x509.DNSName: "DNS name",
    x509.RFC822Name: "mail address",
    x509.UniformResourceIdentifier: "URI",
    x509.IPAddress: "IP address",
    x509.DirectoryName: "directory name",
}
_PLURAL = {what: f"{what}es" if what.endswith("s") else f"{what}s" for what in _WHAT.values()}


@attrs.frozen
class NameLimits:
    """What the certificates of a chain constrain: each one's permitted subtrees must be met, no excluded one may be."""

    permitted: tuple[tuple[x509.GeneralName, ...], ...]
    excluded: tuple[x509.GeneralName, ...]

    def reasons(self, subject: x509.Name, sans: Iterable[x509.GeneralName]) -> tuple[Reason, ...]:
        """Why these names may not be certified; empty where they may."""
        if not self.permitted and not self.excluded:
            return ()
        against: dict[type[x509.GeneralName], list[str]] = {}
        for name in _constrained(subject, sans):
            if not self._allows(name):
                against.setdefault(type(name), []).append(_shown(name))
        return tuple(_reason(kind, names) for kind, names in against.items())

    def _allows(self, name: x509.GeneralName) -> bool:
        kind = type(name)
        if any(type(one) is kind and _within(name, one, widely=True) for one in self.excluded):
            return False
        for subtrees in self.permitted:
            same = [one for one in subtrees if type(one) is kind]
            if same and not any(_within(name, one, widely=False) for one in same):
                return False
        return True


def _reason(kind: type[x509.GeneralName], names: list[str]) -> Reason:
    what = _WHAT.get(kind)
    if what is None:
        text = "the issuer's name constraints hold a kind of name that cannot be compared"
    else:
        words = what if len(names) == 1 else _PLURAL[what]
        text = f"the issuer's name constraints do not allow the {words} {listed(names)}"
    return Reason(Refusal.BAD_NAME, text)


@lru_cache(maxsize=256)
def limits_along(chain: tuple[bytes, ...]) -> NameLimits:
    """The name constraints of an issuer's chain (DER certificates, the issuer's own first)."""
    permitted: list[tuple[x509.GeneralName, ...]] = []
    excluded: list[x509.GeneralName] = []
    for octets in chain:
        found = extension_value(x509.load_der_x509_certificate(octets), x509.NameConstraints)
        if found is not None:
            permitted.append(tuple(found.permitted_subtrees or ()))
            excluded += found.excluded_subtrees or ()
    return NameLimits(tuple(permitted), tuple(excluded))


def _constrained(subject: x509.Name, sans: Iterable[x509.GeneralName]) -> Iterator[x509.GeneralName]:
    """Every name that constraints speak of: the subject, the mail addresses in it, the alternative names."""
    if len(subject.rdns):
        yield x509.DirectoryName(subject)
    for attribute in subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
        text = attribute.value if isinstance(attribute.value, str) else ""
        if text.isascii():
            yield x509.RFC822Name(text)
    yield from sans


def _within(name: x509.GeneralName, tree: x509.GeneralName, *, widely: bool) -> bool:
    """Whether a name lies in a subtree of its own kind.

    ``widely`` asks for excluded subtrees: what may lie within, and what cannot be compared, counts as within.
    """
    if isinstance(name, x509.DNSName) and isinstance(tree, x509.DNSName):
        return _dns_within(name.value.lower(), tree.value.lower(), widely=widely)
    if isinstance(name, x509.RFC822Name) and isinstance(tree, x509.RFC822Name):
        return _mail_within(name.value, tree.value)
    if isinstance(name, x509.UniformResourceIdentifier) and isinstance(tree, x509.UniformResourceIdentifier):
        host = _uri_host(name.value)
        return widely if host is None else _host_within(host, tree.value.lower())
    if isinstance(name, x509.IPAddress) and isinstance(tree, x509.IPAddress):
        return _address_within(name, tree)
    if isinstance(name, x509.DirectoryName) and isinstance(tree, x509.DirectoryName):
        wanted, found = _folded(tree.value), _folded(name.value)
        return found[: len(wanted)] == wanted
    return widely


def _dns_within(name: str, tree: str, *, widely: bool) -> bool:
    if not tree or name == tree or name.endswith(tree if tree.startswith(".") else f".{tree}"):
        return True
    # A wildcard stands for one label: it may be the excluded one.
    return widely and name.startswith("*.") and tree.lstrip(".").partition(".")[2] == name[2:]


def _mail_within(name: str, tree: str) -> bool:
    local, _, host = name.rpartition("@")
    if "@" in tree:
        wanted_local, _, wanted_host = tree.rpartition("@")
        return local == wanted_local and host.lower() == wanted_host.lower()
    return _host_within(host.lower(), tree.lower())


def _host_within(host: str, tree: str) -> bool:
    """Mail and URI constraints name one host, or with a leading dot all hosts below a domain."""
    return not tree or (host.endswith(tree) if tree.startswith(".") else host == tree)


def _uri_host(uri: str) -> str | None:
    """The fully qualified host of a URI; None where it has none, which meets no constraint."""
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        return None
    if host is None or "." not in host or ":" in host or host.replace(".", "").isdigit():
        return None
    return host.lower()


def _address_within(name: x509.IPAddress, tree: x509.IPAddress) -> bool:
    address, network = name.value, tree.value
    if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address) and isinstance(
        network, ipaddress.IPv4Network | ipaddress.IPv6Network
    ):
        return address in network
    return False


def _folded(name: x509.Name) -> list[frozenset[tuple[str, str]]]:
    """A DN for comparison: case and runs of spaces do not count (RFC 5280 section 7.1)."""
    return [
        frozenset((one.oid.dotted_string, " ".join(str(one.value).casefold().split())) for one in rdn)
        for rdn in name.rdns
    ]


def _shown(name: x509.GeneralName) -> str:
    value = name.value
    return value.rfc4514_string() if isinstance(value, x509.Name) else str(value)
