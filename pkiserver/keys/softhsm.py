"""Making a SoftHSM token, for the embedded default: directory, configuration, random PINs in files of mode 0600."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.keys.pkcs11.library import start_lock
from pkiserver.keys.settings import TokenSettings

MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/lib/pkcs11/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
)
"""Where distributions put the module."""
THREADS = 2
"""SoftHSM signs on the machine's own processors: one RSA key at work must not keep the others waiting."""
_SECONDS = 60


def find_module() -> Path | None:
    """The SoftHSM module of this machine; None where it is not installed (Debian: ``apt-get install softhsm2``)."""
    return next((path for path in MODULES if path.exists()), None)


def create_token(
    directory: Path, label: str, pin_file: Path, *, so_pin_file: Path | None = None, module: Path | None = None
) -> TokenSettings:
    """Make a token of its own in ``directory``; blocking.

    Args:
        directory: Gets ``softhsm2.conf`` and ``tokens/``; made with mode 0700.
        label: The token's label, up to 32 octets.
        pin_file: Gets the random user PIN, mode 0600. Must not exist.
        so_pin_file: Gets the security officer's PIN; ``so-pin`` beside ``pin_file`` by default.
        module: The module; found by itself by default.

    Returns:
        Settings that open the token, by name ``softhsm``, with two threads.

    Raises:
        Rejected: CONFLICT where a PIN file exists; UNSUPPORTED where SoftHSM is not installed or refuses.
    """
    library = module or find_module()
    if library is None:
        raise Rejected.because(Refusal.UNSUPPORTED, "SoftHSM is not installed: apt-get install softhsm2")
    directory, pin_file = directory.absolute(), pin_file.absolute()
    so_file = (so_pin_file or pin_file.with_name("so-pin")).absolute()
    taken = [path for path in (pin_file, so_file) if path.exists()]
    if taken:
        raise Rejected.because(Refusal.CONFLICT, f"{taken[0]} exists already: is there a token?")
    tokens = directory / "tokens"
    tokens.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    config = directory / "softhsm2.conf"
    config.write_text(
        f"# Made by pkiserver. Name this file in SOFTHSM2_CONF to look into the token with other tools.\n"
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nobjectstore.umask = 0077\nlog.level = ERROR\n"
        f"slots.removable = false\n"
    )
    settings = TokenSettings(
        name="softhsm", module=library, token_label=label, pin_source=f"file:{pin_file}", softhsm_config=config,
        threads=THREADS, os_locking=True,
    )  # fmt: skip
    pin, so_pin = Secret(secrets.token_hex(16)), Secret(secrets.token_hex(16))
    with start_lock(settings):
        _initialise(library, config, label, pin, so_pin)
    _write_private(pin_file, pin)
    _write_private(so_file, so_pin)
    return settings


def _initialise(library: Path, config: Path, label: str, pin: Secret, so_pin: Secret) -> None:
    # A process of its own: this one may have the module loaded with another configuration. The PINs travel by
    # standard input, since arguments are visible to every user of the machine.
    program = (
        "import sys, pkcs11\n"
        "from pkcs11._pkcs11 import lib\n"
        "path, label = sys.argv[1:]\n"
        "pin, so_pin = sys.stdin.read().split()\n"
        "import ctypes\n"
        "api = ctypes.CDLL(path)\n"
        "assert api.C_Initialize(None) == 0, 'C_Initialize'\n"
        "count = ctypes.c_ulong(64); slots = (ctypes.c_ulong * 64)()\n"
        "assert api.C_GetSlotList(ctypes.c_ubyte(0), slots, ctypes.byref(count)) == 0, 'C_GetSlotList'\n"
        "slot = ctypes.c_ulong(slots[count.value - 1])\n"
        "padded = label.encode().ljust(32)\n"
        "code = api.C_InitToken(slot, so_pin.encode(), ctypes.c_ulong(len(so_pin)), padded)\n"
        "assert code == 0, f'C_InitToken: 0x{code:x}'\n"
        "assert api.C_Finalize(None) == 0, 'C_Finalize'\n"
        "library = lib(path)\n"
        "session = library.get_token(token_label=label).open(rw=True, so_pin=so_pin)\n"
        "session.init_pin(pin)\n"
        "session.close()\n"
    )
    import sys

    if len(label.encode()) > 32 or not label:
        raise Rejected.because(Refusal.CONFIGURATION, "a token label has 1 to 32 octets")
    done = subprocess.run(
        [sys.executable, "-c", program, str(library), label],
        input=f"{pin.reveal_text()} {so_pin.reveal_text()}".encode(),
        env={**os.environ, "SOFTHSM2_CONF": str(config)},
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        why = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise Rejected.because(Refusal.UNSUPPORTED, f"SoftHSM does not make the token: {why}")


def _write_private(path: Path, secret: Secret) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as out:
        out.write(secret.reveal() + b"\n")
