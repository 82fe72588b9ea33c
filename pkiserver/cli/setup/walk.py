"""What quickstart prints: what listens where, and commands to paste that work."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import attrs
from cryptography import x509
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pkiserver.cli.output import PIPE_WIDTH
from pkiserver.cli.setup.layout import DEMO_ACCOUNT, DEMO_MAIL, ISSUING, Layout

LABEL = "tls-client"


@attrs.frozen
class Step:
    """One thing to try: a sentence and its commands."""

    what: str
    commands: tuple[str, ...]


def listeners(layout: Layout) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Protocol, where it listens, and what is to be said of its TLS certificate."""
    tls = _tls(layout.tls / "server.pem")
    http, https = layout.http_url, layout.https_url
    api = ("management API (REST)", (layout.api_url,), (tls, "clients must show an administrator's certificate"))
    ldap = (f"ldap://localhost:{layout.ldap_port}", f"ldaps://localhost:{layout.ldaps_port}")
    management = f"http://localhost:{layout.management_port}"
    return [
        ("EST (RFC 7030)", (f"{https}/.well-known/est/LABEL/...",), (tls,)),
        ("SCEP (RFC 8894)", (f"{http}/scep/TEMPLATE",), ("no TLS needed: messages are encrypted and signed",)),
        ("address book (LDAP)", ldap, (tls,)),
        ("OCSP (RFC 6960)", (f"{http}/ocsp",), ("no TLS: answers are signed",)),
        ("CRL, CA certificates", (f"{http}/crl/...", f"{http}/ca/..."), ("no TLS: they are signed",)),
        ("time-stamps (RFC 3161)", (f"{http}/tsa", f"{https}/tsa"), ("no TLS needed: tokens are signed", tls)),
        ("health, metrics", (f"{management}/health/ready", f"{management}/metrics"), ("no TLS: loopback only",)),
        *([api] if layout.has_api else []),
    ]


def _tls(file: Path) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError):
        return f"TLS: {file} cannot be read"  # why not is what the server says when it starts
    subject = certificate.subject.rfc4514_string()
    return f"TLS: {subject}, issued by {ISSUING}, until {certificate.not_valid_after_utc:%Y-%m-%d}"


def steps(layout: Layout) -> list[Step]:
    """The walk from nothing to a verified, then revoked certificate."""
    root = shlex.quote(str(layout.root_certificate))
    folder = shlex.quote(str(layout.directory / "try"))
    password = f'"{DEMO_ACCOUNT}:$(cat {shlex.quote(str(layout.secrets / "demo-password"))})"'
    est = f"{layout.https_url}/.well-known/est/{LABEL}"
    pkiserver = shlex.quote(str(Path(sys.executable).parent / "pkiserver"))
    config = shlex.quote(str(layout.config))
    decode = "openssl base64 -d | openssl pkcs7 -inform DER -print_certs"
    request = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout demo.key"
    post = f"curl -fsS --cacert {root} --user {password} -H 'Content-Type: application/pkcs10'"
    ocsp = f"openssl ocsp -issuer issuing.pem -cert demo.pem -url {layout.http_url}/ocsp -CAfile {root}"
    # what the certificate itself says, as every client finds it
    see = "openssl x509 -in demo.pem -noout -ext"
    ca_issuers = f"\"$({see} authorityInfoAccess | sed -n 's/.*CA Issuers - URI://p')\""
    crl = f"\"$({see} crlDistributionPoints | sed -n 's/ *URI://p')\""
    query = "curl -fsS -H 'Content-Type: application/timestamp-query'"
    return [
        Step(
            "EST: the CA certificates",
            (
                f"mkdir -p {folder} && cd {folder}",
                f"curl -fsS --cacert {root} {est}/cacerts | {decode} -out chain.pem",
            ),
        ),
        Step(
            "EST: enrol a P-256 key",
            (
                f"{request} -subj /CN=demo -outform DER | openssl base64 -out demo.p10",
                f"{post} --data-binary @demo.p10 {est}/simpleenroll | {decode} | openssl x509 -out demo.pem",
                f"curl -fsS {ca_issuers} | openssl x509 -inform DER -out issuing.pem",
            ),
        ),
        Step("OCSP: good", (ocsp,)),
        Step("revoke it", (f"{pkiserver} --config {config} cert revoke demo.pem --reason superseded",)),
        Step("OCSP: revoked", (ocsp,)),
        Step(
            "CRL: issued now instead of within ten seconds, then used; it must say 'certificate revoked'",
            (
                f"{pkiserver} --config {config} crl issue {ISSUING}",
                f"curl -fsS {crl} | openssl crl -inform DER -out issuing.crl",
                f"openssl verify -crl_check -CAfile {root} -untrusted issuing.pem -CRLfile issuing.crl demo.pem",
            ),
        ),
        Step(
            "time-stamp a file; it must say 'Verification: OK'",
            (
                "openssl ts -query -data demo.pem -sha256 -cert -out demo.tsq",
                f"{query} --data-binary @demo.tsq {layout.http_url}/tsa -o demo.tsr",
                f"openssl ts -verify -data demo.pem -in demo.tsr -CAfile {root}",
            ),
        ),
        _addressbook(layout, f"{post} --data-binary @mail.p10", decode),
        _scep(layout, pkiserver=f"{pkiserver} --config {config}", root=root),
        *([_administrator(layout, f"{pkiserver} --config {config}", root)] if layout.has_api else []),
        Step("the whole installation checked", (f"{pkiserver} --config {config} doctor",)),
    ]


def _addressbook(layout: Layout, post: str, decode: str) -> Step:
    """An S/MIME certificate, found by its address as a mail client does, and a message encrypted to it."""
    enroll = f"{post} {layout.https_url}/.well-known/est/smime/simpleenroll"
    search = f"ldapsearch -LLL -o ldif-wrap=no -x -H ldap://localhost:{layout.ldap_port} -b o=pkiserver"
    request = "openssl req -new -newkey rsa:2048 -nodes -keyout mail.key"
    found = "sed -n 's/^userCertificate;binary:: //p' | openssl base64 -d -A | openssl x509 -inform DER -out found.pem"
    decrypt = "openssl cms -decrypt -recip mail.pem -inkey mail.key"
    return Step(
        "address book: an S/MIME certificate, found by its address; it must say 'secret' (apt-get install ldap-utils)",
        (
            f"{request} -subj / -outform DER | openssl base64 -out mail.p10",
            f"{enroll} | {decode} | openssl x509 -out mail.pem",
            f"{search} '(mail={DEMO_MAIL})' 'userCertificate;binary' | {found}",
            f"echo secret | openssl cms -encrypt -aes256 found.pem | {decrypt}",
        ),
    )


def _scep(layout: Layout, *, pkiserver: str, root: str) -> Step:
    """An enrolment with a one-time code by a client that is not ours."""
    url = f"{layout.http_url}/scep/device"
    told = 'sed -n \'s/.*"code": "\\([^"]*\\)".*/\\1/p\''
    certificates = "--cacert-enc ra.der --cacert-sig ra.der --cacert ca.der --cacert ca-1.der"
    packages = "strongswan-pki libstrongswan-standard-plugins libstrongswan-extra-plugins"
    return Step(
        f"SCEP: enrol an RSA key with a one-time code, by strongSwan's pki (apt-get install {packages})",
        (
            f"code=$({pkiserver} --json enroll-code create device | {told})",
            f"pki --scepca --url {url} --caout ca.der --raout ra.der",
            "openssl genrsa -traditional -out scep.key 2048",
            f'pki --scep --url {url} --in scep.key --dn CN=demo-scep --password "$code" {certificates} > scep.der',
            "openssl x509 -inform DER -in scep.der -out scep.pem",
            f"openssl verify -CAfile {root} -untrusted issuing.pem scep.pem",
        ),
    )


def _administrator(layout: Layout, pkiserver: str, root: str) -> Step:
    """The first administrator of the management API: there is none before, and no password to change."""
    told = 'sed -n \'s/.*"password": "\\([^"]*\\)".*/\\1/p\''
    create = f"{pkiserver} --json admin create ada --role administrator --authority {ISSUING} --out ada.p12"
    call = f'curl -fsS --cacert {root} --cert-type P12 --cert "ada.p12:$password"'
    return Step(
        "management API: the first administrator, whose PKCS#12 file and its password are told this once",
        (
            f"password=$({create} | {told})",
            f"{call} {layout.api_url}/me",
            f"{call} '{layout.api_url}/certificates?limit=5'",
        ),
    )


def show(layout: Layout) -> None:
    """Print both for a person; addresses and commands are never cut or wrapped, so that they can be pasted."""
    table = Table("protocol", "listens at", box=None, pad_edge=False, header_style="bold")
    for protocol, places, remarks in listeners(layout):
        remarked = Text("\n").join(Text(remark, style="dim") for remark in remarks)
        table.add_row(protocol, Text("\n").join((*map(Text, places), remarked)))
    # a terminal may wrap what is wider than it; rich would cut it
    Console(highlight=False, width=PIPE_WIDTH).print(table)
    print("\nTo try, in another shell:\n")  # noqa: T201 - here and below: rich would wrap it
    for step in steps(layout):
        print(f"# {step.what}")  # noqa: T201
        print("\n".join(step.commands) + "\n")  # noqa: T201
    print(f"Configuration: {layout.config}")  # noqa: T201
    print("Ctrl-C stops the server; run the command again to start it.")  # noqa: T201
