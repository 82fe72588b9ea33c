"""Keys for tests: a registry in memory, a SoftHSM token of its own, a software store."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from twisted.internet.threads import deferToThread

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.faults import FaultKind, KeyUnavailable
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.records import KeyRecord
from pkiserver.keys.settings import ProviderSettings, SoftwareStoreSettings, TokenSettings
from pkiserver.keys.softhsm import create_token


@attrs.define
class MemoryRegistry:
    """A KeyRegistry that forgets; ``events`` are what would have been audited."""

    records: dict[str, KeyRecord] = attrs.Factory(dict)
    events: list[tuple[str, str, str]] = attrs.Factory(list)

    async def list(self) -> Sequence[KeyRecord]:
        return list(self.records.values())

    async def add(self, record: KeyRecord, *, actor: str, operation: str) -> None:
        if record.name in self.records:
            raise Rejected.because(Refusal.CONFLICT, f"there is a key {record.name!r} already")
        self.records[record.name] = record
        self.events.append((operation, record.name, "ok"))

    async def delete(self, name: str, *, actor: str) -> None:
        del self.records[name]
        self.events.append(("delete", name, "ok"))

    async def note(self, name: str, *, actor: str, operation: str, outcome: str, detail: str) -> None:
        self.events.append((operation, name, outcome))


def softhsm_token(directory: Path, label: str = "test") -> TokenSettings:
    """A fresh SoftHSM token; opens as store ``softhsm``. One process can use one SoftHSM configuration at a time."""
    return create_token(directory / "softhsm", label, directory / "pin")


def software_store(directory: Path) -> SoftwareStoreSettings:
    """A software store named ``software``."""
    passphrase = directory / "passphrase"
    passphrase.write_text("correct horse\n")
    passphrase.chmod(0o600)
    return SoftwareStoreSettings(name="software", directory=directory / "keys", passphrase_source=f"file:{passphrase}")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProviderSettings, ...]:
    """A SoftHSM token ``softhsm`` and a software store ``software``, for one test file."""
    directory: Path = tmp_path_factory.mktemp("stores")
    return softhsm_token(directory), software_store(directory)


async def lose_and_miss(keys: KeyRing, token: ProviderSettings, name: str) -> None:
    """Delete a private key behind the server's back, and go on when the server has noticed."""
    await deferToThread(lose, token, name)
    while FaultKind.KEY_MISSING not in {one.kind for one in keys.problems() if one.name == name}:
        # looked for in the token once a second; what is lost, in a token opened anew
        with contextlib.suppress(KeyUnavailable):
            await keys.test(name)
        await deferToThread(time.sleep, 0.05)


def lose(token: ProviderSettings, name: str) -> None:
    """Delete a private key behind the server's back."""
    assert isinstance(token, TokenSettings)
    pkcs11_tool(token, "--delete-object", "--type", "privkey", "--label", name)


def pkcs11_tool(token: TokenSettings, *arguments: object, pin: str | None = None) -> str:
    """What OpenSC's tool prints, logged in to a SoftHSM token (by default with its own PIN), as another process."""
    pin = pin or Path(token.pin_source.removeprefix("file:")).read_text().strip()
    login = ("--module", token.module, "--token-label", token.token_label, "--login", "--pin", pin)
    done = subprocess.run(
        ["pkcs11-tool", *map(str, (*login, *arguments))],
        env={**os.environ, "SOFTHSM2_CONF": str(token.softhsm_config)},
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr + " (apt-get install opensc)"
    return done.stdout
