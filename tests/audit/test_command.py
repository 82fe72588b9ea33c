"""``pkiserver audit`` and ``pkiserver database``, as an operator runs them."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.audit.log import CheckpointSignature
from pkiserver.foundation.clock import SystemClock
from pkiserver.store.authority import keys
from tests.support import commands
from tests.support.stored import NOW, opened

PUBLIC = (serialization.PublicFormat.SubjectPublicKeyInfo,)


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    return commands.run(folder / "node.toml", *arguments, code=code)


def configure(folder: Path) -> str:
    url = f"sqlite:///{folder}/store.db"
    settings = folder / "node.toml"
    settings.write_text(f'state_dir = "{folder}"\n[database]\nurl = "{url}"\n')
    settings.chmod(0o600)
    return url


async def fill(url: str, key: ec.EllipticCurvePrivateKey) -> None:
    async with opened(url) as database:
        log = AuditLog(database, node="n", worker="0", clock=SystemClock())
        spki = key.public_key().public_bytes(serialization.Encoding.DER, *PUBLIC)
        record = keys.SigningKey("check", "pkcs11:object=check", spki, frozenset({"checkpoint"}), NOW)
        await database.write(lambda c: keys.insert_key(c, record))
        for n in range(3):
            await log.record(AuditEvent(AuditKind.ISSUE, "alice", f"certificate {n}"))

        async def sign(octets: bytes) -> CheckpointSignature:
            return CheckpointSignature("check", "ecdsa-sha256", key.sign(octets, ec.ECDSA(hashes.SHA256())))

        await log.checkpoint(sign)


async def alter(url: str, statement: str) -> None:
    async with opened(url) as database:
        await database.write(lambda c: c.exec_driver_sql(statement))


async def test_verify_tail_and_export(tmp_path: Path) -> None:
    from twisted.internet.threads import deferToThread

    url = configure(tmp_path)
    assert "schema was empty" in await deferToThread(run, tmp_path, "database", "migrate")
    shown = json.loads(await deferToThread(run, tmp_path, "database", "show", "--json"))
    assert shown["schema"] == shown["needed"]
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    await fill(url, key)

    found = json.loads(await deferToThread(run, tmp_path, "audit", "verify", "--json"))
    assert (found["intact"], found["events"], found["checkpoints"]) == (True, 4, 1)
    tail = (await deferToThread(run, tmp_path, "audit", "tail", "-n", "2")).splitlines()
    assert ["certificate 2" in tail[0], "checkpoint 1" in tail[1], len(tail)] == [True, True, 2]
    exported = [json.loads(line) for line in (await deferToThread(run, tmp_path, "audit", "export")).splitlines()]
    assert [line["kind"] for line in exported if line["type"] == "event"][-1] == "export"

    for one, code in ((key, 0), (other, 1)):
        pem = tmp_path / "key.pem"
        pem.write_bytes(one.public_key().public_bytes(serialization.Encoding.PEM, *PUBLIC))
        said = await deferToThread(run, tmp_path, "audit", "verify", "--key", str(pem), code=code)
        assert ("does not bear the signature of key 'check'" in said) is bool(code)
    pem.write_text("nothing")
    said = await deferToThread(run, tmp_path, "audit", "verify", "--key", str(pem), code=1)
    assert "the public key cannot be read" in said
    assert "signature" not in said

    await alter(url, "UPDATE audit_event SET actor = 'mallory' WHERE seq = 2")
    await alter(url, "DELETE FROM signing_key")
    said = await deferToThread(run, tmp_path, "audit", "verify", code=1)
    assert "error: chain 1: event 2 was altered" in said
    assert "does not bear the signature of key 'check'" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_who_follows_the_log_can_leave(tmp_path: Path, number: signal.Signals) -> None:
    """Threads of an open database keep a process for ever unless it is closed."""
    from twisted.internet.threads import deferToThread

    url = configure(tmp_path)
    await deferToThread(run, tmp_path, "database", "migrate")
    await fill(url, ec.generate_private_key(ec.SECP256R1()))

    def follow() -> tuple[int, str]:
        command = [*commands.PKISERVER, "--config", str(tmp_path / "node.toml"), "audit", "tail", "-f"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)
            try:
                _, said = process.communicate(timeout=60)
            finally:
                process.kill()
        return process.returncode, said

    assert await deferToThread(follow) == (130, "interrupted\n")
