"""EST with every kind of evidence that its connections carry, over the real engine; and those that it does not."""

from __future__ import annotations

import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.authority.revocation import ByFingerprint
from pkiserver.store.authority import templates
from tests.protocols.est.world import World, text
from tests.support.tlsfiles import TestCa

ME = ("-u", "me:a long password")


def put(world: World, name: str, rule: str, kind: str = "template") -> None:
    """A template with a rule, or a connector with its table."""
    engine = world.engine
    toml = text(name, f"[[evidence]]\n{rule}\n") if kind == "template" else rule

    async def store() -> None:
        now = engine.clock.now()
        await engine.database.write(
            lambda connection: templates.put(connection, name, toml, now=now, expected=None, kind=kind)
        )
        await engine.refresh()
        assert (engine.templates.problems(), engine.connectors.problems()) == ((), ())

    world.run(store)


def shown(name: str) -> tuple[str, ...]:
    return "--cert", f"{name}.crt", "--key", f"{name}.key"


def test_anybody_where_a_template_says_so(world: World) -> None:
    put(world, "anybody", 'all = ["anonymous"]')
    site = world.site
    site.certificate(site.post("anybody/simpleenroll", site.request("passer-by")), "passer-by")
    assert b"PRIVATE" in site.openssl("pkey", "-in", "passer-by.key")
    site.post("anybody/serverkeygen", site.request("second"))


def test_a_certificate_of_one_template_entitles_to_one_of_another(world: World) -> None:
    put(world, "next", 'all = ["client_certificate"]\ntemplates = ["device"]')
    site = world.site
    site.certificate(site.post("device/simpleenroll", site.request("bearer"), *ME), "bearer")
    site.certificate(site.post("early/simpleenroll", site.request("other"), *ME), "other")
    request = site.request("bearer-two")
    first = site.certificate(site.post("next/simpleenroll", request, *shown("bearer")), "bearer-two")
    assert first.subject.rfc4514_string() == "CN=bearer-two"
    refused = site.post("next/simpleenroll", site.request("bearer-three"), *shown("other"), status=403)
    assert refused == b"client certificates of that template do not count here\n"
    assert b"a client certificate is needed" in site.post("next/simpleenroll", request, *ME, status=403)
    # what entitles to a certificate of another template renews none of it
    wrong = site.post("next/simplereenroll", site.again("bearer"), *shown("bearer"), status=403)
    assert b"is of template device, not next" in wrong


def test_a_factory_certificate_with_its_chain_entitles_while_it_is_not_revoked(world: World) -> None:
    site = world.site
    root, plant = TestCa(site.folder, "Maker root"), TestCa(site.folder, "Maker plant")
    lists = site.folder / "plant.crl"
    lists.write_bytes(plant.crl())
    (site.folder / "root.crl").write_bytes(root.crl())
    table = f"""
kind = "connector"
name = "factory"
[certificate]
anchors = '''{root.pem}'''
name = "subject.common_name"
crls = ["file:{lists}", "file:{site.folder}/root.crl"]
refresh = "1s"
"""
    put(world, "factory", table, kind="connector")
    put(world, "field", 'all = ["client_certificate"]\nconnectors = ["factory"]')
    between = plant.under(root).public_bytes(Encoding.PEM)
    for name in ("unit-1", "unit-2"):
        file, _ = plant.issue(name)
        file.write_bytes(file.read_bytes() + between)
    made = site.certificate(site.post("field/simpleenroll", site.request("field-1"), *shown("unit-1")), "field-1")
    mark = ByFingerprint(made.fingerprint(hashes.SHA256()))
    assert world.one(world.engine.status.revocations.find(mark)).requester == "factory:unit-1"
    request = site.request("field-2")
    alone = x509.load_pem_x509_certificate((site.folder / "unit-2.crt").read_bytes())
    (site.folder / "alone.crt").write_bytes(alone.public_bytes(Encoding.PEM))
    (site.folder / "alone.key").write_bytes((site.folder / "unit-2.key").read_bytes())
    site.post("field/simpleenroll", request, *shown("alone"), status=403)
    site.certificate(site.post("field/simpleenroll", request, *shown("unit-2")), "field-2")
    lists.write_bytes(plant.crl(alone))
    time.sleep(1.1)  # until the lists are read again
    refused = site.post("field/simpleenroll", site.request("field-3"), *shown("unit-2"), status=403)
    assert b"shows nobody who counts here" in refused


def test_evidence_that_est_cannot_carry_is_not_asked_for_in_vain(world: World) -> None:
    for kind in ("operator", "self_signed", "shared_secret"):
        name = f"only-{kind}".replace("_", "-")
        put(world, name, f'all = ["{kind}"]\napproval = true')
        head = world.site.post(f"{name}/simpleenroll", world.site.request(name), *ME, "-D", "-", status=403)
        assert b"WWW-Authenticate" not in head
