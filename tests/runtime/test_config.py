"""The node's file: what is refused, and that the shipped example is complete."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from pkiserver.foundation import tomltypes
from pkiserver.foundation.tomlfile import ConfigurationError, dump, load
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.configfile import load_settings
from pkiserver.runtime.endpoints import Endpoint, EndpointKind
from pkiserver.runtime.httplimits import HttpLimits
from pkiserver.runtime.protocolsettings import EstNodeSettings, OcspNodeSettings
from pkiserver.runtime.services.handover import est_settings, ocsp_settings, web_limits
from protocols.est.ports import EstSettings
from protocols.ocsp.edge import OcspSettings
from protocols.web.limits import WebLimits

EXAMPLE = Path(__file__).parents[2] / "conf" / "pkiserver.toml"
GOOD = """
state_dir = "state"
[database]
url = "sqlite:///db/pki.db"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "node.toml"
    file.write_text(text)
    return file


def problems(folder: Path, text: str) -> list[str]:
    file = write(folder, text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file)
    return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    settings = load_settings(write(tmp_path, GOOD))
    assert settings.state_dir == tmp_path / "state"
    assert settings.database.url == f"sqlite:///{tmp_path}/db/pki.db"
    assert settings.drain == timedelta(seconds=30)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("[http]\nlisten = ['localhost:80']", "6: http.listen[0]: 'localhost:80' is no place to listen (allowed:"),
        ("[http]\nlisten = ['1.2.3.4:99999']", "6: http.listen[0]: '1.2.3.4:99999': ports end at 65535"),
        ("[http]\nlisten = ['1.2.3.400:1']", "6: http.listen[0]: '1.2.3.400' does not appear to be an IPv4"),
        ("[https]\nlisten = ['127.0.0.1:1']", "5: https: https.listen needs https.tls.certificate and https.tls.key"),
        ("[management]\nlisten = ['0.0.0.0:1']", "5: management: 0.0.0.0:1 can be reached from outside"),
        (
            "[http]\nlisten = ['127.0.0.1:1']\n[management]\nlisten = ['127.0.0.1:1']",
            "8: management.listen: 127.0.0.1:1 is listened on twice",
        ),
        ("[public]\nhttp = 'https://x'", '6: public.http: "https://x" is no base URL (allowed: http://HOST'),
        ("[public]\nhttp = 'http://x/'", '6: public.http: "http://x/" is no base URL'),
        ("[log]\ntarget = 'file:relative'", "6: log.target: 'file:relative' is no log target (allowed:"),
        ("[log]\nformat = 'xml'", '6: log.format: "xml" is not allowed (allowed: "text", "json")'),
        (
            "[[key_store]]\nname = 'a'\ndirectory = 'd'\npassphrase_source = 'hunter2'",
            "8: key_store[0].passphrase_source:",
        ),
        ("[limits]\nidle = '0s'", "6: limits.idle: idle is too short (allowed: 1us to 100y)"),
        ("[passwords]\nmemory_kib = 1", "6: passwords.memory_kib: 1 is out of range (allowed: 8192 to 16777216)"),
    ],
)
def test_each_mistake_in_the_file_is_told(tmp_path: Path, more: str, expected: str) -> None:
    found = problems(tmp_path, GOOD.strip() + "\n\n" + more)
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:secret@h/d", "must not contain a password: name it with password_source"),
        ("mysql://h/d", "is no database URL that is supported"),
        ("sqlite://", "needs the path of a file"),
    ],
)
def test_a_database_url_that_will_not_do_is_refused_without_its_password(tmp_path: Path, url: str, said: str) -> None:
    (found,) = problems(tmp_path, GOOD.replace("sqlite:///db/pki.db", url))
    assert found.startswith(f"4: database.url: {said}")
    assert "secret" not in found


def test_the_database_password_is_put_in_from_its_source(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("p@ss/w:rd\n")
    text = GOOD.replace("sqlite:///db/pki.db", "postgresql://me@h:5/d") + f'password_source = "file:{secret}"\n'
    settings = load_settings(write(tmp_path, text))
    assert settings.database.full_url() == "postgresql://me:p%40ss%2Fw%3Ard@h:5/d"
    assert "p@ss" not in repr(settings)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text("1234")
    pin.chmod(0o644)
    store = f'[[key_store]]\nname = "t"\nmodule = "m.so"\ntoken_label = "x"\npin_source = "file:{pin}"\n'
    (found,) = problems(tmp_path, GOOD.strip() + "\n" + store)
    assert found.startswith(f"8: key_store[0].pin_source: {pin} has mode 0644: others can read or change a secret")
    pin.chmod(0o600)
    assert load_settings(tmp_path / "node.toml").key_store[0].name == "t"


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:443", "unix:/run/x", "systemd:pki-http"])
def test_endpoints_read_back_the_same(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize("text", ["[127.0.0.1]:80", "::1:80", "80", "unix:x", "systemd:", "systemd:a b", "127.0.0.1:"])
def test_bad_endpoints(text: str) -> None:
    with pytest.raises(ValueError, match=r"place to listen|IPv4|IPv6|square"):
        Endpoint.parse(text)


def test_other_machines_reach_what_is_not_on_loopback() -> None:
    private = ("127.0.0.1:1", "[::1]:1", "unix:/x", "systemd:m")
    assert not any(Endpoint.parse(text).is_public for text in private)
    assert all(Endpoint.parse(text).is_public for text in ("0.0.0.0:1", "[::]:1"))


def test_the_example_is_right_and_shows_every_key(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    settings = load(NodeSettings, text, str(EXAMPLE))
    assert settings.http.listen[0] == Endpoint(EndpointKind.TCP, "0.0.0.0", 80)
    shown = set(re.findall(r"^(?:# )?([a-z0-9_]+) = ", text, re.MULTILINE))
    tables = set(re.findall(r"^(?:# )?\[+([a-z_.]+)\]", text, re.MULTILINE))

    def check(kind: type, path: str) -> None:
        for field in tomltypes.fields(kind):
            name = f"{path}{field.key}"
            members = tomltypes.union_members(field.type)
            array = tomltypes.array_of(members[0])
            inner = tomltypes.union_members(array[1]) if array else members
            classes = [c for member in inner if (c := tomltypes.attrs_class(member))]
            assert (name in tables) if classes else (field.key in shown), name
            for inner_class in classes:
                check(inner_class, f"{name}.")

    check(NodeSettings, "")


def test_what_the_example_shows_as_default_is_the_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    for key in ("limits", "est", "ocsp", "passwords", "audit", "log"):
        section = re.search(rf"^\[{key}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section is not None
        # what is shown in braces is an example, because the default is empty
        uncommented = re.sub(r"^# (?=[a-z0-9_]+ = [^{])", "", section[1], flags=re.MULTILINE)
        settings = load_settings(write(tmp_path, f"{GOOD}\n[{key}]\n{uncommented}"))
        assert getattr(settings, key) == getattr(load_settings(write(tmp_path, GOOD)), key)


def test_generated_settings_read_back_the_same(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + '[http]\nlisten = ["127.0.0.1:0"]\n'))
    assert load_settings(write(tmp_path, dump(settings))) == settings


def test_our_http_limits_are_those_of_the_edge() -> None:
    edge = WebLimits()
    for field in attrs.fields(HttpLimits):
        ours = getattr(HttpLimits(), field.name)
        if isinstance(ours, timedelta):
            assert getattr(edge, f"{field.name}_seconds") == ours.total_seconds()
        else:
            assert getattr(edge, field.name) == ours
    assert web_limits(HttpLimits()) == edge


def test_our_protocol_settings_are_those_of_the_protocols() -> None:
    assert est_settings(EstNodeSettings()) == EstSettings()
    assert ocsp_settings(OcspNodeSettings()) == OcspSettings()
    for ours, theirs in ((EstNodeSettings, EstSettings), (OcspNodeSettings, OcspSettings)):
        assert {a.name for a in attrs.fields(ours)} <= {a.name for a in attrs.fields(theirs)}
