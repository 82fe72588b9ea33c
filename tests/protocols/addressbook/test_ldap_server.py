"""What mail clients and directory tools get: ldap-utils, curl, gpgsm, dirmngr, ldap3, openssl."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import ldap3
import pytest
from cryptography import x509
from twisted.internet import reactor as _reactor

from pkiserver.authority.revocation import ByFingerprint, Order
from pkiserver.foundation.secret import Secret
from pkiserver.store.certificates import RevocationReason
from protocols.addressbook.controls import SORT, VLV, VLV_RESPONSE
from tests.protocols.addressbook.support import BASE, PASSWORD, Site, certificates_in

reactor: Any = _reactor
ORDER = Order(actor="test", approved_by=None, comment="")


@pytest.fixture(scope="module", autouse=True)
def people(site: Site) -> None:
    """A few people, an account that may log in, and one that may write contacts."""
    site.issue("Alice Smith", "Alice@Example.com", "a.smith@example.com")
    site.issue("Bob Smithers", "bob@example.com")
    site.issue("Bob Smithers", "bob@example.com", kind="rsa")
    site.issue("Carol", "carol@example.com", template="private")
    site.issue("Dave", "dave@example.com", template="sign")
    password = Secret(PASSWORD)
    for name, groups in (("reader", frozenset()), ("partner-desk", frozenset({"partners"}))):
        site.do(lambda n=name, g=groups: site.engine.accounts.create(n, password, groups=g, by="test"))


def fingerprint(der: bytes) -> ByFingerprint:
    import hashlib

    return ByFingerprint(hashlib.sha256(der).digest())


def test_the_root_dse_says_what_there_is(site: Site) -> None:
    text = site.search("(objectClass=*)", "*", "+", base="", options=("-s", "base"))
    assert f"namingContexts: {BASE}" in text
    for wanted in ("1.3.6.1.4.1.1466.20037", "1.3.6.1.1.8", "1.2.840.113556.1.4.319", "supportedLDAPVersion: 3"):
        assert wanted in text
    assert "vendorName: pkiserver" in text


def test_the_schema_is_one_that_ldap3_and_ldaptor_can_read(site: Site) -> None:
    server = ldap3.Server("127.0.0.1", port=site.ldap, get_info=ldap3.ALL)
    with ldap3.Connection(server, auto_bind=True):
        assert "inetOrgPerson" in server.schema.object_classes
        assert server.schema.attribute_types["userSMIMECertificate"].oid == "2.16.840.1.113730.3.1.40"
        assert [str(one) for one in server.info.naming_contexts] == [BASE]
    from ldaptor.schema import AttributeTypeDescription, ObjectClassDescription

    from protocols.addressbook.schema import subschema

    texts = subschema()
    assert {AttributeTypeDescription(one.encode()).name[0] for one in texts["attributeTypes"]} >= {b"mail", b"uid"}
    assert all(ObjectClassDescription(one.encode()).oid for one in texts["objectClasses"])


def test_an_exact_address_finds_the_certificate_over_every_transport(site: Site) -> None:
    found = certificates_in(site.search("(mail=alice@example.com)", "userCertificate;binary"))
    assert len(found) == 1
    subject = x509.load_der_x509_certificate(found[0]).subject.rfc4514_string()
    assert subject == "CN=Alice Smith"
    for options in (("-ZZ", "-H", f"ldap://localhost:{site.ldap}"), ("-H", f"ldaps://localhost:{site.ldaps}")):
        text = site.run(
            "ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-x", *options, "-b", BASE, "(mail=ALICE@example.com)"
        )
        assert certificates_in(text) == found
        assert "objectClass: inetOrgPerson" in text
        assert "sn: Smith" in text


def test_every_address_leads_to_the_person(site: Site) -> None:
    text = site.search("(mail=a.smith@example.com)", "mail")
    assert "dn: uid=a.smith@example.com,ou=People" in text
    assert "mail: Alice@Example.com" in text
    for rdn in ("uid", "mail"):
        assert "cn: Alice Smith" in site.search("(objectClass=*)", base=f"{rdn}=alice@example.com,ou=People,{BASE}")


def test_of_each_kind_of_key_the_newest_is_shown(site: Site) -> None:
    newest = site.issue("Bob Smithers", "bob@example.com")
    found = certificates_in(site.search("(mail=bob@example.com)"))
    assert len(found) == 2
    assert found[0] == newest.der


def test_all_are_shown_where_the_template_says_so(site: Site) -> None:
    made = {site.issue("Harry", "harry@example.com", template="history").der for _ in range(3)}
    assert set(certificates_in(site.search("(mail=harry@example.com)"))) == made


def test_templates_that_do_not_publish_and_keys_that_cannot_encrypt_stay_out(site: Site) -> None:
    assert site.names("(mail=carol@example.com)") == []
    assert site.names("(mail=dave@example.com)") == []
    assert site.names("(cn=carol)") == []


@pytest.mark.parametrize(
    ("name", "address"),
    [pytest.param("Eve", "eve@example.com", id="ascii"), pytest.param("Zoë", "zoë@example.com", id="beyond-ascii")],
)
def test_what_is_on_hold_or_revoked_is_withdrawn(site: Site, name: str, address: str) -> None:
    issued = site.issue(name, address)
    who = fingerprint(issued.der)
    assert certificates_in(site.search(f"(mail={address})")) == [issued.der]
    site.do(lambda: site.engine.status.revocations.hold(who, ORDER))
    site.settle()
    assert certificates_in(site.search(f"(mail={address})")) == []
    site.do(lambda: site.engine.status.revocations.release(who, ORDER))
    site.settle()
    assert certificates_in(site.search(f"(mail={address})")) == [issued.der]
    site.do(lambda: site.engine.status.revocations.revoke(who, RevocationReason.SUPERSEDED, ORDER))
    site.settle()
    assert certificates_in(site.search(f"(mail={address})")) == []
    assert site.names(f"(cn={name})") == []


def test_history_keeps_old_certificates_for_who_names_exactly_them(site: Site) -> None:
    issued = site.issue("Old Holm", "holm@example.com", template="history")
    site.do(lambda: site.engine.status.revocations.revoke(fingerprint(issued.der), RevocationReason.SUPERSEDED, ORDER))
    site.settle()
    parsed = x509.load_der_x509_certificate(issued.der)
    assert site.names("(mail=holm@example.com)") == []
    gser = f'{{ serialNumber {parsed.serial_number}, issuer rdnSequence:"{parsed.issuer.rfc4514_string()}" }}'
    for form in (gser, f"{parsed.serial_number}$cn=ISSUING, o=example"):
        assert certificates_in(site.search(f"(userCertificate={form})")) == [issued.der]
    assert site.names(f"(userCertificate={parsed.serial_number + 1}$cn=issuing,o=example)") == []


def test_a_person_may_opt_out(site: Site) -> None:
    from pkiserver.publication.contacts import ContactWriter

    site.issue("Oscar", "oscar@example.com")
    writer = ContactWriter(site.engine.database, site.engine.audit, site.engine.clock)
    assert site.names("(mail=oscar@example.com)") == ["oscar@example.com"]
    site.do(lambda: writer.opt_out("Oscar@example.com", out=True, by="test"))
    site.settle()
    assert site.names("(mail=oscar@example.com)") == []
    assert site.names("(cn=osc*)") == []
    site.search("(objectClass=*)", base=f"uid=oscar@example.com,ou=People,{BASE}", rc=32)
    site.do(lambda: writer.opt_out("oscar@example.com", out=False, by="test"))
    site.settle()
    assert site.names("(mail=oscar@example.com)") == ["oscar@example.com"]


PAGE = (Path(__file__).parents[3] / "docs" / "protocols" / "addressbook.md").read_text()
CLIENTS = PAGE.partition("Filters that mail clients send")[2].partition("These are the forms")[0].replace("\\|", "|")
DOCUMENTED = re.findall(r"`(\([&|][^`]*\))`", CLIENTS)


@pytest.mark.parametrize("form", DOCUMENTED)
def test_the_filters_that_mail_clients_send(site: Site, form: str) -> None:
    typed = re.sub(r"(?<==)(\*@|\*)?x(?=\*)", r"\g<1>bob", form)
    filter_ = typed.replace("=a)", "=bob@example.com)").replace("=b)", "=nobody@example.com)")
    text = site.search(filter_, "cn", "mail", "usercertificate;binary", options=("-z", "4"))
    assert text.count("dn: ") == 1
    assert "dn: uid=bob@example.com,ou=People" in text
    assert len(certificates_in(text)) == 2
    assert site.search(filter_.replace("bob", "nobody-at-all"), "cn") == ""
    if "(sn=" in form:
        assert site.names(typed.replace("bob", "smither")) == ["bob@example.com"]


def test_every_mail_client_is_documented() -> None:
    for client in ("Outlook", "Thunderbird", "Apple Mail", "Evolution", "KMail"):
        assert f"| {client}" in CLIENTS
    assert len(DOCUMENTED) >= 9


def test_an_unknown_attribute_makes_an_or_no_worse(site: Site) -> None:
    form = "(|(mail={0}*)(cn={0}*)(proxyAddresses=smtp:{0}*))".format("bob")
    assert "bob@example.com" in site.names(form)


@pytest.mark.parametrize(
    "form",
    [
        "(mail=*)",
        "(objectClass=*)",
        "(objectClass=person)",
        "(cn=*)",
        "(cn=a*)",
        "(mail=b*)",
        "(mail=*example.com)",
        "(cn=*smith*)",
        "(!(mail=nobody@example.com))",
        "(&(objectClass=person)(!(cn=x)))",
        "(mail>=a)",
        "(uid=*)",
        "(|(mail=*)(cn=bo*))",
        "(&)",
        "(cn:2.5.13.2:=c)",
    ],
)
def test_a_dump_is_impossible(site: Site, form: str) -> None:
    assert site.names(form) == []
    for base in (f"ou=People,{BASE}", ""):
        assert site.names(form, base=base) == []


def test_the_beginning_of_a_name_gives_few(site: Site) -> None:
    for number in range(25):
        site.issue(f"Zoe Many {number}", f"zoe{number}@example.com")
    text = site.search("(cn=zoe*)", "1.1", rc=4)
    assert len(re.findall(r"^dn: ", text, re.MULTILINE)) == 20
    assert len(site.names("(cn=zoe many 7)")) == 1
    assert len(re.findall(r"^dn: ", site.search("(cn=zoe*)", "1.1", options=("-z", "5"), rc=4), re.MULTILINE)) == 5


def test_pages_order_and_views(site: Site) -> None:
    text = site.search("(mail=zoe*)", "cn", options=("-E", "pr=7/noprompt"), rc=4)
    assert len(re.findall(r"^cn: ", text, re.MULTILINE)) == 20
    text = site.search("(mail=zoe1*)", "cn", options=("-E", "sss=-cn"))
    names = re.findall(r"^cn: (.*)$", text, re.MULTILINE)
    assert names == sorted(names, reverse=True)
    assert len(names) == 11
    by_name = (SORT, True, bytes.fromhex("300630040402636e"))
    view = (VLV, True, bytes.fromhex("300e020101020101a006020103") + bytes.fromhex("02010b"))
    with ldap3.Connection(ldap3.Server("127.0.0.1", port=site.ldap), auto_bind=True) as connection:
        connection.search(BASE, "(mail=zoe1*)", attributes=["cn"], controls=[by_name, view])
        assert [one.cn.value for one in connection.entries] == ["Zoe Many 10", "Zoe Many 11", "Zoe Many 12"]
        assert connection.result["controls"][VLV_RESPONSE]["value"] == bytes.fromhex("300902010302010b0a0100")
    site.search("(mail=zoe1*)", options=("-e", "!1.2.3.4"), rc=12)


@pytest.mark.parametrize(
    ("keys", "code"), [("nosuch", 16), ("cn:9.9.9", 18), ("userCertificate", 18), ("cn/commonName", 53)]
)
def test_what_cannot_be_sorted_is_said_and_nothing_is_given_where_order_is_critical(
    site: Site, keys: str, code: int
) -> None:
    """RFC 2891 section 2. A key that could not be sorted by was passed over, also where the client insisted."""
    told = f"sortResult: ({code})"
    loose = site.search("(mail=bob@example.com)", "1.1", options=("-E", f"sss={keys}"))
    assert told in loose
    assert "dn: uid=bob" in loose
    strict = site.search("(mail=bob@example.com)", "1.1", options=("-E", f"!sss={keys}"), rc=12)
    assert told in strict
    assert "dn: " not in strict
    known = site.search("(mail=bob@example.com)", "1.1", options=("-E", "!sss=-cn:caseIgnoreOrderingMatch"))
    assert "sortResult: (0)" in known


def test_attributes_are_chosen_as_rfc_4511_says(site: Site) -> None:
    assert "userCertificate;binary::" in site.search("(mail=bob@example.com)", "userCertificate")
    text = site.search("(mail=bob@example.com)", "1.1")
    assert text.strip() == f"dn: uid=bob@example.com,ou=People,{BASE}"
    text = site.search("(mail=bob@example.com)", options=("-A",))
    assert "\ncn:\n" in text
    assert "Bob" not in text
    text = site.search("(mail=bob@example.com)", "+")
    assert "structuralObjectClass: inetOrgPerson" in text
    assert "userCertificate" not in text
    text = site.search("(mail=bob@example.com)", "name", "2.5.4.20", "MAIL")
    assert "sn: Smithers" in text
    assert "mail: bob@example.com" in text


def test_compare_and_who_am_i(site: Site) -> None:
    dn = f"uid=bob@example.com,ou=People,{BASE}"
    assert "TRUE" in site.run("ldapcompare", "-x", "-H", site.url, dn, "cn: BOB  smithers", rc=6)
    assert "FALSE" in site.run("ldapcompare", "-x", "-H", site.url, dn, "cn: Robert", rc=5)
    site.run("ldapcompare", "-x", "-H", site.url, f"uid=nobody@example.com,ou=People,{BASE}", "cn: x", rc=32)
    site.run("ldapcompare", "-x", "-H", site.url, dn, "telephoneNumber: 1", rc=16)
    assert "anonymous" in site.run("ldapwhoami", "-x", "-H", site.url)


def test_simple_binds_are_for_tls(site: Site) -> None:
    who = ("-D", f"uid=reader,ou=People,{BASE}", "-w", PASSWORD)
    site.run("ldapwhoami", "-x", "-H", site.url, *who, rc=13)
    secure = ("ldapwhoami", "-x", "-ZZ", "-H", f"ldap://localhost:{site.ldap}")
    assert "u:reader" in site.run(*secure, *who)
    assert "u:reader" in site.run(*secure, "-D", "reader", "-w", PASSWORD)
    site.run(*secure, "-D", f"uid=reader,ou=People,{BASE}", "-w", "wrong", rc=49)
    site.run(*secure, "-D", f"uid=nobody,ou=People,{BASE}", "-w", "wrong", rc=49)


def test_a_client_certificate_binds_by_sasl_external(site: Site) -> None:
    certificate, key = site.pem_pair(site.issue("gateway", "gw@example.com", template="client"), "gw")
    tls = {"LDAPTLS_CERT": certificate, "LDAPTLS_KEY": key}
    url = f"ldaps://localhost:{site.ldaps}"
    assert "u:operator:test" in site.run("ldapwhoami", "-Q", "-Y", "EXTERNAL", "-H", url, **tls)
    site.run("ldapwhoami", "-Q", "-Y", "EXTERNAL", "-H", url, rc=None)
    text = site.run("ldapsearch", "-LLL", "-x", "-H", url, "-b", "", "-s", "base", "+", **tls)
    assert "supportedSASLMechanisms: EXTERNAL" in text
    assert "supportedSASLMechanisms" not in site.search("(objectClass=*)", "+", base="", options=("-s", "base"))


def test_only_appointed_people_write_and_only_contacts(site: Site) -> None:
    issued = site.issue("Partner Paul", "paul@partner.example", template="client")
    wrong = site.folder / "wrong.der"
    wrong.write_bytes(issued.der)
    good = site.folder / "partner.der"
    good.write_bytes(site.issue("Partner Paul", "paul@partner.example", template="private").der)
    dn = f"uid=paul@partner.example,ou=Contacts,{BASE}"

    def ldif(file: Path, dn: str = dn) -> bytes:
        return (
            f"dn: {dn}\nobjectClass: inetOrgPerson\ncn: Partner Paul\nsn: Paul\nmail: paul@partner.example\n"
            f"userCertificate;binary:< file://{file}\n"
        ).encode()

    write = ("ldapmodify", "-x", "-ZZ", "-H", f"ldap://localhost:{site.ldap}")
    desk = ("-D", "partner-desk", "-w", PASSWORD)
    site.run("ldapmodify", "-a", "-x", "-H", site.url, data=ldif(good), rc=50)
    site.run(*write, "-a", "-D", "reader", "-w", PASSWORD, data=ldif(good), rc=50)
    site.run(*write, "-a", *desk, data=ldif(wrong), rc=19)
    person = f"uid=paul@partner.example,ou=People,{BASE}"
    site.run(*write, "-a", *desk, data=ldif(good, person), rc=53)
    site.run(*write, "-a", *desk, data=ldif(good))
    site.run(*write, "-a", *desk, data=ldif(good), rc=68)
    site.settle()
    text = site.search("(mail=paul@partner.example)")
    assert f"dn: {dn}" in text
    assert certificates_in(text) == [good.read_bytes()]
    assert site.search("(cn=partner*)", "1.1").strip() == f"dn: {dn}"
    change = f"dn: {dn}\nchangetype: modify\nreplace: cn\ncn: Paul of Partner\n".encode()
    site.run(*write, *desk, data=change)
    site.settle()
    assert "cn: Paul of Partner" in site.search("(cn=paul of*)")
    rename = f"dn: {dn}\nchangetype: modrdn\nnewrdn: uid=x@y.example\ndeleteoldrdn: 1\n".encode()
    site.run(*write, *desk, data=rename, rc=53)
    site.run("ldapdelete", "-x", "-ZZ", "-H", f"ldap://localhost:{site.ldap}", *desk, dn)
    site.settle()
    assert site.search("(mail=paul@partner.example)").strip() == ""


def test_curl_and_ldap3(site: Site) -> None:
    text = site.run("curl", "-sS", f"ldap://127.0.0.1:{site.ldap}/{BASE}?cn,mail?sub?(mail=bob@example.com)")
    assert "Bob Smithers" in text
    server = ldap3.Server("127.0.0.1", port=site.ldap, get_info=ldap3.ALL)
    with ldap3.Connection(server, auto_bind=True) as connection:
        connection.search(BASE, "(mail=bob@example.com)", attributes=["userCertificate;binary", "cn"])
        assert connection.entries[0].cn.value == "Bob Smithers"
        assert len(connection.entries[0]["userCertificate;binary"].values) == 2


def test_a_message_is_encrypted_to_what_is_found_and_decrypted(site: Site) -> None:
    issued = site.issue("Rita", "rita@example.com", kind="rsa")
    certificate, key = site.pem_pair(issued, "rita")
    (site.folder / "found.der").write_bytes(certificates_in(site.search("(mail=rita@example.com)"))[0])
    site.run("openssl", "x509", "-inform", "DER", "-in", "found.der", "-out", "found.pem")
    (site.folder / "letter").write_text("only for Rita\n")
    site.run("openssl", "cms", "-encrypt", "-aes256", "-in", "letter", "-out", "letter.p7m", "found.pem")
    letter = site.run("openssl", "cms", "-decrypt", "-in", "letter.p7m", "-recip", certificate, "-inkey", key)
    assert "only for Rita" in letter


def test_what_is_expired_is_not_given_from_memory(site: Site) -> None:
    assert site.names("(mail=bob@example.com)") == ["bob@example.com"]
    kept = site.service.book._kept["bob@example.com"]
    object.__setattr__(kept, "until", site.engine.clock.now() - timedelta(seconds=1))
    before = site.service.book.counts.misses
    assert site.names("(mail=bob@example.com)") == ["bob@example.com"]
    assert site.service.book.counts.misses == before + 1
