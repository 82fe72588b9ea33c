"""Combinations that a template cannot mean: each is reported at the key that should change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pkiserver.authority.templates.model_extensions import BasicConstraintsMode
from pkiserver.authority.templates.model_names import Source
from pkiserver.authority.templates.usages import (
    ANY_EXTENDED,
    OCSP_SIGNING,
    SERVER_AUTH,
    TIME_STAMPING,
    USAGES_OF,
    Usage,
    capability,
)
from pkiserver.foundation.tomlfile import Invalid

if TYPE_CHECKING:
    from pkiserver.authority.templates.model import Template

_POLICY_OID = "2.5.29.32"


def combination_problems(template: Template) -> list[Invalid]:
    """Everything wrong between the parts of a template."""
    return [problem for check in _CHECKS for problem in check(template)]


def _keys(template: Template) -> Iterator[Invalid]:
    if not template.keys:
        yield Invalid("allows no key", key="keys")
    wanted = set(template.key_usage.usages) if template.key_usage else set()
    for key in template.keys:
        possible = USAGES_OF[capability(key)]
        if wanted and not wanted & possible:
            usages = ", ".join(sorted(wanted))
            yield Invalid(f"an {key} key cannot be used for {usages}", key="keys")
    generated = template.est.server_keygen_key
    if generated is not None and generated not in template.keys:
        yield Invalid(f"server_keygen_key {generated} is not among keys", key="est")


def _authority(template: Template) -> Iterator[Invalid]:
    usages = set(template.key_usage.usages) if template.key_usage else set()
    if template.ca is None:
        if Usage.KEY_CERT_SIGN in usages:
            yield Invalid("key_cert_sign is for CAs: add a [ca] table or remove it", key="key_usage")
        if Usage.CRL_SIGN in usages:
            yield Invalid("crl_sign is for CAs here: add a [ca] table or remove it", key="key_usage")
        return
    if Usage.KEY_CERT_SIGN not in usages:
        yield Invalid("a CA needs key_cert_sign in [key_usage]", key="ca")
    elif template.key_usage is not None and not template.key_usage.critical:
        yield Invalid("a CA's key usage is critical", key="key_usage")
    if template.basic_constraints is not BasicConstraintsMode.CRITICAL:
        yield Invalid("a CA's basic constraints are critical", key="basic_constraints")
    if template.ocsp_no_check or template.must_staple:
        yield Invalid("goes with end entities only", key="ocsp_no_check" if template.ocsp_no_check else "must_staple")
    if not template.subject.parts:
        yield Invalid("a CA needs a subject (RFC 5280 section 4.1.2.6)", key="subject")


def _purposes(template: Template) -> Iterator[Invalid]:
    rules = template.extended_key_usage
    fixed = [usage.oid for usage in rules.usages] if rules else []
    asked = [usage.oid for usage in rules.from_request] if rules else []
    if OCSP_SIGNING in fixed and len(fixed) > 1:
        yield Invalid("ocsp_signing stands alone: a responder's key has no other purpose", key="extended_key_usage")
    if OCSP_SIGNING in asked:
        yield Invalid("ocsp_signing is never given on a client's wish", key="extended_key_usage")
    if TIME_STAMPING in fixed and (len(fixed) > 1 or (rules and not rules.critical)):
        yield Invalid("time_stamping stands alone and is critical (RFC 3161 section 2.3)", key="extended_key_usage")
    if TIME_STAMPING in asked:
        yield Invalid("time_stamping cannot be asked for: it stands alone and is critical", key="extended_key_usage")
    if ANY_EXTENDED in fixed and rules and rules.critical:
        yield Invalid("any is not critical (RFC 5280 section 4.2.1.12)", key="extended_key_usage")
    if template.ocsp_no_check and OCSP_SIGNING not in fixed:
        yield Invalid("is for OCSP responders: [extended_key_usage] lacks ocsp_signing", key="ocsp_no_check")
    if template.must_staple and SERVER_AUTH not in fixed:
        yield Invalid("is for TLS servers: [extended_key_usage] lacks server_auth", key="must_staple")
    if template.must_staple and not template.urls.ocsp:
        yield Invalid("needs an OCSP responder to staple from: urls.ocsp is off", key="must_staple")


def _escrow(template: Template) -> Iterator[Invalid]:
    usages = set(template.key_usage.usages) if template.key_usage else set()
    if template.escrow and usages & {Usage.CONTENT_COMMITMENT, Usage.KEY_CERT_SIGN, Usage.CRL_SIGN}:
        yield Invalid("a key that signs with commitment or for a CA is not kept by anybody else", key="escrow")


def _names(template: Template) -> Iterator[Invalid]:
    sans = template.sans
    sources = [part for part in template.subject.parts if part.required or part.source is Source.FIXED]
    if not sources and not template.subject.required and not sans.min and not any(part.min for part in sans.parts):
        text = "neither a subject nor a name is certain"
        allowed = "required = true in one of [[subject.parts]], or min = 1 in one of [[sans.parts]]"
        yield Invalid(text, key="subject", allowed=allowed)
    given = {part.attribute for part in template.subject.parts}
    if sans.copy_common_name and not any(name == "common_name" for name in given):
        yield Invalid("copy_common_name is on and the subject has no common_name", key="sans")
    if sans.copy_mail and not any(name == "email_address" for name in given):
        yield Invalid("copy_mail is on and the subject has no email_address", key="sans")
    kinds = {part.kind for part in sans.parts}
    for part in template.subject.parts:
        if missing := [kind for kind in part.sans if kind not in kinds]:
            yield Invalid(f"{part.attribute} comes from a {missing[0]} name and [sans] gives none", key="subject")


def _extensions(template: Template) -> Iterator[Invalid]:
    own = [extension.oid.value for extension in template.extensions]
    set_here = _oids_of_sections(template)
    for oid in own:
        if own.count(oid) > 1 or oid in set_here:
            yield Invalid(f"{oid} is set twice: {set_here.get(oid, '[[extensions]]')}", key="extensions")
    for allowed in template.request_extensions.allow:
        if allowed.value in own or allowed.value in set_here:
            yield Invalid(f"{allowed} is both set here and allowed from the request", key="request_extensions")
    policies = [policy.oid.value for policy in template.policies]
    if len(set(policies)) != len(policies):
        yield Invalid("a policy is named twice (RFC 5280 section 4.2.1.4)", key="policies")
    if template.policies_critical and not policies:
        yield Invalid("is set and there are no policies", key="policies_critical")


def _oids_of_sections(template: Template) -> dict[str, str]:
    """OIDs of extensions that sections of the template (or the issuer) make, to the section's name."""
    found = {
        "2.5.29.14": "the server",
        "2.5.29.15": "[key_usage]",
        "2.5.29.16": "validity.private_key_usage",
        "2.5.29.17": "[sans]",
        "2.5.29.19": "[ca], basic_constraints",
        "2.5.29.30": "[ca]",
        "2.5.29.31": "[urls]",
        "2.5.29.35": "the server",
        "2.5.29.36": "[ca]",
        "2.5.29.37": "[extended_key_usage]",
        "2.5.29.54": "[ca]",
        "1.3.6.1.5.5.7.1.1": "[urls]",
        "1.3.6.1.5.5.7.1.24": "must_staple",
        "1.3.6.1.5.5.7.48.1.5": "ocsp_no_check",
    }
    if template.policies:
        found[_POLICY_OID] = "[[policies]]"
    if template.qc_statements:
        found["1.3.6.1.5.5.7.1.3"] = "[qc_statements]"
    microsoft = template.microsoft
    if microsoft:
        made = {
            "1.3.6.1.4.1.311.20.2": microsoft.template_name,
            "1.3.6.1.4.1.311.21.7": microsoft.template_oid,
            "1.3.6.1.4.1.311.21.10": microsoft.application_policies or None,
            "1.3.6.1.4.1.311.25.2": microsoft.sid,
        }
        found.update({oid: "[microsoft]" for oid, value in made.items() if value is not None})
    return found


def _evidence(template: Template) -> Iterator[Invalid]:
    for rule in template.evidence:
        if stray := [name for name in rule.protocols if name not in template.protocols]:
            yield Invalid(f"a rule names {stray[0]}, by which no request may come", key="evidence")
    if template.renewal.grace and not template.renewal.allowed:
        yield Invalid("a grace period and no renewal", key="renewal")


_CHECKS: tuple[Callable[[Template], Iterator[Invalid]], ...] = (
    _keys, _authority, _purposes, _escrow, _names, _extensions, _evidence,
)  # fmt: skip
