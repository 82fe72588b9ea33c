"""How much is loaded before a node serves: the start is as fast as that is little."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

from pkiserver.runtime.garbage import unhindered
from tests.runtime.nodes import ROOT, certificate

HEAVY = (
    "sqlalchemy",
    "alembic",
    "pkilint",
    "pyasn1_alt_modules",
    "asn1crypto",
    "klein",
    "twisted.web",
    "pkcs11",
    "rich",
)
ENGINE = ("pkiserver.store", "pkiserver.runtime.engine", "pkiserver.runtime.services.composition", "protocols.est")
BOUND = """
import json, sys
from twisted.application.service import Application
from pkiserver.runtime.services import Options, makeService
options = Options()
options.parseOptions(["--config", sys.argv[1]])
service = makeService(options)
service.setServiceParent(Application("test"))
service.privilegedStartService()
print(json.dumps([service.services[0].name, sorted(sys.modules)]))
"""
SPAWNED = """
import json, sys
from pkiserver.runtime.services import spawned, worker
def main(arguments, open_application):
    before = set(sys.modules)
    from pkiserver.authority.checks.lint import Linter
    from pkiserver.runtime.services.node import NodeService
    new = set(sys.modules) - before
    print(json.dumps([arguments, open_application.__module__, sorted(new)]))
    return 7
worker.main = main
sys.exit(spawned.serve(["--number", "1"]))
"""


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def _node(folder: Path, workers: int) -> Path:
    certificate(folder, "localhost")
    config = folder / "node.toml"
    config.write_text(
        f'state_dir = "state"\nworkers = {workers}\n[database]\nurl = "sqlite:///db"\n'
        '[http]\nlisten = ["127.0.0.1:0"]\n[https]\nlisten = ["127.0.0.1:0"]\n'
        '[https.tls]\ncertificate = "chain.pem"\nkey = "key.pem"\n[management]\nlisten = ["127.0.0.1:0"]\n'
    )
    (folder / "state").mkdir()
    return config


def test_the_parent_binds_every_socket_without_loading_what_only_workers_need(tmp_path: Path) -> None:
    done = _run(BOUND, str(_node(tmp_path, workers=2)))
    assert done.returncode == 0, done.stderr
    child, loaded = json.loads(done.stdout.splitlines()[-1])
    assert child == "workers"
    assert [one for one in loaded if one.startswith((*HEAVY, *ENGINE))] == []


def test_a_parent_refuses_bad_tls_files_before_it_binds_anything(tmp_path: Path) -> None:
    config = _node(tmp_path, workers=2)
    (tmp_path / "chain.pem").write_text("nothing")
    done = _run(BOUND, str(config))
    assert done.returncode == 78
    assert "chain.pem" in done.stderr or "certificate" in done.stderr
    assert done.stdout == ""


def test_a_worker_has_loaded_the_linter_and_the_service_tree_before_it_touches_a_socket() -> None:
    done = _run(SPAWNED)
    assert done.returncode == 7, done.stderr
    arguments, opened_by, new = json.loads(done.stdout)
    assert arguments == ["--number", "1"]
    assert opened_by == "pkiserver.runtime.services.composition"
    assert new == []


def test_what_is_loaded_unhindered_is_never_looked_over_again() -> None:
    assert gc.isenabled()
    try:
        with unhindered():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > len(kept)
        assert kept not in gc.get_objects()
    finally:
        gc.unfreeze()
