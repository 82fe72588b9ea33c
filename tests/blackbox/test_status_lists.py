"""Delta CRLs, a target and the self-check on a whole server, driven from the command line, curl and openssl."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.instance import Instance

pytestmark = pytest.mark.blackbox


def within(seconds: float, what: Callable[[], Any]) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, what
        time.sleep(0.1)
    return found


def ready(instance: Instance) -> dict[str, tuple[str, str]]:
    url = f"http://127.0.0.1:{instance.layout.management_port}/health/ready"
    with urllib.request.urlopen(url) as answer:
        return {one["name"]: (one["health"], one["text"]) for one in json.load(answer)["checks"]}


def metric(instance: Instance, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{instance.layout.management_port}/metrics") as answer:
        return sum(
            float(line.rpartition(" ")[2]) for line in answer.read().decode().splitlines() if line.startswith(name)
        )


def test_a_revocation_reaches_delta_target_and_openssl(tmp_path: Path) -> None:
    instance = Instance(tmp_path, workers=1)
    www, blocked = tmp_path / "www", tmp_path / "blocked"
    blocked.write_text("a file is in the way")
    with instance.layout.config.open("a") as config:
        for name, directory in (("www", www), ("blocked", blocked)):
            config.write(f'\n[[crl_target]]\nname = "{name}"\ndirectory = "{directory}"\n')
        config.write('\n[self_check]\ninterval = "1s"\n')
    exported = tmp_path / "issuing.toml"
    exported.write_text(
        instance.cli("export", "authority/issuing").stdout + '\n[settings.crl]\ngather = "0s"\n[settings.crl.delta]\n'
    )
    instance.cli("apply", "--yes", str(exported))
    instance.start()
    try:
        walk(instance, tmp_path, www)
    finally:
        instance.stop()


def walk(instance: Instance, folder: Path, www: Path) -> None:
    base = f"http://127.0.0.1:{instance.layout.port_base + 80}/crl"
    listed = json.loads(instance.cli("--json", "cert", "search", "--template", "tls-server").stdout)[0]
    serial = listed["serial"]
    chain = instance.cli("cert", "export", serial, "--chain").stdout.split("-----END CERTIFICATE-----\n")
    leaf, issuing, root = (one + "-----END CERTIFICATE-----\n" for one in chain[:3])
    for name, text in (("leaf", leaf), ("issuing", issuing), ("root", root)):
        (folder / f"{name}.pem").write_text(text)
    within(20, (www / "issuing-1" / "delta.crl").exists)
    before = (www / "issuing-1.crl").read_bytes()
    instance.cli("cert", "revoke", serial, "--reason", "superseded")
    within(20, lambda: "Serial Number" in show(www / "issuing-1" / "delta.crl"))
    fetch = f"""
    for one in issuing-1 root-1 issuing-1/delta; do
        curl -sSf {base}/$one.crl | openssl crl -inform DER -outform PEM
    done | tee lists.pem | awk '/BEGIN/ {{ lists += 1 }} lists < 3' > complete.pem
    """
    done = instance.shell(fetch, folder)
    assert done.returncode == 0, done.stderr
    verify = "openssl verify -crl_check_all {} -CAfile root.pem -untrusted issuing.pem leaf.pem 2>&1 || true"
    assert "leaf.pem: OK" in instance.shell(verify.format("-CRLfile complete.pem"), folder).stdout
    assert "certificate revoked" in instance.shell(verify.format("-use_deltas -CRLfile lists.pem"), folder).stdout
    assert (www / "issuing-1.crl").read_bytes() == before, "the complete list comes at its time"

    found = within(20, lambda: (r := ready(instance)).get("self-check", ("", ""))[0] == "ok" and r)
    assert "answers of ours are as they should be" in found["self-check"][1]
    assert found["crl-target:www"][0] == "ok"
    health, text = found["crl-target:blocked"]
    assert health == "warning"
    assert "File exists" in text or "Not a directory" in text
    assert metric(instance, 'pkiserver_crl_target_failures{target="blocked"') >= 1
    assert metric(instance, "pkiserver_self_check_problems") == 0


def show(file: Path) -> str:
    command = ["openssl", "crl", "-inform", "DER", "-noout", "-text", "-in", file]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout
