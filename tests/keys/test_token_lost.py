"""A token that vanishes while the server runs, and returns: p11-kit's server is the network HSM that can be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.task import LoopingCall, deferLater

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Unavailable
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.faults import FaultKind, KeyUnavailable
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.settings import TokenSettings
from tests.support.keys import MemoryRegistry, softhsm_token, software_store

CLIENT = Path("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so")


class RemoteToken:
    """A SoftHSM token served by a p11-kit server of its own, on a Unix socket."""

    def __init__(self, directory: Path) -> None:
        self._local = softhsm_token(directory)
        self._socket = directory / "p11"
        self._process: subprocess.Popen[bytes] | None = None
        self.settings = TokenSettings(
            name="remote",
            module=CLIENT,
            token_label=self._local.token_label,
            pin_source=self._local.pin_source,
            environment=(f"P11_KIT_SERVER_ADDRESS=unix:path={self._socket}", f"XDG_RUNTIME_DIR={directory}"),
            operation_timeout=2.0,
            retry_longest=0.5,
        )

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        command = ["p11-kit", "server", "-f", "-n", str(self._socket), "--provider", str(self._local.module)]
        environment = {**os.environ, "SOFTHSM2_CONF": str(self._local.softhsm_config)}
        self._process = subprocess.Popen(
            [*command, f"pkcs11:token={self._local.token_label}"], env=environment, stdout=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        for _ in range(200):
            with socket.socket(socket.AF_UNIX) as probe:
                if self._socket.exists() and probe.connect_ex(str(self._socket)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("p11-kit server did not start: apt-get install p11-kit p11-kit-modules softhsm2")

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[RemoteToken]:
    token = RemoteToken(tmp_path)
    token.start()
    yield token
    token.stop()


def request() -> x509.CertificateSigningRequestBuilder:
    return x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "back again")]))


async def wait_until_ready(ring: KeyRing, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while ring.problems() and time.monotonic() < until:
        await deferLater(reactor, 0.05)
    assert ring.problems() == ()


async def test_a_token_that_vanishes_and_returns_is_used_again_without_a_restart(
    remote: RemoteToken, tmp_path: Path
) -> None:
    ring = await KeyRing.open_with([remote.settings, software_store(tmp_path)], MemoryRegistry(), SystemClock())
    try:
        assert ring.problems() == ()
        info = await ring.generate("ca", KeyType.parse("ec-p256"), store="remote", doors=[Door.CERTIFICATE])
        await ring.generate("spare", KeyType.parse("ec-p256"), store="software", doors=[Door.CERTIFICATE])
        assert info.ready
        assert not info.in_place, "another process may stop answering: the reactor must not wait for it"
        signer, spare = ring.request_signer("ca"), ring.request_signer("spare")
        assert (await signer.build(lambda key: request().sign(key, hashes.SHA256()))).is_signature_valid

        for _ in range(2):
            remote.stop()
            with pytest.raises(Unavailable):
                await signer.build(lambda key: request().sign(key, hashes.SHA256()))
            problems = {problem.name: problem.kind for problem in ring.problems()}
            assert set(problems) == {"remote", "ca"}
            assert problems["ca"] in {FaultKind.TOKEN_LOST, FaultKind.TOKEN_ABSENT}
            assert (await spare.build(lambda key: request().sign(key, hashes.SHA256()))).is_signature_valid
            await deferLater(reactor, 0.8)
            assert ring.problems(), "nothing to sign with can be found while the token is away"
            remote.start()
            await wait_until_ready(ring)
            assert (await signer.build(lambda key: request().sign(key, hashes.SHA256()))).is_signature_valid
    finally:
        await ring.close()


async def test_a_token_that_is_absent_at_the_start_is_taken_up_when_it_appears(
    remote: RemoteToken, tmp_path: Path
) -> None:
    registry = MemoryRegistry()
    ring = await KeyRing.open_with([remote.settings], registry, SystemClock())
    await ring.generate("ca", KeyType.parse("ec-p256"), store="remote", doors=[Door.CERTIFICATE])
    await ring.close()
    remote.stop()
    ring = await KeyRing.open_with([remote.settings, software_store(tmp_path)], registry, SystemClock())
    try:
        assert {problem.name for problem in ring.problems()} == {"remote", "ca"}
        with pytest.raises(Unavailable):
            await ring.request_signer("ca").build(lambda key: request().sign(key, hashes.SHA256()))
        remote.start()
        await wait_until_ready(ring)
        signed = await ring.request_signer("ca").build(lambda key: request().sign(key, hashes.SHA256()))
        assert signed.is_signature_valid
    finally:
        await ring.close()


async def test_a_token_that_never_answers_blocks_nobody_else(remote: RemoteToken, tmp_path: Path) -> None:
    settings = attrs.evolve(remote.settings, operation_timeout=0.5)
    ring = await KeyRing.open_with([settings, software_store(tmp_path)], MemoryRegistry(), SystemClock())
    beats: list[None] = []
    heart = LoopingCall(lambda: beats.append(None))
    try:
        await ring.generate("ca", KeyType.parse("ec-p256"), store="remote", doors=[Door.CERTIFICATE])
        await ring.generate("spare", KeyType.parse("rsa-2048"), store="software", doors=[Door.CERTIFICATE])
        signer, spare = ring.request_signer("ca"), ring.request_signer("spare")
        remote.signal(signal.SIGSTOP)
        heart.start(0.01)
        with pytest.raises(KeyUnavailable) as caught:
            await signer.build(lambda key: request().sign(key, hashes.SHA256()))
        assert len(beats) > 5, "the reactor stood still for the half second"
        assert caught.value.problem.kind is FaultKind.TOKEN_BUSY
        assert (await spare.build(lambda key: request().sign(key, hashes.SHA256()))).is_signature_valid
        with pytest.raises(KeyUnavailable):
            await signer.build(lambda key: request().sign(key, hashes.SHA256()))
        remote.signal(signal.SIGCONT)
        await wait_until_ready(ring)
        await deferLater(reactor, 0.2)
        assert (await signer.build(lambda key: request().sign(key, hashes.SHA256()))).is_signature_valid
    finally:
        if heart.running:
            heart.stop()
        remote.signal(signal.SIGCONT)
        await ring.close()
