"""What a template's clients are told: capabilities and CA certificates (RFC 8894 sections 3.5 and 4.2). Pure."""

from __future__ import annotations

from pkiserver.authority.templates.model import LegacyAlgorithm, Template
from protocols.scep.ports import Answerer


def capabilities(template: Template, *, has_next: bool) -> tuple[str, ...]:
    """The GetCACaps keywords: exactly what is switched on. DES and MD5 have none."""
    found = ["AES", "POSTPKIOperation", "SCEPStandard", "SHA-256", "SHA-512"]
    if LegacyAlgorithm.DES3 in template.scep.legacy:
        found.append("DES3")
    if has_next:
        found.append("GetNextCACert")
    if template.renewal.allowed:
        found.append("Renewal")
    if LegacyAlgorithm.SHA1 in template.scep.legacy:
        found.append("SHA-1")
    return tuple(sorted(found))


def ca_certificates(template: Template, answerer: Answerer) -> tuple[bytes, ...]:
    """What GetCACert gives out: whom to encrypt for, and the CAs above, in the template's order."""
    if template.scep.ca_certificates == "ra_only":
        return answerer.certificates
    above = answerer.chain
    if template.scep.ca_certificates == "without_root" and len(above) > 1:
        above = above[:-1]
    found = tuple(dict.fromkeys((*answerer.certificates, *above)))
    return found[::-1] if template.scep.ca_certificates == "root_first" else found
