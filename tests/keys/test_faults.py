"""Each fault has its own clear error; the rest keeps working and the faulty ones are named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pkcs11 import Attribute, TokenFlag
from pkcs11 import exceptions as p11
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import KeyType, spki
from pkiserver.keys.doors import Door
from pkiserver.keys.faults import FaultKind, KeyUnavailable
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.pkcs11 import publichalf
from pkiserver.keys.pkcs11.library import lock_path, start_lock
from pkiserver.keys.pkcs11.login import TokenLogin
from pkiserver.keys.pkcs11.token import Token
from pkiserver.keys.settings import SoftwareStoreSettings, TokenSettings
from pkiserver.keys.software import generate_private_key
from tests.support.keys import MemoryRegistry, pkcs11_tool, softhsm_token, software_store

P256 = KeyType.parse("ec-p256")


def replace(path: Path, text: str | None) -> str:
    """Put ``text`` into the file (None: delete it); returns what was there."""
    before = path.read_text() if path.exists() else ""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    return before


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def change_pin(token: TokenSettings, pin: str, new: str) -> None:
    pkcs11_tool(token, "--change-pin", "--new-pin", new, pin=pin)


async def a_ring_with_keys(token: TokenSettings, store: SoftwareStoreSettings) -> MemoryRegistry:
    registry = MemoryRegistry()
    ring = await KeyRing.open_with([token, store], registry, SystemClock())
    await ring.generate("in-token", P256, store=token.name, doors=[Door.CERTIFICATE])
    await ring.generate("in-file", P256, store=store.name, doors=[Door.CERTIFICATE])
    await ring.close()
    return registry


async def problems_of(settings: list[Any], registry: MemoryRegistry) -> dict[str, tuple[FaultKind, str]]:
    """Open, look, try each key's signer, close."""
    ring = await KeyRing.open_with(settings, registry, SystemClock())
    try:
        found = {problem.name: (problem.kind, problem.text) for problem in ring.problems()}
        for info in ring.list():
            build = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign
            if info.name in found:
                with pytest.raises(KeyUnavailable):
                    await ring.request_signer(info.name).build(lambda key, b=build: b(key, hashes.SHA256()))
            else:
                assert info.ready
                await ring.request_signer(info.name).build(lambda key, b=build: b(key, hashes.SHA256()))
        return found
    finally:
        await ring.close()


@pytest.fixture
def token(tmp_path: Path) -> TokenSettings:
    return softhsm_token(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> SoftwareStoreSettings:
    return software_store(tmp_path)


async def test_a_module_that_does_not_load(token: TokenSettings, store: SoftwareStoreSettings, tmp_path: Path) -> None:
    registry = await a_ring_with_keys(token, store)
    broken = tmp_path / "broken.so"
    broken.write_text("this is no library")
    for module in (tmp_path / "absent.so", broken):
        found = await problems_of([attrs.evolve(token, module=module), store], registry)
        assert set(found) == {"softhsm", "in-token"}
        assert found["softhsm"][0] is FaultKind.MODULE_NOT_LOADED
        assert module.name in found["softhsm"][1]


async def test_a_token_whose_files_cannot_be_read(token: TokenSettings, store: SoftwareStoreSettings) -> None:
    """As after a restore in another folder, or under another account: SoftHSM itself names no file."""
    registry = await a_ring_with_keys(token, store)
    config = token.softhsm_config
    assert config is not None
    tokens, aside = config.parent / "tokens", config.parent / "aside"
    tokens.rename(aside)
    kind, text = (await problems_of([token, store], registry))["softhsm"]
    assert kind is FaultKind.MODULE_NOT_LOADED
    assert text.endswith(f" ({tokens}: No such file or directory)")
    tokens.mkdir()
    lost = tokens / "0" / "token.object"
    lost.parent.mkdir()
    lost.symlink_to("nowhere")  # for root nothing is unreadable but what is not there
    kind, text = (await problems_of([token, store], registry))["softhsm"]
    assert kind is FaultKind.TOKEN_ABSENT
    assert text.endswith(f" ({lost}: No such file or directory)")


async def test_no_room_for_a_new_key_is_told(
    token: TokenSettings, store: SoftwareStoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a real full disk, which would need a file system of its own; that SoftHSM fails so on one was tried."""
    registry = await a_ring_with_keys(token, store)
    config = token.softhsm_config
    assert config is not None
    ring = await KeyRing.open_with([token, store], registry, SystemClock())
    try:

        def refused(*_arguments: Any) -> None:
            raise p11.FunctionFailed

        usage = shutil.disk_usage(config.parent)
        monkeypatch.setattr(publichalf, "generate", refused)
        monkeypatch.setattr(shutil, "disk_usage", lambda _place: usage._replace(free=4096))
        with pytest.raises(KeyUnavailable, match=f"FunctionFailed; no room is left under {config.parent}/tokens"):
            await ring.generate("another", P256, store=token.name, doors=[Door.CERTIFICATE])
    finally:
        await ring.close()


async def test_an_absent_token(token: TokenSettings, store: SoftwareStoreSettings) -> None:
    registry = await a_ring_with_keys(token, store)
    found = await problems_of([attrs.evolve(token, token_serial="0000"), store], registry)
    assert found["softhsm"][0] is FaultKind.TOKEN_ABSENT
    assert "serial '0000'" in found["softhsm"][1]
    assert set(found) == {"softhsm", "in-token"}


async def test_a_wrong_pin_is_tried_once_and_a_corrected_one_is_taken_without_a_restart(
    token: TokenSettings, store: SoftwareStoreSettings, tmp_path: Path
) -> None:
    registry = await a_ring_with_keys(token, store)
    pin = Path(token.pin_source.removeprefix("file:"))
    right = replace(pin, "not-the-pin\n")
    settings = attrs.evolve(token, retry_longest=0.1)
    ring = await KeyRing.open_with([settings, store], registry, SystemClock())
    try:
        found = {problem.name: problem for problem in ring.problems()}
        assert found["softhsm"].kind is FaultKind.PIN_WRONG
        assert set(found) == {"softhsm", "in-token"}
        assert "not-the-pin" not in str(ring.problems())
        assert str(pin) in found["softhsm"].text
        login = ring._providers._by_name["softhsm"].login  # type: ignore[union-attr]
        tries: list[str] = []

        class Counting:
            """Stands before the token and counts the logins that reach it."""

            def __init__(self, real: Any) -> None:
                self.real = real

            def open(self, **named: Any) -> Any:
                tries.append("login" if "user_pin" in named else "session")
                return self.real.open(**named)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.real, name)

        find = login._find
        login._find = lambda library: Counting(find(library))  # type: ignore[method-assign]
        await deferLater(reactor, 1.0)
        assert tries == [], "the refused PIN must not reach the token a second time"
        replace(pin, right)
        for _ in range(100):
            if not ring.problems():
                break
            await deferLater(reactor, 0.05)
        assert ring.problems() == ()
        assert tries.count("login") == 1
        assert (await ring.test("in-token")).seconds
    finally:
        await ring.close()


async def test_a_refused_pin_is_not_tried_by_the_next_process_either(
    token: TokenSettings, store: SoftwareStoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker, restart and command tried it once more: three workers locked a token of three tries."""
    registry = await a_ring_with_keys(token, store)
    settings = attrs.evolve(token, refused_pin=tmp_path / "refused")
    right = replace(Path(token.pin_source.removeprefix("file:")), "not-the-pin")
    assert (await problems_of([settings, store], registry))["softhsm"][0] is FaultKind.PIN_WRONG
    assert mode(tmp_path / "refused") == 0o600
    assert "not-the-pin" not in (tmp_path / "refused").read_text()

    class Untouched:
        def __init__(self, real: Any) -> None:
            self.slot, self.serial, self.flags = real.slot, real.serial, real.flags

        def open(self, **named: Any) -> Any:
            raise AssertionError("nobody may try the PIN")

    find = TokenLogin._find
    with monkeypatch.context() as patch:
        patch.setattr(TokenLogin, "_find", lambda self, library: Untouched(find(self, library)))
        kind, text = (await problems_of([settings, store], registry))["softhsm"]
        assert kind is FaultKind.PIN_WRONG
        assert f"{tmp_path / 'refused'} is deleted" in text
    change_pin(token, right.strip(), "not-the-pin")
    assert await problems_of([settings, store], registry) == {}
    assert (tmp_path / "refused").read_text() == ""


@pytest.mark.parametrize(
    ("flag", "kind"),
    [(TokenFlag.USER_PIN_LOCKED, FaultKind.PIN_LOCKED), (TokenFlag.USER_PIN_FINAL_TRY, FaultKind.PIN_LAST_TRY)],
)
async def test_a_locked_token_and_a_last_try_are_left_alone(
    token: TokenSettings,
    store: SoftwareStoreSettings,
    monkeypatch: pytest.MonkeyPatch,
    flag: TokenFlag,
    kind: FaultKind,
) -> None:
    # SoftHSM never locks a PIN: what it says of itself is changed, and any login would fail the test.
    registry = await a_ring_with_keys(token, store)

    class Locked:
        def __init__(self, real: Any) -> None:
            self.slot, self.label, self.serial = real.slot, real.label, real.serial
            self.model, self.manufacturer_id, self.flags = real.model, real.manufacturer_id, real.flags | flag

        def open(self, **named: Any) -> Any:
            raise AssertionError("nobody may try the PIN")

    find = TokenLogin._find
    monkeypatch.setattr(TokenLogin, "_find", lambda self, library: Locked(find(self, library)))
    found = await problems_of([token, store], registry)
    assert found["softhsm"][0] is kind
    assert set(found) == {"softhsm", "in-token"}


async def test_a_missing_key_that_returns_is_found_at_the_next_look(
    token: TokenSettings, store: SoftwareStoreSettings
) -> None:
    registry = await a_ring_with_keys(token, store)
    record = registry.records["in-token"]
    registry.records = {"moved": attrs.evolve(record, name="moved", uri="pkcs11:token=test;object=moved")}
    ring = await KeyRing.open_with([token, store], registry, SystemClock())
    try:
        assert [problem.kind for problem in ring.problems()] == [FaultKind.KEY_MISSING]
        signer = ring.request_signer("moved")
        provider = ring._providers.for_store("softhsm")
        assert isinstance(provider, Token)
        with provider.module.entered() as lane:
            session = provider.login.session(writable=True)
            for thing in session.get_objects({Attribute.LABEL: "in-token"}):
                thing[Attribute.LABEL] = "moved"
            session.close()
            lane.keys.clear()
        await ring.refresh()
        assert ring.problems() == ()
        assert signer.in_place
    finally:
        await ring.close()


async def test_one_name_is_given_once_even_at_the_same_moment(
    token: TokenSettings, store: SoftwareStoreSettings
) -> None:
    ring = await KeyRing.open_with([token, store], MemoryRegistry(), SystemClock())
    try:
        makers = [ring.generate("one", P256, store=place, doors=[Door.CRL]) for place in ("softhsm", "software")]
        ends = await DeferredList([Deferred.fromCoroutine(maker) for maker in makers], consumeErrors=True)
        assert sorted(success for success, _ in ends) == [False, True]
        assert [info.ready for info in ring.list()] == [True]
        assert (await ring.test("one")).seconds
    finally:
        await ring.close()


async def test_a_pin_that_cannot_be_read(token: TokenSettings, store: SoftwareStoreSettings) -> None:
    registry = await a_ring_with_keys(token, store)
    for source in ("file:/nonexistent/pin", "env:NO_SUCH_PIN_HERE", "credential:pin"):
        found = await problems_of([attrs.evolve(token, pin_source=source), store], registry)
        assert found["softhsm"][0] is FaultKind.PIN_UNREADABLE
        assert set(found) == {"softhsm", "in-token"}


def add_token(token: TokenSettings, label: str) -> None:
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", "1234"],
        env={**os.environ, "SOFTHSM2_CONF": str(token.softhsm_config)},
        check=True,
        capture_output=True,
    )


async def test_two_tokens_with_one_label(token: TokenSettings, store: SoftwareStoreSettings, tmp_path: Path) -> None:
    registry = await a_ring_with_keys(token, store)
    add_token(token, "test")
    found = await problems_of([token, store], registry)
    assert found["softhsm"][0] is FaultKind.TOKEN_AMBIGUOUS
    assert "token_serial" in found["softhsm"][1]


async def test_a_missing_key_and_a_key_that_is_another(token: TokenSettings, store: SoftwareStoreSettings) -> None:
    registry = await a_ring_with_keys(token, store)
    token_record, file_record = registry.records["in-token"], registry.records["in-file"]
    other = spki(generate_private_key(P256).public_key())
    registry.records = {
        "good": attrs.evolve(token_record, name="good"),
        "lost": attrs.evolve(token_record, name="lost", uri="pkcs11:token=test;object=nothing"),
        "swapped": attrs.evolve(token_record, name="swapped", spki=other),
        "good-file": attrs.evolve(file_record, name="good-file"),
        "lost-file": attrs.evolve(file_record, name="lost-file", uri=file_record.uri + "x"),
        "swapped-file": attrs.evolve(file_record, name="swapped-file", spki=other),
        "elsewhere": attrs.evolve(token_record, name="elsewhere", uri="pkcs11:token=another;object=x"),
        "nonsense": attrs.evolve(token_record, name="nonsense", uri="pkcs11:token=test"),
    }
    found = await problems_of([token, store], registry)
    assert {name: kind for name, (kind, _) in found.items()} == {
        "lost": FaultKind.KEY_MISSING,
        "swapped": FaultKind.KEY_MISMATCH,
        "lost-file": FaultKind.KEY_MISSING,
        "swapped-file": FaultKind.KEY_MISMATCH,
        "elsewhere": FaultKind.NO_PROVIDER,
        "nonsense": FaultKind.KEY_UNUSABLE,
    }
    assert "object=nothing" in found["lost"][1]


async def test_a_wrong_passphrase_and_a_damaged_file(token: TokenSettings, store: SoftwareStoreSettings) -> None:
    registry = await a_ring_with_keys(token, store)
    passphrase = Path(store.passphrase_source.removeprefix("file:"))
    right = replace(passphrase, "wrong\n")
    found = await problems_of([token, store], registry)
    assert {name: kind for name, (kind, _) in found.items()} == {"in-file": FaultKind.PASSPHRASE_WRONG}
    replace(passphrase, None)
    found = await problems_of([token, store], registry)
    assert found["software"][0] is FaultKind.PIN_UNREADABLE
    replace(passphrase, right)
    key_file = store.directory / "in-file.p8"
    assert mode(key_file) == 0o600
    assert "ENCRYPTED" in replace(key_file, "not a key")
    found = await problems_of([token, store], registry)
    assert found["in-file"][0] is FaultKind.PASSPHRASE_WRONG


async def test_two_stores_with_one_name_are_refused(store: SoftwareStoreSettings) -> None:
    with pytest.raises(Rejected) as caught:
        await KeyRing.open_with([store, store], MemoryRegistry(), SystemClock())
    assert caught.value.has(Refusal.CONFIGURATION)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pin_source": "1234"}, "file:"),
        ({"os_locking": False}, "os_locking"),
        ({"threads": 0}, "range(1, 257)"),
        ({"name": "A B"}, "a-z"),
        ({"token_label": None}, "token_label"),
        ({"environment": ("x",)}, "NAME=VALUE"),
        ({"operation_timeout": 0.0}, "more than 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(token: TokenSettings, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        attrs.evolve(token, **change)
    assert why in f"{caught.value} {getattr(caught.value, 'allowed', '')}"


def test_the_start_lock_keeps_others_out(token: TokenSettings) -> None:
    with start_lock(token), pytest.raises(KeyUnavailable) as caught, start_lock(token, patience=0.05):
        pass
    assert caught.value.problem.kind is FaultKind.START_LOCK
    with start_lock(token, patience=0.05):
        path = lock_path(token)
        assert path is not None
        assert path.stat().st_mode & 0o777 == 0o600


WORKER = """
import sys
from pathlib import Path
from twisted.internet import task
from twisted.internet.defer import ensureDeferred
from pkiserver.foundation.clock import SystemClock
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.settings import TokenSettings
from tests.support.keys import MemoryRegistry

async def main(_reactor):
    module, pin, config, name = sys.argv[1:]
    from pkiserver.keys.algorithms import KeyType
    from pkiserver.keys.doors import Door
    token = TokenSettings(
        name="t", module=Path(module), pin_source=pin, token_label="test", softhsm_config=Path(config)
    )
    ring = await KeyRing.open_with([token], MemoryRegistry(), SystemClock())
    assert ring.problems() == (), ring.problems()
    await ring.generate(name, KeyType.parse("ec-p256"), store="t", doors=[Door.CRL])
    assert ring.problems() == (), ring.problems()
    await ring.close()

task.react(lambda reactor: ensureDeferred(main(reactor)))
"""


def test_processes_that_start_at_the_same_moment_all_get_their_token(token: TokenSettings) -> None:
    arguments = [str(token.module), token.pin_source, str(token.softhsm_config)]
    started = time.monotonic()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments, f"worker-{number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
        )
        for number in range(6)
    ]
    outputs = [worker.communicate(timeout=60)[0].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 6, "\n".join(outputs)
    assert time.monotonic() - started < 60
