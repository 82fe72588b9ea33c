"""Accounts of this server as certificates show them: free attributes, a static name, the machine's own name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography import x509

from pkiserver.authority.requests import IssuedCertificate, PasswordEvidence
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.secret import Secret
from pkiserver.runtime.engine import Engine
from tests.support.engines import engine_with, enrollment, template_text

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
