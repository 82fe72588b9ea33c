"""Accounts of this server as certificates show them: free attributes, a static name, the machine's own name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from pkiserver.authority.requests import IssuedCertificate, PasswordEvidence
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.secret import Secret
from pkiserver.runtime.engine import Engine
from pkiserver.store.authority import templates
from tests.support.engines import engine_with, enrollment, template_text
from tests.support.webhook import SECRET, Webhook

ALICE = PasswordEvidence("alice", Secret("a long password"))
RULE = '[[evidence]]\nall = ["password"]\n[subject]\nothers = "ignore"\n'
OF_REQUEST = 'attribute = "common_name"\nfrom = "request"\nrequired = true'


def named(name: str, *parts: str) -> str:
    """A template whose subject is made of these parts."""
    return template_text(name, RULE).replace(OF_REQUEST, "\n[[subject.parts]]\n".join(parts))


def part(attribute: str, origin: str, value: str) -> str:
    return f'attribute = "{attribute}"\nfrom = "{origin}"\nvalue = "{value}"'


TEXTS = {
    "person": named(
        "person",
        part("common_name", "record", "{record.full-name} ({record.name})") + "\nrequired = true",
        part("organizational_unit", "record", "{record.department}"),
    ).replace('kind = "dns"\nfrom = "request"', 'kind = "mail"\nfrom = "record"'),
    "static": named("static", part("common_name", "fixed", "Kiosk")),
    "machine": template_text("machine", RULE),
}


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEXTS) as engine:
        assert engine.templates.problems() == ()
        attributes = (
            ("full-name", "Alice Example"),
            ("department", "R+D"),
            ("mail", "a@b.example"),
        )
        await engine.accounts.create("alice", ALICE.password, attributes=attributes, by="tester")
        yield engine


async def made(engine: Engine, template: str, **more: tuple[str, ...]) -> x509.Certificate:
    issued = await engine.enroll(enrollment(template, ALICE, name="pc-7.example.org", **more))
    assert isinstance(issued, IssuedCertificate)
    return x509.load_der_x509_certificate(issued.der)


async def test_attributes_that_somebody_chose_are_in_subject_and_names(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        shown = await made(engine, "person")
        names = [(one.rfc4514_attribute_name, one.value) for one in shown.subject]
        assert names[0] == ("CN", "Alice Example (alice)")
        assert ("OU", "R+D") in names
        mails = extension_value(shown, x509.SubjectAlternativeName)
        assert mails is not None
        assert mails.get_values_for_type(x509.RFC822Name) == ["a@b.example"]


async def test_a_static_name_is_everybodys_and_a_machines_name_is_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        assert (await made(engine, "static")).subject.rfc4514_string() == "CN=Kiosk"
        machine = await made(engine, "machine", hosts=("pc-7.example.org",))
        assert machine.subject.rfc4514_string() == "CN=pc-7.example.org"


async def test_a_plain_name_that_attributes_give_takes_the_place_of_the_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    service = Webhook(lambda question: {"decision": "yes", "attributes": {"number": f"no-of-{question['name']}"}})
    table = f'[webhook]\nurl = "http://127.0.0.1:{service.port}/"\nsecret = "env:HOOK_SECRET"\n'
    mapped = '[[webhook.attributes]]\nname = "userid"\nfrom = "number"\n'
    text = f'name = "portal"\nkind = "connector"\n{table}{mapped}'
    rule = '[[evidence]]\nall = ["password"]\nconnectors = ["internal", "portal"]\n[subject]\nothers = "ignore"\n'
    plain = template_text("plain", rule).replace(
        OF_REQUEST, part("common_name", "record", "{record.userid}") + "\nrequired = true"
    )
    try:
        async with engine_with(tmp_path, {"plain": plain}) as engine:
            await engine.accounts.create("alice", ALICE.password, attributes=(("userid", "no-7"),), by="tester")
            await engine.database.write(
                lambda c: templates.put(c, "portal", text, now=engine.clock.now(), expected=None, kind="connector")
            )
            await engine.refresh()
            for who, expected in ((ALICE, "CN=no-7"), (PasswordEvidence("walt", ALICE.password), "CN=no-of-walt")):
                issued = await engine.enroll(enrollment("plain", who, name="x"))
                assert isinstance(issued, IssuedCertificate)
                assert x509.load_der_x509_certificate(issued.der).subject.rfc4514_string() == expected
    finally:
        service.close()
