"""CRLs and CA certificates over HTTP, fetched by curl and by hand from the URLs that certificates carry."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import AuthorityInformationAccessOID
from twisted.internet.defer import Deferred, gatherResults

from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.status import published
from pkiserver.authority.status.points import Partition, Point
from pkiserver.authority.status.published import Publications
from pkiserver.keys.algorithms import KeyType
from protocols.crl import edge
from tests.authority.crl_world import configure
from tests.authority.status_world import lint_crl
from tests.authority.world import ACTOR, TEMPLATE
from tests.protocols.status_server import StatusServer, tool


def crl_path(certificate: bytes) -> str:
    """The path of the distribution point in a certificate."""
    loaded = x509.load_der_x509_certificate(certificate)
    [point] = loaded.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name is not None
    return urlsplit(point.full_name[0].value).path


def issuer_path(certificate: bytes) -> str:
    loaded = x509.load_der_x509_certificate(certificate)
    access = loaded.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    [issuer] = [one for one in access if one.access_method == AuthorityInformationAccessOID.CA_ISSUERS]
    return urlsplit(issuer.access_location.value).path


def number(crl: bytes) -> int:
    loaded = x509.load_der_x509_crl(crl)
    return loaded.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_the_urls_in_a_certificate_lead_to_what_openssl_needs(server: StatusServer) -> None:
    issued = server.issue()
    server.run(lambda: server.at.revoke(issued))
    server.at.clock.advance(timedelta(seconds=10))
    server.run(server.at.status.schedule.run_due)
    files = []
    for name, certificate in (("leaf", issued.der), ("sub", issued.chain[0])):
        target = server.directory / f"{name}.crl"
        tool("curl", "-sSf", "-o", str(target), server.url + crl_path(certificate))
        assert lint_crl(target.read_bytes()) == []
        files.append(x509.load_der_x509_crl(target.read_bytes()).public_bytes(Encoding.PEM))
    lists = server.directory / "lists.pem"
    lists.write_bytes(b"".join(files))
    above = server.directory / "above.cer"
    tool("curl", "-sSf", "-o", str(above), server.url + issuer_path(issued.der))
    assert above.read_bytes() == issued.chain[0]
    said = tool(
        *(
            "openssl",
            "verify",
            "-crl_check_all",
            "-CRLfile",
            str(lists),
            "-CAfile",
            server.file("root.pem", issued.chain[-1]),
        ),
        *("-untrusted", server.file("sub.pem", above.read_bytes()), server.file("leaf.pem", issued.der)),
    )
    assert "certificate revoked" in said


def test_a_list_has_validators_and_is_not_sent_twice(server: StatusServer) -> None:
    path = f"/crl/{server.at.issuing.current.crl_path}.crl"
    first = server.ask("GET", path)
    assert (first.status, first.headers["content-type"]) == (200, "application/pkix-crl")
    assert first.headers["cache-control"] == "max-age=300, public, no-transform, must-revalidate"
    by_tag = server.ask("GET", path, If_None_Match=first.headers["etag"])
    by_time = server.ask("GET", path, If_Modified_Since=first.headers["last-modified"])
    assert [(one.status, one.body) for one in (by_tag, by_time)] == [(304, b""), (304, b"")]
    assert server.ask("GET", path, If_None_Match='"another"').status == 200
    head = server.ask("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) == len(first.body)
    out = server.directory / "twice.crl"
    command = ("curl", "-sS", "-w", "%{http_code}", "--etag-save", f"{out}.tag", "--etag-compare", f"{out}.tag")
    assert tool(*command, "-o", str(out), server.url + path) == "200"
    assert tool(*command, "-o", str(out), server.url + path) == "304"


def test_a_new_list_is_served_and_earlier_ones_by_their_number(server: StatusServer) -> None:
    path = server.at.issuing.current.crl_path
    first = server.ask("GET", f"/crl/{path}.crl")
    server.at.clock.advance(timedelta(hours=1))
    server.run(server.at.status.schedule.run_due)
    second = server.ask("GET", f"/crl/{path}.crl")
    assert (number(first.body), number(second.body)) == (1, 2)
    assert second.headers["etag"] != first.headers["etag"]
    assert server.ask("GET", f"/crl/{path}/1.crl").body == first.body
    assert server.ask("GET", f"/crl/{path}/2.crl").body == second.body
    assert server.ask("GET", f"/crl/{path}/3.crl").status == 404


def test_without_the_database_a_list_in_memory_is_served_until_its_end(server: StatusServer) -> None:
    path = f"/crl/{server.at.issuing.current.crl_path}.crl"
    first = server.ask("GET", path)
    server.run(server.at.world.database.close)
    server.at.clock.advance(timedelta(hours=1))
    for _ in range(2):
        later = server.ask("GET", path)
        assert (later.status, later.body) == (200, first.body)
        assert later.headers["cache-control"] == "max-age=30, public, no-transform, must-revalidate"
        server.at.clock.advance(timedelta(seconds=1))
    assert server.ask("GET", path, If_None_Match=first.headers["etag"]).status == 304
    never_asked = f"/crl/{server.at.world.road.authorities.get('root').current.crl_path}.crl"
    assert server.ask("GET", never_asked).status == 503
    end = x509.load_der_x509_crl(first.body).next_update_utc
    assert end is not None
    server.at.clock.advance(end - server.at.clock.now())
    assert server.ask("GET", path).status == 503


def test_a_database_that_does_not_answer_holds_up_no_list_in_memory(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, database = f"/crl/{server.at.issuing.current.crl_path}.crl", server.at.world.database
    first = server.ask("GET", path)
    asked: list[Deferred[None]] = []

    def hangs(_work: object) -> Deferred[None]:
        asked.append(Deferred())
        return asked[-1]

    monkeypatch.setattr(published, "PATIENCE", 0.2)
    monkeypatch.setattr(database, "read", hangs)
    server.at.clock.advance(timedelta(seconds=1))
    assert server.ask("GET", path).body == first.body
    assert len(asked) == 1
    server.at.clock.advance(timedelta(seconds=1))

    async def many() -> None:
        source = server.at.status.publications
        found = [Deferred.fromCoroutine(source.crl(server.at.issuing.current.crl_path)) for _ in range(5)]
        assert [one.called for one in found] == [False, True, True, True, True], "one asks for all"
        await gatherResults(found)

    server.run(many)
    assert len(asked) == 2
    monkeypatch.undo()
    server.at.clock.advance(timedelta(hours=1))
    server.run(server.at.status.schedule.run_due)
    assert number(server.ask("GET", path).body) == 2, "once it answers, the newest list is served"


def test_lists_of_one_second_are_told_apart(server: StatusServer) -> None:
    """Last-Modified tells seconds: who has the first of two of one second must not be told that it is the last."""
    path = f"/crl/{server.at.issuing.current.crl_path}.crl"
    first = server.ask("GET", path)
    server.at.clock.step(-timedelta(seconds=30))  # the next one cannot be of an earlier time
    issue = server.at.status.schedule.issue_now
    server.run(lambda: issue(server.at.issuing, server.at.issuing.current, actor="tester"))
    server.at.clock.advance(timedelta(seconds=1))
    second = server.ask("GET", path, If_Modified_Since=first.headers["last-modified"])
    assert (second.status, number(second.body)) == (200, 2)
    assert second.headers["last-modified"] == first.headers["last-modified"]
    assert server.ask("GET", path, If_None_Match=second.headers["etag"]).status == 304


def test_whoever_has_a_list_from_the_future_gets_the_one_that_replaced_it(server: StatusServer) -> None:
    path = f"/crl/{server.at.issuing.current.crl_path}.crl"
    server.at.clock.advance(timedelta(hours=1))
    server.run(server.at.status.schedule.run_due)
    wrong = server.ask("GET", path)
    server.at.clock.step(-timedelta(minutes=59))
    server.run(server.at.status.schedule.run_due)
    server.at.clock.advance(timedelta(seconds=1))
    right = server.ask("GET", path, If_Modified_Since=wrong.headers["last-modified"])
    assert (right.status, number(right.body)) == (200, number(wrong.body) + 1)


def test_the_first_who_ask_of_a_process_all_get_the_list(server: StatusServer) -> None:
    at, path = server.at, server.at.issuing.current.crl_path
    begun = Publications(at.world.database, at.world.road.authorities, at.clock)

    async def ask() -> list[Any]:
        return await gatherResults([Deferred.fromCoroutine(begun.crl(path)) for _ in range(5)])

    assert None not in server.run(ask)


def test_a_list_may_be_called_as_the_template_is(server: StatusServer) -> None:
    """Also where the name could be that of a delta, or of an earlier list."""
    names = ("delta", "7", "7-delta")

    async def prepare() -> None:
        await configure(server.at, points=(Point(partition=Partition.TEMPLATES),))
        for name in names:
            await server.at.world.template(TEMPLATE.replace('"device"', f'"{name}"'), name)
            await server.at.revoke(await server.at.certificate(template=name))
        await server.at.status.schedule.run_due()

    server.run(prepare)
    for name in names:
        answer = server.ask("GET", f"/crl/issuing-1/templates/{name}.crl")
        assert (answer.status, len(x509.load_der_x509_crl(answer.body))) == (200, 1), name


def test_the_highest_numbers_are_found(server: StatusServer) -> None:
    at = server.at
    server.run(lambda: at.status.crls.advance(at.issuing, 1 << 62, actor="tester"))
    server.run(lambda: at.status.schedule.issue_now(at.issuing, at.issuing.current, actor="tester"))
    assert number(server.ask("GET", f"/crl/issuing-1/{(1 << 62) + 1}.crl").body) == (1 << 62) + 1
    assert server.ask("GET", f"/crl/issuing-1/{'9' * 19}.crl").status == 404


def test_caches_are_told_a_new_limit_at_once(server: StatusServer) -> None:
    path = f"/crl/{server.at.issuing.current.crl_path}.crl"
    for minutes in (5, 2):
        server.run(lambda minutes=minutes: configure(server.at, max_age=timedelta(minutes=minutes)))
        server.at.clock.advance(timedelta(seconds=1))
        told = server.ask("GET", path).headers["cache-control"]
        assert told.startswith(f"max-age={60 * minutes},")


def test_lists_that_are_too_long_to_be_kept_ready_are_served(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/crl/{server.at.issuing.current.crl_path}.crl"
    first = server.ask("GET", path)
    server.at.clock.advance(timedelta(seconds=1))
    monkeypatch.setattr(edge, "PREPARED_OCTETS", 100)
    for _ in range(3):
        again = server.ask("GET", path)
        assert (again.status, again.body, again.headers["etag"]) == (200, first.body, first.headers["etag"])


def test_a_list_past_its_end_is_served_but_never_called_fresh(server: StatusServer) -> None:
    path = f"/crl/{server.at.issuing.current.crl_path}.crl"
    server.at.clock.advance(timedelta(hours=23, minutes=58, seconds=59))
    assert server.ask("GET", path).headers["cache-control"].startswith("max-age=60,")
    server.at.clock.advance(timedelta(days=3))
    late = server.ask("GET", path)
    assert (late.status, late.headers["cache-control"].split(",")[0]) == (200, "max-age=0")


def test_the_chain_comes_as_certs_only_with_link_certificates(server: StatusServer) -> None:
    before = server.at.issuing.current.certificate.der
    key = KeyChoice(key_type=KeyType.parse("ec-p256"), store="softhsm")
    server.run(lambda: server.at.world.road.succession.rekey("issuing", key, ACTOR))
    answer = server.ask("GET", "/ca/issuing.p7c")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/pkcs7-mime; smime-type=certs-only")
    found = {one.public_bytes(Encoding.DER) for one in pkcs7.load_der_pkcs7_certificates(answer.body)}
    root = server.at.world.road.authorities.get("root").current.certificate.der
    assert {before, server.at.issuing.current.certificate.der, root} <= found
    file = server.directory / "chain.p7c"
    file.write_bytes(answer.body)
    shown = tool("openssl", "pkcs7", "-inform", "DER", "-in", str(file), "-print_certs", "-noout")
    assert shown.count("subject=") == len(found)
    first, second = server.at.issuing.generations
    for generation in (first, second):
        answer = server.ask("GET", f"/ca/{generation.crl_path}.cer")
        assert answer.headers["content-type"] == "application/pkix-cert"
        assert answer.body == generation.certificate.der


@pytest.mark.parametrize(
    "path",
    [
        "/crl/",
        "/crl/.crl",
        "/crl/nobody/1.crl",
        "/crl/../../etc/passwd",
        "/crl/..%2f..%2fetc%2fpasswd.crl",
        "/crl/issuing/1.crl/",
        "/crl/issuing/1.crl%00.crl",
        "/crl/issuing/1.der",
        "/crl/" + "a" * 5000 + ".crl",
        "/crl/issuing/1/99999999999999999999999999.crl",
        "/crl/issuing/1/0.crl",
        "/crl/issuing-1/delta.crl",
        "/crl/issuing-1/1-delta.crl",
        "/crl/issuing-1/0-delta.crl",
        "/crl/issuing-1/shards/0.crl",
        "/crl/issuing-1/shards/../../issuing-1.crl",
        "/crl/issuing-1/full.crl",
        "/crl/issuing-1//1.crl",
        "/crl/issuing-1/1/delta.crl",
        "/ca/",
        "/ca/nobody.p7c",
        "/ca/nobody/1.cer",
        "/ca/../issuing.p7c",
        "/ca/issuing",
    ],
)
def test_paths_that_name_nothing_are_not_found(shared: StatusServer, path: str) -> None:
    answer = shared.ask("GET", path)
    assert answer.status == 404
    assert answer.headers["cache-control"] == "no-store"
    assert b"passwd" not in answer.body


def test_only_get_and_head_are_answered(shared: StatusServer) -> None:
    path = f"/crl/{shared.at.issuing.current.crl_path}.crl"
    for method in ("POST", "PUT", "DELETE"):
        assert shared.ask(method, path, b"").status == 405
