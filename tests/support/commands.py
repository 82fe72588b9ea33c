"""The ``pkiserver`` command as an administrator runs it, on a machine with a configuration of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pkiserver.keys.settings import SoftwareStoreSettings, TokenSettings
from pkiserver.store.migrate import migrate
from tests.support.forked import completed

PKISERVER = (sys.executable, "-c", "from pkiserver.cli.main import main; main()")


def configured(folder: Path, *stores: SoftwareStoreSettings | TokenSettings, more: str = "") -> Path:
    """A node's configuration in ``folder``, with these key stores and an SQLite database that is ready; its path."""
    url = f"sqlite:///{folder}/pkiserver.db"
    migrate(url)
    path = folder / "pkiserver.toml"
    tables = "".join(map(_key_store, stores))
    path.write_text(f'state_dir = "{folder}"\n[database]\nurl = "{url}"\n{tables}{more}')
    path.chmod(0o600)
    return path


def _key_store(store: SoftwareStoreSettings | TokenSettings) -> str:
    if isinstance(store, SoftwareStoreSettings):
        fields = {"directory": store.directory, "passphrase_source": store.passphrase_source}
    else:
        fields = {
            "module": store.module,
            "token_label": store.token_label,
            "pin_source": store.pin_source,
            "softhsm_config": store.softhsm_config,
        }
    return f'[[key_store]]\nname = "{store.name}"\n' + "".join(f'{key} = "{value}"\n' for key, value in fields.items())


def _completed(
    config: Path, arguments: tuple[object, ...], code: int, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    done = completed((*map(str, arguments), "--config", str(config)), {**os.environ, **environment}, seconds=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def run(config: Path, *arguments: object, code: int = 0, **environment: str) -> str:
    """What a command prints, on stdout or, where it is to fail, on both; it must end with ``code``."""
    done = _completed(config, arguments, code, environment)
    return done.stdout if code == 0 else done.stdout + done.stderr


def run_json(config: Path, *arguments: object, code: int = 0) -> Any:
    """What a command says as JSON; it must end with ``code``."""
    return json.loads(_completed(config, (*arguments, "--json"), code, {}).stdout)
