"""Several threads in one module: only where the module locks for itself, and then without an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pkiserver.keys.settings import TokenSettings
from tests.support.keys import softhsm_token

PROXY = Path("/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so")
PROGRAM = """
import sys, time
from pathlib import Path
import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.internet import reactor, task
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread
from pkiserver.foundation.clock import SystemClock
from pkiserver.keys.algorithms import KeyType, SignatureScheme
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.settings import InPlace, TokenSettings
from tests.support.keys import MemoryRegistry

async def main(_reactor):
    module, pin, config, locking, threads = sys.argv[1:]
    token = TokenSettings(name="t", module=Path(module), pin_source=pin, token_label="test",
        softhsm_config=Path(config), os_locking=locking == "yes", threads=int(threads), in_place=InPlace.NEVER)
    ring = await KeyRing.open_with([token], MemoryRegistry(), SystemClock())
    assert ring.problems() == (), ring.problems()
    build = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign
    for kind in ("ec-p256", "rsa-2048"):
        await ring.generate(kind, KeyType.parse(kind), store="t", doors=[Door.CRL])
        signer = ring.request_signer(kind)
        one = lambda: ensureDeferred(signer.build(lambda key: build(key, hashes.SHA256())))
        done = await gatherResults([one() for _ in range(400)])
        assert all(request.is_signature_valid for request in done)
    # The library is initialised again while the threads are at work.
    for _ in range(3):
        work = [one() for _ in range(20)]
        module = ring._providers.for_store("t").module
        module.lost(RuntimeError("the test says so"))
        for waiting in work:
            waiting.addErrback(lambda failure: failure.trap(Exception))
        await gatherResults(work)
        while ring.problems():
            await task.deferLater(reactor, 0.05, lambda: None)
        assert (await one()).is_signature_valid
    await ring.close()

task.react(lambda reactor: ensureDeferred(main(reactor)))
"""


@pytest.fixture
def token(tmp_path: Path) -> TokenSettings:
    return softhsm_token(tmp_path)


def run(module: Path, token: TokenSettings, *, locking: str, threads: int, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-X", "faulthandler", "-c", PROGRAM),
            *(str(module), token.pin_source, str(token.softhsm_config), locking, str(threads)),
        ],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_thread_without_locks(token: TokenSettings) -> None:
    run(token.module, token, locking="no", threads=1, environment={})


def test_threads_in_a_module_that_may_use_the_systems_locks(token: TokenSettings) -> None:
    run(token.module, token, locking="yes", threads=3, environment={})


def test_threads_through_p11_kit(token: TokenSettings, tmp_path: Path) -> None:
    folder = tmp_path / "config" / "pkcs11"
    (folder / "modules").mkdir(parents=True)
    (folder / "pkcs11.conf").write_text("user-config: only\n")
    (folder / "modules" / "softhsm.module").write_text(f"module: {token.module}\n")
    if os.getuid() == 0:
        # As root p11-kit ignores the configuration of a user; the module stands in /etc for every process then.
        system = Path("/usr/share/p11-kit/modules")
        assert any("softhsm" in path.name for path in system.glob("*.module")), "apt-get install softhsm2 p11-kit"
    run(PROXY, token, locking="no", threads=3, environment={"XDG_CONFIG_HOME": str(tmp_path / "config")})
