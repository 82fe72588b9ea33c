"""Several processes at one SoftHSM token: what one of them makes, the others find, whenever they look."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pkiserver.foundation.clock import SystemClock
from pkiserver.keys.faults import KeyUnavailable
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.uri import Pkcs11Uri
from tests.support.keys import MemoryRegistry, softhsm_token

KEYS = 30
MAKER = """
import sys
from pathlib import Path
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react
from pkiserver.foundation.clock import SystemClock
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.settings import TokenSettings
from tests.support.keys import MemoryRegistry

async def main():
    token = TokenSettings(name="softhsm", module=Path(sys.argv[1]), token_label=sys.argv[2], pin_source=sys.argv[3],
                          softhsm_config=Path(sys.argv[4]))
    ring = await KeyRing.open_with([token], MemoryRegistry(), SystemClock())
    for number in range(int(sys.argv[5])):
        made = await ring.generate(f"key {number}".replace(" ", "-"), KeyType.parse("ec-p256"), store="softhsm",
                                   doors=[Door.CRL])
        print(made.record.uri, flush=True)
    await ring.close()

react(lambda reactor: ensureDeferred(main()))
"""


def test_keys_are_found_by_those_who_look_while_they_are_made(tmp_path: Path, on_reactor: Callable[[Any], Any]) -> None:
    token = softhsm_token(tmp_path)
    ring = on_reactor(lambda: KeyRing.open_with([token], MemoryRegistry(), SystemClock()))
    store = ring._providers.for_store("softhsm")
    command = [
        *(sys.executable, "-c", MAKER, str(token.module), str(token.token_label)),
        *(token.pin_source, str(token.softhsm_config), str(KEYS)),
    ]
    nobody = str(Pkcs11Uri(token=token.token_label, object="nobody", type="private"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as maker:
        while maker.poll() is None:
            with pytest.raises(KeyUnavailable, match="no private key"):
                store.public_half(nobody)
        assert maker.stdout is not None
        made = maker.stdout.read().split()
    assert len(made) == KEYS
    for uri in made:
        assert store.public_half(uri)
    on_reactor(ring.close)
