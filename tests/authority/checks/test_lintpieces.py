"""The linter remembers pieces of certificates and what was found in them: its verdict is pkilint's all the same."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from pkiserver.authority.checks import lintpieces, lintshapes
from pkiserver.authority.checks.lint import Linter
from pkiserver.authority.checks.lintpieces import LARGEST, PROVEN
from tests.support.lintsamples import KEYS, NOW, SIGNERS, broken, names, sample, usage, verdict

pytestmark = pytest.mark.filterwarnings("ignore:Attribute.s length must be")


@pytest.fixture(autouse=True)
def _no_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for certificates whose like did not come often enough."""
    monkeypatch.setattr(lintshapes, "MET", 10**9)


def test_the_verdict_is_that_of_pkilint_on_the_whole_certificate() -> None:
    rng = random.Random(5280)
    linter = Linter()
    seen: set[str] = set()
    for _ in range(250):
        der = sample(rng)
        expected = verdict(der)
        for _ in range(3):  # seen for the first time, observed, remembered
            assert linter.findings(der) == expected
        seen.update(finding.code for finding in expected)
    assert len(seen) > 30, "the samples are bad in many ways"


def test_a_broken_certificate_is_judged_as_pkilint_judges_it() -> None:
    rng = random.Random(690)
    linter = Linter()
    refused = 0
    for _ in range(300):
        whole = sample(rng)
        linter.findings(whole)
        der = broken(rng, whole)
        expected = verdict(der)
        assert linter.findings(der) == expected
        refused += bool(expected) and expected[0].severity == 0
    assert refused > 60


def test_what_depends_on_another_piece_follows_it() -> None:
    """The same keyUsage octets at the same place, and the rest of the certificate changes."""
    linter = Linter()
    verdicts = set()
    for _ in range(4):
        for ca in (True, False):
            for key in KEYS:
                builder = x509.CertificateBuilder(names()[1], names()[2], key, 7)
                builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=9))
                builder = builder.add_extension(usage(2, 5), critical=True)
                builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
                builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(KEYS[0]), critical=False)
                der = builder.sign(SIGNERS[0], hashes.SHA256()).public_bytes(serialization.Encoding.DER)
                assert linter.findings(der) == verdict(der)
                verdicts.add(linter.findings(der))
    assert len(verdicts) >= 4


def test_what_is_remembered_is_bounded_and_what_comes_often_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lintpieces, "NEW", 8 * 1024)
    linter = Linter()
    new, proven = linter._pieces._new, linter._pieces._proven
    usual = names()[2]
    for number in range(25):
        others = x509.SubjectAlternativeName([x509.DNSName(f"host-{number}-{other}.example") for other in range(40)])
        builder = x509.CertificateBuilder(usual, names()[1], KEYS[0], number + 1)
        builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=9))
        builder = builder.add_extension(others, critical=False)
        der = builder.sign(SIGNERS[1], None).public_bytes(serialization.Encoding.DER)
        found = linter.findings(der)
        if number % 10 == 0:
            assert found == verdict(der)
        assert new.octets == sum(len(octets) for _, octets in new.pieces)
        assert new.octets <= lintpieces.NEW + LARGEST
        if number < 5:  # these names come twice, and then never again
            assert linter.findings(der) == found
    assert new.octets > lintpieces.NEW / 2
    assert proven.octets == sum(len(octets) for _, octets in proven.pieces) <= PROVEN
    assert any(octets == usual.public_bytes() for _, octets in proven.pieces)


def test_a_certificate_larger_than_all_that_is_kept_is_judged_like_any_other() -> None:
    linter = Linter()
    builder = x509.CertificateBuilder(names()[2], names()[1], KEYS[0], 9)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=9))
    for number in range(90):
        oid = x509.ObjectIdentifier(f"1.2.3.{number}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"x" * (LARGEST - 100)), critical=False)
    der = builder.sign(SIGNERS[0], hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    for _ in range(3):
        assert linter.findings(der) == verdict(der)


def test_a_huge_piece_is_not_kept() -> None:
    linter = Linter()
    others = x509.SubjectAlternativeName([x509.DNSName(f"host-{number}.example") for number in range(400)])
    builder = x509.CertificateBuilder(names()[2], names()[1], KEYS[0], 9)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=9)).add_extension(others, False)
    der = builder.sign(SIGNERS[0], hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    for _ in range(3):
        assert linter.findings(der) == verdict(der)
    kept = [octets for _, octets in (*linter._pieces._new.pieces, *linter._pieces._proven.pieces)]
    assert kept
    assert max(map(len, kept)) <= LARGEST
