"""pkilint in this process, on every certificate to be (RFC 5280 profile), before the HSM is asked.

pkilint's own walk asks every validator at every node whether it matches: about 5,000 calls a certificate and most of
its time. :class:`Linter` runs the same validators in the same order, but looks up once per ASN.1 type which of them
can match there at all; of a certificate like many before it asks only those which look at what differs
(:mod:`pkiserver.authority.checks.lintshapes`); of any other it remembers the pieces of which it has seen certificates
made, and what was found in them (:mod:`pkiserver.authority.checks.lintpieces`); and it takes documents apart itself,
so that the garbage collector need not.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import attrs
from pkilint import document, loader, validation
from pkilint.document import NodeVisitor
from pkilint.pkix import certificate, extension, general_name, name
from pkilint.validation import ValidationFindingSeverity, ValidatorContainer

from pkiserver.authority.checks.lintlevel import LintLevel
from pkiserver.authority.checks.lintpieces import Above, NotInPieces, Piece, Pieces, Watch, take_apart
from pkiserver.authority.checks.lintshapes import Hole, Shapes
from pkiserver.authority.templates.text import host_problem, uri_problem
from pkiserver.foundation.errors import Reason, Refusal
from pkiserver.foundation.listing import listed

_THRESHOLD = {
    LintLevel.OFF: -1,
    LintLevel.FATAL: int(ValidationFindingSeverity.FATAL),
    LintLevel.ERROR: int(ValidationFindingSeverity.ERROR),
    LintLevel.WARNING: int(ValidationFindingSeverity.WARNING),
    LintLevel.NOTICE: int(ValidationFindingSeverity.NOTICE),
}


@attrs.frozen
class Finding:
    """One finding: ``severity`` as pkilint numbers it (0 fatal to 3 notice), its code, and where it was found."""

    severity: int
    code: str
    text: str
    where: str

    def __str__(self) -> str:
        text = f": {self.text}" if self.text else ""
        return f"{ValidationFindingSeverity(self.severity).name.lower()} {self.code}{text} ({self.where})"


_REMEMBERED_OCTETS = 512
_REMEMBERED_VALUES = 8192
_REMEMBERED_ENCODINGS = 256


class _Memory:
    """pkilint's decoder, which decodes the same octets by the same schema once. Decoded values are only ever read."""

    def __init__(self, decode: Callable[..., tuple[Any, bytes]]) -> None:
        self._decode = decode
        self._known: dict[tuple[object, ...], tuple[Any, bytes]] = {}

    def __call__(self, substrate: Any, asn1Spec: Any) -> tuple[Any, bytes]:  # noqa: N803 - pyasn1's name
        octets = bytes(substrate)
        if len(octets) > _REMEMBERED_OCTETS:
            return self._decode(octets, asn1Spec=asn1Spec)
        key = (type(asn1Spec), asn1Spec.tagSet, asn1Spec.subtypeSpec, octets)
        found = self._known.get(key)
        if found is None:
            found = self._decode(octets, asn1Spec=asn1Spec)
            if len(self._known) >= _REMEMBERED_VALUES:  # subjects differ for ever; the rest comes back at once
                self._known.clear()
            self._known[key] = found
        return found


class _Encoded:
    """pyasn1's encoder, which encodes the same value once: a value of a piece that is kept is the same object."""

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode
        self._known: dict[int, tuple[Any, bytes]] = {}

    def __call__(self, value: Any) -> bytes:
        found = self._known.get(id(value))
        if found is None:
            if len(self._known) >= _REMEMBERED_ENCODINGS:
                self._known.clear()
            # kept with its value, so that no other one can come to the same address
            found = self._known[id(value)] = (value, self._encode(value))
        return found[1]


def _remember() -> None:
    """Put the memories into pkilint, which offers no place for them, once in this process."""
    if not isinstance(document.decode_der, _Memory):
        document.decode_der = _Memory(document.decode_der)
        validation.encode = _Encoded(validation.encode)
        # whether a text is a URL, a host name or an address: the same few URLs stand in every certificate
        general_name.validators_predicate = lru_cache(_REMEMBERED_VALUES)(general_name.validators_predicate)


@attrs.frozen
class _Candidate:
    """A validator that may match nodes of one ASN.1 type. ``certain``: on the right path it does match."""

    validator: Any
    path: str | None
    certain: bool
    inner: _Node | None

    def matches(self, node: Any) -> bool:
        """Whether the validator is for this node."""
        if self.path is not None and self.path != node.path:
            return False
        return self.certain or self.validator.match(node)

    def run(self, node: Any, findings: list[Finding]) -> None:
        """Validate a node that matches; a container goes on below it."""
        if self.inner is not None:
            self.inner.run(node, findings)
        else:
            _collect(self.validator.validate_wrapper(node), findings)


@attrs.frozen
class _Again:
    """A step that depends on more than its piece."""

    candidate: _Candidate
    node: Any

    def run(self, findings: list[Finding]) -> None:
        """Ask the validator anew."""
        if self.candidate.matches(self.node):
            self.candidate.run(self.node, findings)


@attrs.frozen
class _Visit:
    """The step at which a container comes to a hole of a shape, whatever is in it now."""

    container: _Node
    hole: Hole
    candidates: tuple[_Candidate, ...]
    watch: Watch

    def run(self, findings: list[Finding]) -> None:
        """Validate the hole's content; what is known of it is not found out again."""
        filling = self.hole.filling
        steps = filling.steps.get(self.container)
        if steps is not None:
            _repeat(steps, findings)
        elif filling.again:
            steps = []
            self.watch.inside = self.hole
            try:
                self.container.observe(self.hole, steps, findings, self.watch)
            finally:
                self.watch.inside = None
            filling.steps[self.container] = steps
        else:
            for one in self.candidates:
                if one.certain or one.validator.match(self.hole):
                    one.run(self.hole, findings)
            for child in filling.below.values():
                self.container.run(child, findings)


def _repeat(steps: list[Any], findings: list[Finding]) -> None:
    """Find again what was found, and ask again those who have to be asked."""
    for step in steps:
        if isinstance(step, Finding):
            findings.append(step)
        else:
            step.run(findings)


class _Node:
    """A validator container with its children looked up by ASN.1 type. Holds pkilint's objects, which are untyped."""

    def __init__(self, container: Any) -> None:
        self._validators = [
            (v, _Node(v) if type(v).validate is ValidatorContainer.validate else None) for v in container.validators
        ]
        self._by_type: dict[type, tuple[_Candidate, ...]] = {}

    def _candidates(self, kind: type) -> tuple[_Candidate, ...]:
        """Those validators whose class condition a value of this type meets; the rest can never match."""
        known = self._by_type.get(kind)
        if known is not None:
            return known
        found = []
        for validator, inner in self._validators:
            # The library gives no public way to ask.
            wanted, path = validator._pdu_class, validator._path  # noqa: SLF001
            more = (validator._path_re, validator._pdu_supertype, validator._predicate)  # noqa: SLF001
            certain = type(validator).match is NodeVisitor.match and more == (None, None, None)
            if wanted is None or issubclass(kind, wanted):
                found.append(_Candidate(validator, path, certain, inner))
        self._by_type[kind] = tuple(found)
        return self._by_type[kind]

    def run_above(self, node: Above, findings: list[Finding], watch: Watch) -> None:
        """As :meth:`run`, for a node above the pieces; what is known of a piece is not found out again."""
        for one in self._candidates(node.kind):
            if not one.matches(node):
                continue
            if one.inner is not None:
                one.inner.run_above(node, findings, watch)
            else:
                _collect(one.validator.validate_wrapper(node), findings)
        for child in node.below.values():
            if isinstance(child, Above):
                self.run_above(child, findings, watch)
            else:
                self._run_piece(child.piece, findings, watch)

    def _run_piece(self, piece: Piece, findings: list[Finding], watch: Watch) -> None:
        steps = piece.steps.get(self)
        if steps is not None:
            _repeat(steps, findings)
        elif piece.again:
            steps = []
            self.observe(piece.node, steps, findings, watch)
            piece.steps[self] = steps
        else:  # perhaps nobody will see it again
            self.run(piece.node, findings)

    def observe(self, node: Any, steps: list[Any], findings: list[Finding], watch: Watch) -> None:
        """As :meth:`run`, noting in ``steps`` what every later run would find, or whom it has to ask again."""
        for one in self._candidates(node.pdu.__class__):  # for a node above a hole, type() would be another
            if one.path is not None and one.path != node.path:
                continue
            watch.outside = False
            matches = one.certain or one.validator.match(node)
            again = watch.outside
            if matches and one.inner is not None and not again:
                one.inner.observe(node, steps, findings, watch)
                continue
            found: list[Finding] = []
            if matches:
                one.run(node, found)
                again = again or watch.outside
            findings += found
            steps += [_Again(one, node)] if again else found
        for child in node.children.values():
            if isinstance(child, Hole):
                candidates = self._candidates(child.kind)
                here = tuple(one for one in candidates if one.path is None or one.path == child.path)
                steps.append(_Visit(self, child, here, watch))
                steps[-1].run(findings)
            elif child.children or self._candidates(child.pdu.__class__):
                self.observe(child, steps, findings, watch)

    def run(self, node: Any, findings: list[Finding]) -> None:
        """What ``ValidatorContainer.validate`` does: this node, then its children (which validators may add to)."""
        by_type = self._by_type
        kind = node.pdu.__class__
        candidates = by_type.get(kind)
        for one in self._candidates(kind) if candidates is None else candidates:
            if one.path is not None and one.path != node.path:
                continue
            if not one.certain and not one.validator.match(node):
                continue
            if one.inner is not None:
                one.inner.run(node, findings)
            else:
                _collect(one.validator.validate_wrapper(node), findings)
        for child in node.children.values():
            if child.children or by_type.get(child.pdu.__class__) != ():
                self.run(child, findings)


def _mistaken(code: str, node: Any) -> bool:
    """Whether a finding is the linter's own mistake: it takes no host name of one label, RFC 1034 and 3986 do."""
    if code == "pkix.invalid_uri_syntax":
        return uri_problem(str(node.pdu)) is None
    return code == "pkix.invalid_domain_name_syntax" and host_problem(str(node.pdu), wildcard=True) is None


def _collect(result: Any, findings: list[Finding]) -> None:
    for one in result if isinstance(result, list) else (result,):
        if not one.finding_descriptions:
            continue
        for description in one.finding_descriptions:
            severity = int(description.finding.severity)
            if severity <= ValidationFindingSeverity.NOTICE and not _mistaken(description.finding.code, one.node):
                where = one.node.path.removeprefix("certificate.tbsCertificate.")
                findings.append(Finding(severity, description.finding.code, description.message or "", where))


class Linter:
    """Set up once (some milliseconds), used for every certificate. Not for two threads at once."""

    def __init__(self) -> None:
        _remember()
        self._pieces = Pieces()
        self._shapes = Shapes()
        self._root = _Node(
            certificate.create_pkix_certificate_validator_container(
                certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
                [
                    certificate.create_issuer_validator_container([]),
                    certificate.create_validity_validator_container(),
                    certificate.create_subject_validator_container([]),
                    certificate.create_extensions_validator_container([]),
                    certificate.create_spki_validator_container([]),
                ],
            )
        )

    def findings(self, certificate_der: bytes) -> tuple[Finding, ...]:
        """Everything pkilint says about a DER certificate, worst first; notices and worse."""
        collecting = gc.isenabled()
        gc.disable()  # thousands of objects that die together: looking among them for garbage is a sixth of the time
        try:
            findings = self._findings(certificate_der)
        except ValueError as error:
            return (Finding(0, "itu.invalid_asn1_syntax", str(error), "certificate"),)
        finally:
            if collecting:
                gc.enable()
        return tuple(sorted(findings, key=lambda finding: finding.severity))

    def _findings(self, certificate_der: bytes) -> list[Finding]:
        findings: list[Finding] = []
        shape = self._shapes.put_together(certificate_der)
        if shape is not None:
            if shape.steps is not None:
                _repeat(shape.steps, findings)
            else:
                steps: list[Any] = []
                self._root.observe(shape.root, steps, findings, self._shapes.watch)
                shape.steps = steps
            return findings
        try:
            above = self._pieces.put_together(certificate_der)
        except NotInPieces:
            root = loader.load_der_certificate(certificate_der, "certificate").root
            self._root.run(root, findings)
            take_apart(root)
        else:
            self._root.run_above(above, findings, self._pieces.watch)
        return findings

    def check(self, certificate_der: bytes, level: LintLevel) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
        """What refuses this certificate at ``level``, and what is only worth a warning."""
        threshold = _THRESHOLD[level]
        findings = _together(self.findings(certificate_der))
        refusals = tuple(Reason(Refusal.LINT, f"lint: {f}") for f in findings if f.severity <= threshold)
        return refusals, tuple(str(f) for f in findings if f.severity > threshold)


def _together(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The findings with one line for all places at which the same was found, as with many names of one kind."""
    places: dict[tuple[int, str, str], list[str]] = {}
    for one in findings:
        places.setdefault((one.severity, one.code, one.text), []).append(one.where)
    return tuple(Finding(*what, where=listed(where)) for what, where in places.items())
