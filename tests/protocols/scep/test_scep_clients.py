"""Clients that are not ours: Debian's scepclient and strongSwan's pki, with what each needs to be told."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from pkiserver.authority.templates.model import LegacyAlgorithm
from tests.protocols.scep.support import World, template

reactor: Any = _reactor
FULL = """
[[subject.parts]]
attribute = "country"
from = "request"
[[subject.parts]]
attribute = "organization"
from = "request"
[[subject.parts]]
attribute = "organizational_unit"
from = "request"
"""


def shell(folder: Path, script: str, code: int = 0) -> str:
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / name).read_bytes())


def scepclient(scep: World, at: str, folder: Path, *more: str, code: int = 0) -> str:
    """It wants every recipient to be RSA: GetCACert must give out the registration authority alone."""
    command = f"scepclient -server-url {scep.base}/{at} -private-key k.pem -certificate c.pem -debug"
    return shell(folder, " ".join((command, *more)), code)


def test_scepclient_enrols_and_renews_with_des_and_sha1(scep: World, tmp_path: Path) -> None:
    name, text = template("museum", scep='legacy = ["des", "sha1"]\nca_certificates = "ra_only"')
    scep.put(name, text.replace("[[subject.parts]]", FULL + "[[subject.parts]]", 1))
    scepclient(scep, "museum", tmp_path, "-cn scepper", f"-challenge {scep.code('museum')}")
    first = certificate(tmp_path, "c.pem")
    assert "CN=scepper" in first.subject.rfc4514_string()
    assert scep.metrics.legacy_count("museum", LegacyAlgorithm.DES) == 1
    assert scep.metrics.legacy_count("museum", LegacyAlgorithm.SHA1) == 1
    said = scepclient(scep, "museum", tmp_path, "-cn scepper")
    assert "SUCCESS" in said
    second = certificate(tmp_path, "c.pem")
    assert (second.subject, second.serial_number == first.serial_number) == (first.subject, False)


def test_scepclient_renews_where_the_template_leaves_out_what_it_adds(scep: World, tmp_path: Path) -> None:
    """As docs/protocols/scep.md sets it up: organisation and country are ignored, the second time as the first."""
    scep.put(*template("plain", scep='legacy = ["des", "sha1"]\nca_certificates = "ra_only"'))
    scepclient(scep, "plain", tmp_path, "-cn scepper", f"-challenge {scep.code('plain')}")
    first = certificate(tmp_path, "c.pem")
    assert first.subject.rfc4514_string() == "CN=scepper"
    assert "O = scep-client" in shell(tmp_path, "openssl req -in csr.pem -noout -subject")
    assert "SUCCESS" in scepclient(scep, "plain", tmp_path, "-cn scepper")
    second = certificate(tmp_path, "c.pem")
    assert (second.subject, second.serial_number == first.serial_number) == (first.subject, False)
    shell(tmp_path, "rm csr.pem")
    said = scepclient(scep, "plain", tmp_path, "-cn somebody", code=1)  # another name is none to be left out
    assert "badRequest" in said


def test_scepclient_is_told_why_not(scep: World, tmp_path: Path) -> None:
    said = scepclient(scep, "single", tmp_path, "-cn scepper", f"-challenge {scep.code('single')}", code=1)
    assert "badAlg (0)" in said, "DES is not switched on"


CA_FILES = "--cacert-enc ra.der --cacert-sig ra.der --cacert ca.der --cacert ca-1.der --outform pem"


def swan(scep: World, at: str, folder: Path) -> str:
    """strongSwan's first step: the certificates. Returns the beginning of its second."""
    shell(folder, f"pki --scepca --url {scep.base}/{at} --caout ca.der --raout ra.der")
    return f"pki --scep --url {scep.base}/{at} {CA_FILES}"


@pytest.mark.parametrize("more", ["", "--digest sha512", "--digest sha384"])
def test_strongswan_enrols_and_renews_with_aes_and_sha2(scep: World, tmp_path: Path, more: str) -> None:
    begin = swan(scep, "device", tmp_path)
    shell(tmp_path, "openssl genrsa -traditional -out k.pem 2048 && openssl genrsa -traditional -out k2.pem 2048")
    made = f"{begin} {more} --in k.pem --dn CN=swan --san swan.example --password {scep.code()} > c.pem"
    assert "Issued certificate is trusted" in shell(tmp_path, made)
    first = certificate(tmp_path, "c.pem")
    assert first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == x509.SubjectAlternativeName(
        [x509.DNSName("swan.example")]
    )
    renew = f"{begin} --in k2.pem --dn CN=swan --san swan.example --cert c.pem --key k.pem > c2.pem"
    shell(tmp_path, renew)
    second = certificate(tmp_path, "c2.pem")
    assert (second.subject, second.public_key() == first.public_key()) == (first.subject, False)


def test_strongswan_asks_for_names_of_any_length_beside_its_challenge(scep: World, tmp_path: Path) -> None:
    """It writes the attributes of its request in one order, whatever DER says: with long names they are not sorted."""
    begin = swan(scep, "device", tmp_path)
    for names in (["s.ex"], ["router-7.example.org"], [f"name-{number}.example.org" for number in range(9)]):
        asked = " ".join(f"--san {one}" for one in names)
        command = f"{begin} --in k.pem --dn CN=swan {asked} --password {scep.code()} > c.pem"
        shell(tmp_path, f"openssl genrsa -traditional -out k.pem 2048 && {command}")
        made = certificate(tmp_path, "c.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert made.get_values_for_type(x509.DNSName) == names


def test_strongswan_renews_where_the_template_leaves_out_one_of_its_names(scep: World, tmp_path: Path) -> None:
    name, text = template("hosts")
    scep.put(name, text.replace("[[sans.parts]]", '[sans]\nothers = "ignore"\n[[sans.parts]]', 1))
    begin = f"{swan(scep, 'hosts', tmp_path)} --dn CN=swan --san s.ex --san a@b.ex"
    shell(tmp_path, "openssl genrsa -traditional -out k.pem 2048 && openssl genrsa -traditional -out k2.pem 2048")
    shell(tmp_path, f"{begin} --in k.pem --password {scep.code('hosts')} > c.pem")
    shell(tmp_path, f"{begin} --in k2.pem --cert c.pem --key k.pem > c2.pem")
    for file in ("c.pem", "c2.pem"):
        names = certificate(tmp_path, file).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names == x509.SubjectAlternativeName([x509.DNSName("s.ex")])


def test_strongswan_polls_until_an_officer_agrees(
    scep: World, tmp_path: Path, on_reactor: Callable[[Any], Any]
) -> None:
    begin = swan(scep, "approved", tmp_path)
    shell(tmp_path, "openssl genrsa -traditional -out k.pem 2048")
    command = f"{begin} --in k.pem --dn CN=patient --interval 1 --maxpolltime 100 > c.pem"
    process = subprocess.Popen(["bash", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE)

    async def approve() -> None:
        for _ in range(100):
            waiting = await scep.engine.approvals.list_page()
            found = [one for one in waiting if one.template == "approved"]
            if found:
                await scep.engine.approvals.decide(found[0].id, approved=True, by="officer")
                return
            await deferLater(reactor, 0.1)
        raise AssertionError("nothing waits")

    on_reactor(approve)
    assert process.wait(120) == 0, process.stderr.read() if process.stderr else ""
    assert certificate(tmp_path, "c.pem").subject.rfc4514_string() == "CN=patient"


def test_strongswan_is_refused_without_a_right_to_it(scep: World, tmp_path: Path) -> None:
    begin = swan(scep, "device", tmp_path)
    shell(tmp_path, "openssl genrsa -traditional -out k.pem 2048")
    said = shell(tmp_path, f"{begin} --in k.pem --dn CN=nobody --password guess > c.pem", 1)
    assert "badRequest" in said
