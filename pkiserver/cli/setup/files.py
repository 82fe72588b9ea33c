"""The files of an instance: folders, secrets, the node's settings."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from pkiserver.cli.setup.layout import Layout
from pkiserver.foundation.secret import Secret
from pkiserver.keys.settings import SoftwareStoreSettings, TokenSettings
from pkiserver.keys.softhsm import create_token, find_module

LABEL = "pkiserver"


def write_secret(path: Path, value: Secret) -> None:
    """Write a new file of mode 0600; never over an existing one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(value.reveal())


def make_folders(layout: Layout) -> None:
    """The instance's folders, readable by their owner only."""
    for folder in (layout.directory, layout.secrets, layout.tls):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_key_store(layout: Layout) -> TokenSettings | SoftwareStoreSettings:
    """A SoftHSM token; or, where there is no SoftHSM, a folder of encrypted key files. Blocking."""
    if find_module() is not None:
        return create_token(layout.token, LABEL, layout.secrets / "pin")
    layout.keys.mkdir(mode=0o700, exist_ok=True)
    passphrase = layout.secrets / "passphrase"
    write_secret(passphrase, Secret(secrets.token_urlsafe(32)))
    return SoftwareStoreSettings(name="files", directory=layout.keys, passphrase_source=f"file:{passphrase}")


def write_settings(
    layout: Layout, store: TokenSettings | SoftwareStoreSettings, workers: str, database: str | None
) -> None:
    """The commented node settings of the instance. ``database`` is a URL, None for SQLite in the instance's folder."""
    text = _TEMPLATE.format(
        state_dir=quoted(layout.directory),
        database=quoted(database or f"sqlite:///{layout.database}"),
        certificate=quoted(layout.tls / "server.pem"),
        key=quoted(layout.tls / "server.key"),
        workers=workers,
        key_store=_key_store(store),
        http_port=layout.http_port,
        https_port=layout.https_port,
        ldap_port=layout.ldap_port,
        ldaps_port=layout.ldaps_port,
        management_port=layout.management_port,
        api_port=layout.api_port,
        http_url=layout.http_url,
        https_url=layout.https_url,
    )
    layout.config.write_text(text, encoding="utf-8")


def _key_store(store: TokenSettings | SoftwareStoreSettings) -> str:
    if isinstance(store, TokenSettings):
        return (
            f"# The SoftHSM token that was made for this instance; a hardware module is named in the same way.\n"
            f'[[key_store]]\nname = "{store.name}"\nmodule = "{store.module}"\ntoken_label = "{store.token_label}"\n'
            f"# The PIN stands in a file of mode 0600, never here.\npin_source = {quoted(store.pin_source)}\n"
            f"softhsm_config = {quoted(store.softhsm_config)}\n"
            "# As many RSA signatures and decryptions at once; the module uses the system's locks.\n"
            f"threads = {store.threads}\nos_locking = {str(store.os_locking).lower()}"
        )
    return (
        f"# WARNING: no PKCS#11 library was found: keys are in encrypted files. Install softhsm2, or name a module.\n"
        f'[[key_store]]\nname = "{store.name}"\ndirectory = {quoted(store.directory)}\n'
        f"passphrase_source = {quoted(store.passphrase_source)}"
    )


def quoted(value: object) -> str:
    """A TOML basic string, whose escapes JSON's are among."""
    return json.dumps(str(value), ensure_ascii=False)


_TEMPLATE = """\
# The settings of this node, written by `pkiserver quickstart`. `pkiserver config example` prints every key there is,
# with its default; `pkiserver config check --config FILE` checks this file. SIGHUP rereads TLS files and [log].
# Authorities, templates and accounts are in the database: see `pkiserver ca`, `pkiserver export` and `pkiserver apply`.

# Run-time sockets, lock files, reports.
state_dir = {state_dir}

# Processes that serve, all on the same sockets: a number, or "cores".
workers = {workers}

[database]
# SQLite needs nothing; for several machines use PostgreSQL: "postgresql://user@host/database".
url = {database}

{key_store}

# OCSP, CRLs and CA certificates: plain HTTP, since all of it is signed (RFC 5280 section 8).
[http]
listen = ["127.0.0.1:{http_port}"]

# EST. Requests without a label are for this template.
[est]
default_template = "tls-client"

[https]
listen = ["127.0.0.1:{https_port}"]

[https.tls]
certificate = {certificate}
key = {key}

# The S/MIME address book: LDAP (with StartTLS) and LDAP over TLS, with the certificate of [https.tls].
[ldap]
base = "o=pkiserver"
listen = ["127.0.0.1:{ldap_port}"]
listen_tls = ["127.0.0.1:{ldaps_port}"]

# /health/live, /health/ready and /metrics.
[management]
listen = ["127.0.0.1:{management_port}"]

# The management API, for administrators with client certificates: `pkiserver admin create` makes them.
[api]
listen = ["127.0.0.1:{api_port}"]

[api.tls]
certificate = {certificate}
key = {key}

# What time-stamps know the time from. WARNING: "system" believes this machine's clock without asking anybody, and is
# for trying things out only. Name "chrony", or "ntp" with ntp_servers, before a time-stamp shall mean something.
[time]
sources = ["system"]

# How the outside reaches this node.
[public]
http = "{http_url}"
https = "{https_url}"
"""
