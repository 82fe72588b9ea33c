"""Settings of an authority that cannot work are refused when they are written, at their line, with what is allowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.authority.configuration import Configuration
from pkiserver.authority.documents import Key, read_documents
from pkiserver.authority.lifecycle.ceremonies import SCEP_DOORS, KeyChoice
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.validation.settings import load_foreign
from pkiserver.foundation.tomlfile import ConfigurationError, load
from pkiserver.keys.algorithms import KeyType
from tests.support.engines import ACTOR, engine_with, template_text

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name.from_rfc4514_string("CN=Theirs")
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("table", "line", "told"),
    [
        ("ocsp", 'key_type = "foo"', "allowed: rsa-2048 to rsa-8192"),
        ("ocsp", 'further_key_types = ["ec-p256", "rsa-1"]', "unknown key type 'rsa-1'"),
        ("ocsp", 'unknown_validity = "20d"', "an answer must not outlive its signer"),
        ("ocsp", 'certificate_validity = "1000000d"', "too long (allowed: 1s to 10y)"),
        ("ocsp", 'archive = "99999999d"', "too long (allowed: 0s to 1000y)"),
        ("crl", 'validity = "99999999d"', "too long (allowed: 1s to 10y)"),
        ("crl", 'keep = "99999999d"', "too long (allowed: 0s to 1000y)"),
        ("crl", 'gather = "100d"', "too long (allowed: 0s to 1d)"),
        ("crl", "points = []", "no list is issued"),
        ("publication", 'base_url = "localhost"', "allowed: for instance http://pki.example.com"),
        ("publication", 'base_url = "ftp://pki.example.com"', "is not where answers are found"),
        ("publication", 'base_url = "http://pki.example.com/ x"', "is not where answers are found"),
        ("publication", 'crl = ["{base}/crl/{paht}.crl"]', "{paht} (allowed: {base}, {path} and {name})"),
        ("publication", 'ocsp = ["{base}/o csp"]', "is not an http or ldap URL"),
        ("publication", 'delta = ["{base}/crl/{path}.crl"]', "a complete list and a delta cannot both be at"),
        ("crl", 'interval = "24h"', "validity must be longer than interval, or the list is out of date"),
        ("crl.delta", 'interval = "2h"', "before the next one (allowed: more than its interval, 2h)"),
        ("crl.delta", 'validity = "99999d"', "too long (allowed: 1s to 10y)"),
        ("crl", 'delta = { interval = "1h" }', "(allowed: an interval of less than crl.interval, 1h)"),
        (
            "crl",
            'points = [{ templates = ["a"] }]',
            'for a partition by template (allowed: with partition = "templates")',
        ),
        ("crl", "points = [{}, {}]", "(allowed: each with a name of its own)"),
        ("ocsp", 'renew_before = "30d"', "(allowed: 0s to less than certificate_validity, 30d)"),
        ("scep", 'renew_before = "365d"', "(allowed: 0s to less than 1y)"),
    ],
)
def test_what_cannot_work_is_refused(table: str, line: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(AuthoritySettings, f"[{table}]\n{line}\n", "issuing.toml")
    [problem] = map(str, caught.value.problems)
    assert told in problem
    assert problem.startswith(("issuing.toml:2: ", "issuing.toml:1: "))


def test_times_of_another_authority_are_bounded_too() -> None:
    ca = x509.CertificateBuilder(NAME, NAME, KEY.public_key(), 1, NOW, NOW + timedelta(days=9))
    ca = ca.add_extension(x509.BasicConstraints(True, None), critical=True)
    pem = ca.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    text = f'kind = "foreign-ca"\nname = "theirs"\nfeeds = ["http://pki.example/a.crl"]\ncertificate = """{pem}"""\n'
    for line in ('interval = "99999999d"', 'tolerance = "9999999d"', '[ocsp]\nvalidity = "99999999d"'):
        with pytest.raises(ConfigurationError, match="too long"):
            load_foreign(text + line, "theirs.toml")
    longest = load_foreign(text + '[ocsp]\nvalidity = "365d"\nunknown_validity = "365d"', "theirs.toml")
    assert longest.ocsp.policy().validity == longest.ocsp.policy().unknown_validity == timedelta(days=365)


def test_what_works_is_taken() -> None:
    text = """
[publication]
base_url = "http://[2001:db8::1]:8080/pki"
crl = ["{base}/crl/{path}.crl", "ldap://ldap.example.com/cn={name},dc=example?certificateRevocationList;binary"]
[crl]
gather = "0s"
[ocsp]
key_type = "ec-p256"
further_key_types = ["rsa-2048"]
"""
    settings = load(AuthoritySettings, text, "issuing.toml")
    assert settings.publication.urls(settings.publication.ocsp, "1") == ("http://[2001:db8::1]:8080/pki/ocsp",)


HEAD = 'kind = "authority"\nname = "issuing"\n'
BASE = '[settings.publication]\nbase_url = "http://pki.example.com"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[[settings.crl.points]]\n\n[[settings.crl.points]]\npartition = "shards"\n',
            (
                "a.toml:6: settings.crl.points[1].partition: lists in parts are known by their URLs, and these have"
                " none (allowed: with publication.base_url, or with URLs in publication.crl that need no {base})"
            ),
        ),
        (
            BASE + '[settings.crl]\nvalidity = "3h"\n[settings.crl.delta]\nvalidity = "4h"\n',
            (
                "a.toml:8: settings.crl.delta.validity: a delta would outlive the complete list that it changes"
                " (allowed: up to crl.validity, 3h)"
            ),
        ),
        (
            BASE + 'crl = [\n  "{base}/crl/{path}.crl",\n  "http://cdn.example/our.crl",\n]\n'
            '[[settings.crl.points]]\ncovers = "users"\n[[settings.crl.points]]\ncovers = "authorities"\n',
            (
                'a.toml:7: settings.publication.crl[1]: several lists would be at the one URL "http://cdn.example/our.crl"'
                " (allowed: URLs with {path} or {name} in them)"
            ),
        ),
        (
            '[settings.ocsp]\nvalidity = "10s"\nunknown_validity = "10s"\nrenew_before = "1m"\n',
            (
                "a.toml:6: settings.ocsp.renew_before: a responder would end before its successor signs everywhere:"
                " each process looks once a minute (allowed: 2m and more)"
            ),
        ),
        (
            BASE
            + 'delta = ["{base}/delta.crl"]\n[settings.crl.delta]\n[[settings.crl.points]]\npartition = "templates"\n',
            (
                'a.toml:5: settings.publication.delta[0]: several lists would be at the one URL "{base}/delta.crl"'
                " (allowed: URLs with {path} or {name} in them)"
            ),
        ),
    ],
)
def test_settings_that_contradict_each_other_are_not_applied(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_documents([("a.toml", HEAD + text)])
    assert [str(problem) for problem in caught.value.problems] == [told]


def test_one_list_may_have_one_url_and_unannounced_parts_of_their_own() -> None:
    one = BASE + 'crl = ["http://cdn.example/our.crl"]\n'
    apart = '[settings.publication]\ncrl = ["http://cdn.example/{path}.crl"]\n'
    apart += '[[settings.crl.points]]\npartition = "shards"\n'
    for text in (one, apart):
        assert read_documents([("a.toml", HEAD + text)])


async def test_a_distribution_point_names_templates_that_there_are(tmp_path: Path) -> None:
    text = (
        HEAD + BASE + '[[settings.crl.points]]\npartition = "templates"\ntemplates = [\n  "device",\n  "devise",\n]\n'
    )
    template = ("device.toml", template_text("device", '[[evidence]]\nall = ["password"]\n'))
    async with engine_with(tmp_path, {}) as engine:
        configuration = Configuration(engine.database, engine.audit, engine.clock)
        with pytest.raises(ConfigurationError) as caught:
            await configuration.plan(read_documents([("a.toml", text), template]))
        [problem] = map(str, caught.value.problems)
        assert problem == (
            'a.toml:9: settings.crl.points[0].templates[1]: there is no template "devise" (allowed: device)'
        )
        right = [("a.toml", text.replace('  "devise",\n', ""))]
        plan = await configuration.plan(read_documents([*right, template]))
        assert [change.what for change in plan.changes] == ["change", "add"]
        await configuration.apply(plan, by="ann")
        with pytest.raises(ConfigurationError, match="allowed: none: there is none"):
            await configuration.plan(
                read_documents([("a.toml", right[0][1] + "announced = false\n")]), remove=[Key.parse("template/device")]
            )
        removed = await configuration.plan(read_documents(right), remove=[Key.parse("template/device")])
        assert [change.what for change in removed.changes] == ["remove"], "its lists go on for its certificates"


async def test_an_authority_answers_scep_with_its_own_key_only_where_that_was_made_for_it(tmp_path: Path) -> None:
    text = HEAD + BASE + '[settings.scep]\nra = "authority"\n'
    async with engine_with(tmp_path, {}) as engine:
        configuration = Configuration(engine.database, engine.audit, engine.clock)
        with pytest.raises(ConfigurationError) as caught:
            await configuration.plan(read_documents([("a.toml", text)]))
        [problem] = map(str, caught.value.problems)
        assert problem == (
            "a.toml:6: settings.scep.ra: no key of this authority was made for it: an RSA key of pkiserver ca create "
            '--scep or ca rekey --scep (allowed: "one", "two")'
        )
        rsa = KeyChoice("mere-rsa", KeyType.parse("rsa-2048"), engine.keys.stores[0])
        await engine.road.succession.rekey("issuing", rsa, ACTOR)
        with pytest.raises(ConfigurationError, match="no key of this authority was made for it"):
            await configuration.plan(read_documents([("a.toml", text)]))
        await engine.road.succession.rekey("issuing", attrs.evolve(rsa, name="for-scep", doors=SCEP_DOORS), ACTOR)
        plan = await configuration.plan(read_documents([("a.toml", text)]))
        assert [change.what for change in plan.changes] == ["change"]
