"""The linter keeps the shapes of certificates that come often: its verdict is pkilint's on each certificate still."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from pkilint import loader
from pkilint.pkix.certificate import RFC5280Certificate
from pyasn1_alt_modules import rfc5280

from pkiserver.authority.checks import lintshapes
from pkiserver.authority.checks.lint import Finding, Linter
from pkiserver.authority.checks.lintpieces import LARGEST
from pkiserver.foundation import der
from tests.support.lintsamples import KEYS, NOW, SIGNERS, broken, names, sample, usage, values, verdict

pytestmark = pytest.mark.filterwarnings("ignore:Attribute.s length must be")
OTHER_RSA = [rsa.generate_private_key(exponent, 1024).public_key() for exponent in (3, 65537)]
SID = x509.ObjectIdentifier("1.3.6.1.4.1.311.25.2")


@pytest.fixture(autouse=True)
def _kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lintshapes, "MET", 2)


class _Tree:
    """A DER structure that can be changed and written again: each element a tag and its octets or its elements."""

    def __init__(self, data: bytes, found: der.Element) -> None:
        self.tag = found.tag
        self.octets = data[found.body : found.end]
        self.inside = [_Tree(data, one) for one in der.children(data, found)] if found.tag & 0x20 else []

    def written(self) -> bytes:
        octets = b"".join(one.written() for one in self.inside) if self.inside else self.octets
        return der.header(self.tag, len(octets)) + octets

    def leaves(self) -> Iterator[_Tree]:
        if not self.inside:
            yield self
        for one in self.inside:
            yield from one.leaves()


def _changed(rng: random.Random, data: bytes) -> bytes:
    """The certificate with one primitive element's content changed, all lengths right."""
    tree = _Tree(data, der.whole(data))
    leaf = rng.choice([*tree.leaves()])
    match rng.randrange(5):
        case 0:
            leaf.octets = b""
        case 1:
            leaf.octets = rng.randbytes(rng.choice((1, 2, 20, 150)))
        case 2:
            leaf.tag = rng.choice((0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x17, 0x18, 0x82))
        case _:
            at = rng.randrange(len(leaf.octets) + 1)
            leaf.octets = leaf.octets[:at] + rng.randbytes(1) + leaf.octets[at + rng.randrange(2) :]
    return tree.written()


def _key_identifier(rng: random.Random, key: Any) -> x509.SubjectKeyIdentifier:
    right = x509.SubjectKeyIdentifier.from_public_key(key)
    return rng.choice((right, right, x509.SubjectKeyIdentifier(b"wrong"), x509.SubjectKeyIdentifier(b"")))


class _Template:
    """Makes certificates that differ as a template's do."""

    def __init__(self, rng: random.Random) -> None:
        self._issuer = rng.choice(names()[1:])
        self._signer = SIGNERS[0]
        self._kinds = [KEYS[:2], KEYS[2:3], KEYS[3:4], [KEYS[4], *OTHER_RSA]]
        self._keys = rng.choice(self._kinds)
        fixed = [group for group in values() if not isinstance(group[0], _VARYING)]
        self._fixed = [(rng.choice(group), rng.random() < 0.3) for group in rng.sample(fixed, rng.randint(0, 5))]
        self._alternative = rng.random() < 0.6
        self._identified = rng.random() < 0.7
        self._sid = rng.random() < 0.2
        self._last = rng.random() < 0.5

    def another(self, rng: random.Random) -> bytes:
        key = rng.choice(self._keys)
        start = NOW + timedelta(days=rng.choice((0, 0, 30, 40_000)))
        builder = x509.CertificateBuilder(self._issuer, rng.choice(names()), key, rng.getrandbits(158) + 1)
        builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=rng.choice((9, 90))))
        varying: list[tuple[x509.ExtensionType, bool]] = []
        if self._identified:
            varying.append((_key_identifier(rng, key), False))
        if self._alternative:
            (choices,) = (group for group in values() if isinstance(group[0], x509.SubjectAlternativeName))
            varying.append((rng.choice(choices), self._sid))
        if self._sid:
            varying.append((x509.UnrecognizedExtension(SID, rng.choice((b"\x30\x00", b"anything", b""))), False))
        for value, critical in (*self._fixed, *varying) if self._last else (*varying, *self._fixed):
            builder = builder.add_extension(value, critical)
        data = builder.sign(self._signer, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        return self._bad(rng, data)

    def _bad(self, rng: random.Random, data: bytes) -> bytes:
        """Now and then what no builder makes: serial numbers out of range, validity backwards, broken keys."""
        if rng.random() > 0.25:
            return data
        tree = _Tree(data, der.whole(data))
        serial, validity, key = (tree.inside[0].inside[at] for at in (1, 4, 6))
        match rng.randrange(4):
            case 0:
                serial.octets = rng.choice((b"\0", b"\xff", b"\0" + b"\xff" * 20, b"\x7f" * 25, b"\0\x01", b""))
            case 1:
                validity.inside.reverse()
            case 2:
                key.inside[1].octets = rng.choice((b"\0\x04\x01", b"\0", b"", b"\x01\x02", b"\0\x30\x03\x02\x01\x05"))
            case _:
                validity.inside[0].octets = b"27013203000Z"
        return tree.written()


_VARYING = (x509.SubjectKeyIdentifier, x509.SubjectAlternativeName)


def _shapes(linter: Linter) -> Any:
    return linter._shapes._shapes


def test_the_verdict_is_that_of_pkilint_for_every_certificate_of_every_shape() -> None:
    rng = random.Random(5280)
    templates = [_Template(rng) for _ in range(25)]
    linter = Linter()
    seen: set[str] = set()
    for _ in range(450):
        data = rng.choice(templates).another(rng)
        expected = verdict(data)
        assert linter.findings(data) == expected
        seen.update(finding.code for finding in expected)
    assert len(_shapes(linter).pieces) >= 15
    assert all(shape.steps is not None for shape in _shapes(linter).pieces.values())
    assert len(seen) > 20, "the samples are bad in many ways"


def test_the_same_certificates_in_another_order_are_judged_alike() -> None:
    rng = random.Random(9)
    templates = [_Template(rng) for _ in range(6)]
    certificates = [rng.choice(templates).another(rng) for _ in range(120)]
    expected = {data: verdict(data) for data in certificates}
    for _ in range(3):
        linter = Linter()
        rng.shuffle(certificates)
        for data in certificates:
            for _ in range(rng.choice((1, 1, 3))):  # the same content of the holes again
                assert linter.findings(data) == expected[data]


@pytest.mark.parametrize("change", [broken, _changed])
def test_a_certificate_almost_of_a_known_shape_is_judged_as_pkilint_judges_it(change: Any) -> None:
    rng = random.Random(690)
    templates = [_Template(rng) for _ in range(6)]
    linter = Linter()
    verdicts = set()
    for _ in range(350):
        template = rng.choice(templates)
        whole = template.another(rng)
        assert linter.findings(whole) == verdict(whole)
        data = change(rng, whole)
        expected = verdict(data)
        assert linter.findings(data) == expected
        if rng.random() < 0.2:
            assert linter.findings(data) == expected
        verdicts.add(expected)
    assert len(verdicts) > 60


def test_any_certificate_is_judged_alike_once_its_shape_is_known() -> None:
    rng = random.Random(7)
    linter = Linter()
    for _ in range(120):
        data = sample(rng)
        expected = verdict(data)
        for _ in range(4):  # counted, kept, its fillings observed, remembered
            assert linter.findings(data) == expected
    assert len(_shapes(linter).pieces) > 50


def _usual(number: int, *, key: Any = KEYS[0], **differing: Any) -> bytes:
    """One of many certificates of a shape, in which what is given may differ."""
    builder = x509.CertificateBuilder(
        names()[2], differing.get("subject", names()[1]), key, differing.get("serial", number + 1)
    )
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=9))
    identifier = differing.get("identifier", x509.SubjectKeyIdentifier.from_public_key(key))
    builder = builder.add_extension(usage(0, 5) if differing.get("ca") else usage(0), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(differing.get("ca", False), None), critical=True)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier(b"issuer", None, None), critical=False)
    builder = builder.add_extension(identifier, critical=False)
    alternative = x509.SubjectAlternativeName(differing.get("names", [x509.DNSName(f"host-{number}.example")]))
    builder = builder.add_extension(alternative, critical=False)
    return builder.sign(SIGNERS[0], hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _codes(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.code for finding in findings}


def test_what_is_wrong_with_one_certificate_of_a_good_shape_is_found_in_that_one_only() -> None:
    linter = Linter()
    mail = x509.Name([x509.NameAttribute(NameOID.EMAIL_ADDRESS, "somebody@example.com")])
    bad: list[tuple[str, dict[str, Any]]] = [
        ("pkix.unknown_subject_key_identifier_calculation_method", {"identifier": x509.SubjectKeyIdentifier(b"x")}),
        ("pkix.subject_email_address_not_in_san", {"subject": mail}),
        ("pkix.invalid_domain_name_syntax", {"names": [x509.DNSName("a b")]}),
        ("pkix.invalid_email_address_syntax", {"names": [x509.RFC822Name("nobody")]}),
    ]
    for number in range(3):
        assert linter.findings(_usual(number)) == ()
    for code, differing in bad:
        for again in range(3):
            data = _usual(10 + again, **differing)
            assert code in _codes(linter.findings(data))
            assert linter.findings(data) == verdict(data)
            assert linter.findings(_usual(again)) == ()
    good = _usual(5, subject=mail, names=[x509.RFC822Name("somebody@example.com")])
    assert linter.findings(good) == verdict(good) == ()
    long = _usual(6, serial=2**159 - 1).replace(b"\x02\x14\x7f", b"\x02\x14\x80", 1)
    assert _codes(linter.findings(long)) == {"pkix.certificate_serial_number_out_of_range"}
    assert len(_shapes(linter).pieces) == 1


def test_authorities_and_kinds_of_keys_are_shapes_of_their_own() -> None:
    linter = Linter()
    verdicts = set()
    for number in range(4):
        for key in KEYS:
            for ca in (True, False):
                data = _usual(number, key=key, ca=ca)
                assert linter.findings(data) == verdict(data)
                verdicts.add((ca, linter.findings(data)))
    assert len(_shapes(linter).pieces) == 2 * 4, "two curves, Ed25519, RSA"
    assert len(verdicts) >= 2


def test_shapes_and_what_fills_them_are_bounded_and_what_comes_often_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lintshapes, "SHAPES", 4 * 1024)
    monkeypatch.setattr(lintshapes, "FILLINGS", 2 * 1024)
    linter = Linter()
    shapes, fillings = _shapes(linter), linter._shapes._fillings
    signer = SIGNERS[1]
    for number in range(90):
        others = x509.SubjectAlternativeName([x509.DNSName(f"host-{number}.example")])
        builder = x509.CertificateBuilder(names()[2], names()[1], KEYS[0], number + 1)
        builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=9)).add_extension(others, False)
        odd = x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{number // 3}"), b"x" * 30)
        data = builder.add_extension(odd, False).sign(signer, None).public_bytes(serialization.Encoding.DER)
        expected = verdict(data) if number % 10 == 0 else linter.findings(data)
        assert linter.findings(data) == expected
        assert linter.findings(_usual(number)) == ()
        for shelf in (shapes, fillings):
            assert shelf.octets == sum(len(octets) for _, octets in shelf.pieces)
        assert shapes.octets <= lintshapes.SHAPES + LARGEST
        assert fillings.octets <= lintshapes.FILLINGS + 5 * LARGEST
    assert shapes.octets > lintshapes.SHAPES / 2
    assert linter._shapes.put_together(_usual(0)) is not None, "what came often is still known"


def test_a_filling_or_shape_too_large_to_be_kept_is_judged_like_any_other() -> None:
    linter = Linter()
    for number in range(4):
        hosts = [x509.DNSName(f"host-{number}-{one}.example") for one in range(400)]
        data = _usual(number, names=hosts)
        for _ in range(2):
            assert linter.findings(data) == verdict(data) == ()
    assert len(_shapes(linter).pieces) == 1
    assert max(len(octets) for _, octets in linter._shapes._fillings.pieces) <= LARGEST


def test_the_document_of_a_shape_remembers_nothing_of_its_certificates() -> None:
    """A new pkilint that remembers more in its document must be met by making that anew: else it is another's."""
    for name in dir(RFC5280Certificate):
        assert not isinstance(getattr(lintshapes._Document, name), cached_property)
    linter = Linter()
    linter.findings(_usual(0))
    linter.findings(_usual(1))
    ((_, shape),) = _shapes(linter).pieces.items()
    before = set(vars(shape._document))
    for number in range(5):
        linter.findings(_usual(number, identifier=x509.SubjectKeyIdentifier(b"x")))
    assert (
        set(vars(shape._document))
        == before
        == {*vars(RFC5280Certificate(None, b"", "")), "watch", "_octets"} - {"substrate"}
    )


_TBS = "tbsCertificate"
_INFO = f"{_TBS}.subjectPublicKeyInfo"
_LOOKS: list[tuple[Any, bool]] = [
    (lambda root: root.navigate(f"{_TBS}.serialNumber").pdu, True),
    (lambda root: root.navigate(f"{_TBS}.subject.rdnSequence").pdu[0], True),
    (lambda root: root.navigate(f"{_INFO}.subjectPublicKey").pdu.asOctets(), True),
    (lambda root: root.navigate(_INFO).pdu["subjectPublicKey"], True),
    (lambda root: root.navigate(f"{_TBS}.extensions").pdu[3]["extnValue"], True),
    (lambda root: root.pdu["signature"], True),
    (lambda root: root.document.substrate, True),
    (lambda root: root.document.cryptography_object.serial_number, True),
    (lambda root: root.document.is_self_issued, True),
    (lambda root: root.document.get_san_general_names_by_type("dNSName")[0].pdu, True),
    (lambda root: root.document.is_ca, False),
    (lambda root: root.document.get_extension_by_oid(rfc5280.id_ce_subjectAltName)[1], False),
    (lambda root: root.navigate(f"{_INFO}.algorithm.algorithm").pdu, False),
    (lambda root: isinstance(root.navigate(_INFO).pdu, rfc5280.SubjectPublicKeyInfo), False),
]


@pytest.mark.parametrize(("look", "noted"), _LOOKS)
def test_every_look_at_what_differs_is_noted_and_sees_this_certificate(look: Any, noted: bool) -> None:
    linter = Linter()
    shapes = linter._shapes
    for number in range(3):
        linter.findings(_usual(number))
    for number, key in enumerate((KEYS[0], KEYS[1], KEYS[0])):
        data = _usual(100 + number, key=key, subject=names()[1 + number])
        shape = shapes.put_together(data)
        assert shape is not None
        for _ in range(2):
            shapes.watch.outside = False
            seen = look(shape.root)
            assert shapes.watch.outside is noted
            assert seen == look(loader.load_der_certificate(data, "certificate").root)
