"""Several processes on one SoftHSM token: what one makes, the others can use."""

from __future__ import annotations

from pathlib import Path

import attrs

from pkiserver.foundation.clock import SystemClock
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.settings import TokenSettings
from tests.support.keys import MemoryRegistry, pkcs11_tool, softhsm_token


class OtherProcess:
    """OpenSC's tool at work on the same token."""

    def __init__(self, token: TokenSettings, folder: Path) -> None:
        self._folder = folder
        self._token = token

    def make_key(self, label: str) -> bytes:
        """Make a P-256 key; its SubjectPublicKeyInfo, DER."""
        pkcs11_tool(self._token, "--keypairgen", "--key-type", "EC:prime256v1", "--label", label, "--id", "01")
        whole = ("--type", "pubkey", "--label", label, "--output-file", self._folder / label)
        pkcs11_tool(self._token, "--read-object", *whole)
        return (self._folder / label).read_bytes()


def object_files(token: TokenSettings) -> set[Path]:
    """Where SoftHSM keeps the token's objects."""
    assert token.softhsm_config is not None
    return set(token.softhsm_config.parent.rglob("*.object"))


def make_half_written(path: Path, octets: bytes) -> None:
    """As a reader at the wrong moment finds a file: eight octets, SoftHSM's count of changes, and no attribute."""
    path.write_bytes(octets[:8])


async def test_a_key_seen_while_another_process_wrote_it_is_found_later(tmp_path: Path) -> None:
    settings, registry, clock = softhsm_token(tmp_path), MemoryRegistry(), SystemClock()
    ring = await KeyRing.open_with([settings], registry, clock)
    try:
        own = await ring.generate("own", KeyType.parse("ec-p256"), store="softhsm", doors=(Door.CERTIFICATE,))
        before = object_files(settings)
        spki = OtherProcess(settings, tmp_path).make_key("theirs")
        uri = "pkcs11:token=test;object=theirs;type=private"
        theirs = attrs.evolve(own.record, name="theirs", uri=uri, spki=spki)
        # SoftHSM does not read a file again whose count is the same as when it last looked.
        written = {path: path.read_bytes() for path in object_files(settings) - before}
        for path, octets in written.items():
            make_half_written(path, octets)
        await ring.generate("another", KeyType.parse("ec-p256"), store="softhsm", doors=(Door.CRL,))
        for path, octets in written.items():
            path.write_bytes(octets)
        registry.records["theirs"] = theirs
        await ring.refresh()
        for name in ("theirs", "another", "own"):
            assert ring.is_ready(name), ring.problems()
            await ring.test(name)
    finally:
        await ring.close()
