"""Extensions that depend on the template alone: made once per template revision."""

from __future__ import annotations

import re

from cryptography import x509

from pkiserver.authority.extensions import Extension, extension, raw_extension
from pkiserver.authority.templates import encoding
from pkiserver.authority.templates.context import Context
from pkiserver.authority.templates.model import Template
from pkiserver.authority.templates.model_extensions import (
    BasicConstraintsMode,
    CaRules,
    KeyUsageRules,
    MicrosoftRules,
    NameSpaces,
    Policy,
)
from pkiserver.authority.templates.sankinds import directory_name
from pkiserver.authority.templates.usages import USAGES_OF, Capability, Usage
from pkiserver.foundation.errors import Refusal

_SID = re.compile(r"S-1-[0-9]{1,14}(?:-[0-9]{1,10}){1,15}")


def key_usages(rules: KeyUsageRules) -> dict[Capability, frozenset[Usage]]:
    """For each kind of key the usages that it can have."""
    usages = frozenset(rules.usages)
    narrowing = {Usage.ENCIPHER_ONLY, Usage.DECIPHER_ONLY}
    found = {}
    for kind, possible in USAGES_OF.items():
        kept = usages & possible
        found[kind] = kept if Usage.KEY_AGREEMENT in kept else kept - narrowing
    return found


def static_extensions(template: Template) -> tuple[Extension, ...]:
    """Everything that neither request nor issuer changes, except key usages and purposes."""
    found: list[Extension] = []
    if template.ca is not None:
        found += _ca_extensions(template.ca)
    elif template.basic_constraints is not BasicConstraintsMode.ABSENT:
        critical = template.basic_constraints is BasicConstraintsMode.CRITICAL
        found.append(extension(x509.BasicConstraints(ca=False, path_length=None), critical=critical))
    if template.policies:
        policies = x509.CertificatePolicies(map(_policy, template.policies))
        found.append(extension(policies, critical=template.policies_critical))
    if template.qc_statements is not None:
        statements = encoding.qc_statements(template.qc_statements)
        found.append(raw_extension(encoding.QC_STATEMENTS, statements, critical=template.qc_statements.critical))
    if template.microsoft is not None:
        found += _microsoft(template.microsoft, template)
    if template.must_staple:
        found.append(extension(x509.TLSFeature([x509.TLSFeatureType.status_request])))
    if template.ocsp_no_check:
        found.append(extension(x509.OCSPNoCheck()))
    found += [raw_extension(own.oid.value, own.der.data, critical=own.critical) for own in template.extensions]
    return tuple(found)


def _policy(policy: Policy) -> x509.PolicyInformation:
    qualifiers: list[str | x509.UserNotice] = [*policy.cps]
    if policy.notice is not None:
        qualifiers.append(x509.UserNotice(None, policy.notice))
    return x509.PolicyInformation(x509.ObjectIdentifier(policy.oid.value), qualifiers or None)


def _microsoft(rules: MicrosoftRules, template: Template) -> list[Extension]:
    found = []
    if rules.template_name is not None:
        found.append(raw_extension(encoding.TEMPLATE_NAME, encoding.template_name(rules.template_name)))
    if rules.template_oid is not None:
        oid = x509.ObjectIdentifier(rules.template_oid.value)
        found.append(extension(x509.MSCertificateTemplate(oid, rules.major_version, rules.minor_version)))
    if rules.application_policies and template.extended_key_usage is not None:
        purposes = (usage.oid for usage in template.extended_key_usage.usages)
        found.append(raw_extension(encoding.APPLICATION_POLICIES, encoding.application_policies(purposes)))
    return found


def account_sid(rules: MicrosoftRules, context: Context) -> Extension | None:
    """The SID extension from the registration record, or None; reasons go to the context."""
    if rules.sid is None:
        return None
    values = context.expand(rules.sid, 1)
    if not values:
        if rules.sid_required:
            context.refuse(Refusal.BAD_EXTENSION, "the registration has no SID, which the template needs")
        return None
    if len(values) > 1 or not _SID.fullmatch(values[0]):
        context.refuse(Refusal.BAD_EXTENSION, "the registration's SID is not one SID such as S-1-5-21-1-2-3-1000")
        return None
    return raw_extension(encoding.SID_EXTENSION, encoding.sid(values[0]))


def _subtrees(spaces: NameSpaces) -> list[x509.GeneralName] | None:
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in spaces.dns]
    names += [x509.RFC822Name(host) for host in spaces.mail]
    names += [x509.IPAddress(network) for network in spaces.ip]
    names += [x509.UniformResourceIdentifier(host) for host in spaces.uri]
    names += [x509.DirectoryName(directory_name(name)) for name in spaces.directory]
    return names or None


def _ca_extensions(rules: CaRules) -> list[Extension]:
    """A CA's extensions but for basic constraints, whose path length the issuer bounds."""
    found = []
    permitted, excluded = _subtrees(rules.permitted), _subtrees(rules.excluded)
    if permitted or excluded:
        found.append(extension(x509.NameConstraints(permitted, excluded), critical=True))
    if rules.require_explicit_policy is not None or rules.inhibit_policy_mapping is not None:
        constraints = x509.PolicyConstraints(rules.require_explicit_policy, rules.inhibit_policy_mapping)
        found.append(extension(constraints, critical=True))
    if rules.inhibit_any_policy is not None:
        found.append(extension(x509.InhibitAnyPolicy(rules.inhibit_any_policy), critical=True))
    return found
