"""EST over HTTPS (RFC 7030): one path, decoded and bounded here, decided by the gate, issued by the engine."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

import attrs
from cryptography import x509
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from pkiserver.authority.csr import ParsedRequest, parse_request
from pkiserver.authority.requests import (
    ClientCertificateEvidence,
    CodeEvidence,
    EnrollmentRequest,
    Evidence,
    IssuedCertificate,
    PasswordEvidence,
    ProofKind,
    ProofOfPossession,
)
from pkiserver.authority.templates.model import EvidenceKind, Template
from pkiserver.foundation.decoded import decoded
from pkiserver.foundation.errors import PkiError, Refusal, Rejected, Unavailable
from pkiserver.keys.algorithms import KeyType, PrivateKey
from pkiserver.registration.codeform import canonical
from protocols.cms.certs import build_certs_only
from protocols.est import errors, keygen, messages
from protocols.est.csrattrs import encode_csr_attributes
from protocols.est.linking import verify_link
from protocols.est.messages import Operation, RequestOutline, Target
from protocols.est.ports import EstEngine, EstSettings, KeyKeeper, Waiting
from protocols.est.renewal import renewal_wishes
from protocols.web.errors import plain
from protocols.web.values import Method, Request, Response, Route, TlsPeer

_log = Logger(namespace="pkiserver.est")

PREFIX = "/.well-known/est/"
STRONGSWAN_PREFIX = "/est/"
"""strongSwan appends the well-known path to its URL, so its label stands before: ``/est/<label>/.well-known/est/``."""
PROTOCOL = "est"
_HTTP_EVIDENCE = frozenset({EvidenceKind.PASSWORD, EvidenceKind.CODE})
_BASE64_HEADER = ("Content-Transfer-Encoding", "base64")
_NO_STORE = ("Cache-Control", "no-store")
NOTE_HEADER = "Pkiserver-Note"
"""A field of an answer's head for what the person is to know besides."""


@attrs.frozen
class _Asked:
    """One request with what has been found out about it."""

    request: Request
    target: Target
    tls: TlsPeer
    template: Template

    @property
    def certificate(self) -> x509.Certificate | None:
        """The client's certificate, decoded. Raises :class:`Rejected` when it cannot be."""
        if self.tls.certificate_der is None:
            return None
        try:
            return decoded(self.tls.certificate_der)
        except ValueError as error:
            raise Rejected.because(Refusal.MALFORMED, "the TLS client certificate cannot be read") from error


class EstEdge:
    """The HTTP side of EST."""

    def __init__(self, engine: EstEngine, settings: EstSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._keygen = DeferredSemaphore(settings.keygen_parallel)

    async def well_known(self, request: Request) -> Response:
        """``/.well-known/est/[<label>/]<operation>``."""
        return await self._answer(request, messages.parse_target(request.tail))

    async def prefixed(self, request: Request) -> Response:
        """``/est/<label>/.well-known/est/<operation>``, as strongSwan writes it."""
        label, found, operation = request.tail.partition(PREFIX)
        tail = f"{label}/{operation}" if found and "/" not in operation else "?"
        return await self._answer(request, messages.parse_target(tail))

    async def _answer(self, request: Request, target: Target | None) -> Response:
        if target is None:
            return plain(404, "EST has no such operation here")
        method = "GET" if request.method == "HEAD" else request.method
        if method != target.operation.method:
            allowed = "GET, HEAD" if target.operation.method == "GET" else "POST"
            return plain(405, "not with this method", headers=(("Allow", allowed),))
        if target.operation is Operation.FULLCMC:
            return plain(501, "full CMC is not implemented; use simpleenroll or simplereenroll")
        realm: str | None = None
        try:
            if request.peer.tls is None:
                raise Rejected.because(Refusal.NOT_AUTHORISED, "EST is for TLS only (RFC 7030 section 3.3)")
            if target.operation is Operation.CACERTS:
                return self._cacerts(request, target)
            if target.operation is Operation.CRLS:
                return await self._crls(request, target)
            asked = _Asked(request, target, request.peer.tls, self._template(target.label))
            realm = self._realm(asked)
            return await self._operations()[target.operation](asked)
        except PkiError as error:
            return self._refuse(request, target, error, realm)

    def _operations(self) -> dict[Operation, Callable[[_Asked], Awaitable[Response]]]:
        return {
            Operation.SIMPLEENROLL: self._simpleenroll,
            Operation.SIMPLEREENROLL: self._simplereenroll,
            Operation.SERVERKEYGEN: self._serverkeygen,
            Operation.CSRATTRS: self._csrattrs,
        }

    def _cacerts(self, request: Request, target: Target) -> Response:
        """The CA certificates of the label's template; a label may also be an authority's own name."""
        body = build_certs_only(self._engine.served(self._authority(target)))
        # Without the smime-type: RFC 7030 section 4.1.3 names the bare type, and libest compares.
        return self._encoded(request, target, body, "application/pkcs7-mime")

    async def _crls(self, request: Request, target: Target) -> Response:
        """The revocation lists that go with ``cacerts`` (RFC 8295 section 4)."""
        lists = await self._engine.lists(self._authority(target))
        return self._encoded(request, target, build_certs_only((), lists), messages.CRLS_TYPE)

    def _authority(self, target: Target) -> str:
        """Whose certificates and lists are meant.

        Without label and default template they are those of the one authority that all EST templates share.
        """
        try:
            return self._template(target.label).issuer
        except Rejected as refused:
            if not refused.has(Refusal.UNKNOWN_TEMPLATE):
                raise
            issuers = {one.issuer for one in self._engine.templates()}
            if target.label is None and len(issuers) != 1:
                raise
            if target.label is None:
                return issuers.pop()
        return self._authority_named(target.label)

    def _authority_named(self, label: str) -> str:
        """The label itself, where it is an authority's name. Raises :class:`Rejected` (unknown template)."""
        try:
            self._engine.served(label)
        except Rejected:
            text = f"there is no template for EST and no authority named {label!r}"
            raise Rejected.because(Refusal.UNKNOWN_TEMPLATE, text) from None
        return label

    async def _csrattrs(self, asked: _Asked) -> Response:
        body = encode_csr_attributes(asked.template)
        return self._encoded(asked.request, asked.target, body, messages.CSRATTRS_TYPE)

    async def _simpleenroll(self, asked: _Asked) -> Response:
        der = _body(asked.request)
        outline = messages.outline(der)
        linked = _linked(asked, outline)
        issued = await self._engine.enroll(self._request(asked, parse_request(der), linked=linked))
        return self._issued(asked, issued)

    async def _simplereenroll(self, asked: _Asked) -> Response:
        """RFC 7030 section 4.2.2; whether the certificate is valid, ours and in its window is for the gate to say."""
        der = _body(asked.request)
        current = asked.certificate
        if current is None:
            raise Rejected.because(
                Refusal.NOT_AUTHORISED, "open the TLS connection with the certificate that is to be renewed"
            )
        outline = messages.outline(der)
        linked = _linked(asked, outline)
        parsed = parse_request(der)
        wishes = renewal_wishes(parsed.wishes, current, changes_subject=outline.changes_subject)
        request = attrs.evolve(
            self._request(asked, attrs.evolve(parsed, wishes=wishes), linked=linked),
            renewal_of=asked.tls.certificate_der,
        )
        return self._issued(asked, await self._engine.enroll(request))

    async def _serverkeygen(self, asked: _Asked) -> Response:
        kind = keygen.key_type_for(asked.template)
        keeper = self._keeper(asked.template)
        original = _body(asked.request)
        outline = messages.outline(original)
        _linked(asked, outline)
        protection = await keygen.protection_for(self._engine, asked.template, outline, asked.certificate)
        await self._engine.before_work(asked.template, _shown(asked), asked.request.peer.address)
        key = await self._generate(kind)
        parsed = parse_request(keygen.request_for(key, outline))
        proof = ProofOfPossession(ProofKind.GENERATED_HERE, verified=True)
        request = attrs.evolve(self._request(asked, parsed, linked=False), proof=proof, csr=original)
        kept = () if keeper is None else (keeper.claim(asked.template, key),)
        issued = await self._engine.enroll(request, *kept)
        if isinstance(issued, Waiting):
            return self._waiting(issued)
        certificate = x509.load_der_x509_certificate(issued.der)
        if certificate.public_key() != key.public_key():
            raise Rejected.because(Refusal.CONFLICT, "the key of this certificate was made for an earlier request")
        await self._engine.generated(issued, key)
        if protection is None:
            return _noting(_key_answer(messages.PKCS8_TYPE, keygen.pkcs8(key), issued), issued)
        return _noting(_key_answer(messages.SERVER_KEY_TYPE, await keygen.protect(key, protection), issued), issued)

    def _keeper(self, template: Template) -> KeyKeeper | None:
        """Who keeps the keys of a template that wants that. Raises :class:`Rejected` where nobody would."""
        if not template.escrow:
            return None
        if self._engine.keeper is None:
            text = "this template wants its keys to be kept, and nothing here keeps keys"
            raise Rejected.because(Refusal.UNSUPPORTED, text)
        return self._engine.keeper

    async def _generate(self, kind: KeyType) -> PrivateKey:
        """A new key from a thread; never more at a time than the settings say."""
        if len(self._keygen.waiting) >= self._settings.keygen_waiting:
            raise Unavailable("too many keys are being generated", retry_after=10, public=True)
        return await self._keygen.run(deferToThread, keygen.generate, kind)

    def _template(self, label: str | None) -> Template:
        """The template that a label names, if EST may use it. Raises :class:`Rejected` (unknown template)."""
        name = label or self._settings.default_template
        if not name:
            usable = self._engine.templates()
            if len(usable) == 1:
                return usable[0]
            raise Rejected.because(
                Refusal.UNKNOWN_TEMPLATE, f"there is no default template: say which, as in {PREFIX}<label>/cacerts"
            )
        try:
            template = self._engine.template(name)
        except Rejected as refused:
            own = self._of_authority(name) if refused.has(Refusal.UNKNOWN_TEMPLATE) else None
            if own is None:
                raise
            return own
        if not template.serves(PROTOCOL):
            raise Rejected.because(Refusal.UNKNOWN_TEMPLATE, f"there is no template named {name!r} for EST")
        return template

    def _of_authority(self, name: str) -> Template | None:
        """The template that an authority's name stands for: its only one, or the default one where that is among them.

        Raises:
            Rejected: UNKNOWN_TEMPLATE; it has several.
        """
        found = [one for one in self._engine.templates() if one.issuer == name]
        default = [one for one in found if one.name == self._settings.default_template]
        if len(found) > 1 and not default:
            text = f"authority {name} has several templates for EST: say which"
            raise Rejected.because(Refusal.UNKNOWN_TEMPLATE, text)
        return next(iter(default or found), None)

    def _realm(self, asked: _Asked) -> str | None:
        """The realm for a 401, or None where no name and password could make the template say yes."""
        if asked.target.operation is Operation.SIMPLEREENROLL:
            return None
        has = {EvidenceKind.CLIENT_CERTIFICATE} if asked.tls.certificate_der is not None else set()
        helps = any(
            _HTTP_EVIDENCE & set(rule.all) and set(rule.all) - _HTTP_EVIDENCE <= has
            for rule in asked.template.evidence_for(PROTOCOL)
        )
        return self._settings.realm if helps else None

    def _request(self, asked: _Asked, parsed: ParsedRequest, *, linked: bool) -> EnrollmentRequest:
        request = asked.request
        return EnrollmentRequest(
            template=asked.template.name,
            public_key=parsed.public_key,
            spki=parsed.spki,
            proof=ProofOfPossession(ProofKind.TLS_LINKED, verified=True) if linked else parsed.proof,
            wishes=parsed.wishes,
            evidence=_shown(asked),
            protocol=PROTOCOL,
            source=request.peer.address,
            request_id=request.request_id,
            csr=parsed.der,
            received=self._engine.clock.now(),
        )

    def _issued(self, asked: _Asked, issued: IssuedCertificate | Waiting) -> Response:
        if isinstance(issued, Waiting):
            return self._waiting(issued)
        body = build_certs_only([issued.der])
        return _noting(self._encoded(asked.request, asked.target, body, messages.CERTS_ONLY_TYPE), issued)

    @staticmethod
    def _waiting(waiting: Waiting) -> Response:
        return plain(202, waiting.text, headers=(("Retry-After", str(max(1, waiting.retry_after))),))

    def _encoded(self, request: Request, target: Target, body: bytes, content_type: str) -> Response:
        form = self._settings.base64
        if target.label is not None:
            form = self._settings.base64_by_label.get(target.label, form)
        text = messages.encode_base64(body, form.resolve(request.headers.get("user-agent")))
        return Response(200, text, content_type, (_BASE64_HEADER, _NO_STORE))

    def _refuse(self, request: Request, target: Target, error: PkiError, realm: str | None) -> Response:
        response = errors.response_of(error, realm=realm)
        _log.info(
            "EST {operation} {request_id} from {address}: {status}: {reason}",
            operation=target.operation.value,
            request_id=request.request_id,
            address=request.peer.address,
            status=response.status,
            reason=str(error),
        )
        return response


def _body(request: Request) -> bytes:
    """The DER of the PKCS#10 request in the body. Raises :class:`Rejected`, or answers 415 by way of it."""
    if request.headers.media_type() != messages.PKCS10_TYPE:
        raise errors.WrongMediaType(f"the content type must be {messages.PKCS10_TYPE}")
    return messages.decode_base64(request.body)


def _linked(asked: _Asked, outline: RequestOutline) -> bool:
    """Whether the request is linked to its TLS connection. Raises :class:`Rejected` (RFC 7030 section 3.5)."""
    binding = asked.tls.exporter if asked.tls.version == "TLSv1.3" else asked.tls.finished
    required = asked.template.est.proof_linking == "required"
    return verify_link(outline.challenge_password, binding, required=required)


def _shown(asked: _Asked) -> tuple[Evidence, ...]:
    """Everything that the client showed. An enrolment code travels as the password and is known by its form."""
    found: list[Evidence] = []
    if asked.tls.certificate_der is not None:
        found.append(ClientCertificateEvidence(asked.tls.certificate_der, asked.tls.chain))
    credentials = messages.parse_basic(asked.request.headers.get_all("authorization"))
    # a name without a password asks for a one-time password by mail, where a connector sends some
    if credentials is not None and (credentials.password or credentials.name):
        if canonical(credentials.password) is not None:
            found.append(CodeEvidence(credentials.password, credentials.name))
        else:
            found.append(PasswordEvidence(credentials.name, credentials.password))
    return tuple(found)


def _noting(response: Response, issued: IssuedCertificate) -> Response:
    """What the person is to know besides, such as that the password expires: EST has no place for it but a header."""
    plain = ("".join(char for char in note if " " <= char <= "~") for note in issued.notes)
    return attrs.evolve(response, headers=(*response.headers, *((NOTE_HEADER, note) for note in plain)))


def _key_answer(key_type: str, key: bytes, issued: IssuedCertificate) -> Response:
    boundary = f"est-{secrets.token_hex(16)}"
    body = messages.key_and_certificate(key_type, key, build_certs_only([issued.der]), boundary)
    # Without quotes, as RFC 7030 section 4.4.2 has it: simple clients take what follows the equals sign as it stands.
    return Response(200, body, f"multipart/mixed; boundary={boundary}", (_NO_STORE,))


def routes(engine: EstEngine, settings: EstSettings) -> list[Route]:
    """The routes of EST, for a TLS listener that asks for client certificates and neither resumes nor renegotiates."""
    edge = EstEdge(engine, settings)
    both = frozenset({Method.GET, Method.POST})
    return [
        Route("est", PREFIX, both, edge.well_known, prefix=True, max_body=settings.max_body),
        Route("est", STRONGSWAN_PREFIX, both, edge.prefixed, prefix=True, max_body=settings.max_body),
    ]
