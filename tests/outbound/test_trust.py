"""Trust anchors of connections outwards: read when they are needed, and not longer than that takes."""

from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL

from pkiserver.outbound.pem import PemCertificates
from pkiserver.outbound.trust import TlsTrust
from tests.support.tlsfiles import TestCa
from tests.support.work import counted_work


def test_row_34_a_long_list_of_authorities_is_taken_in_once(tmp_path: Path) -> None:
    """As an MDM's connector may name the machine's own: a question to it held up everybody for 15 ms, three times."""
    ca = TestCa(tmp_path)
    stems = [f"a{number}" for number in range(100)]
    (tmp_path / "list.pem").write_text("".join(ca.issue(stem)[0].read_text() for stem in stems))
    trust = TlsTrust(PemCertificates.parse(f"file:{tmp_path}/list.pem"))
    with counted_work() as first:
        trust.creator("localhost")
    with counted_work() as again:
        trust.creator("localhost")
    assert again.calls < first.calls / 2


def test_a_list_that_was_replaced_counts_at_once(tmp_path: Path) -> None:
    one, other = TestCa(tmp_path, "One"), TestCa(tmp_path, "Other")
    anchors = PemCertificates.parse(f"file:{one.file}")
    assert anchors.load() == (one.certificate,)
    one.file.write_text(other.pem)
    assert anchors.load() == (other.certificate,)
    assert isinstance(TlsTrust(anchors).creator("localhost")._context, SSL.Context)
