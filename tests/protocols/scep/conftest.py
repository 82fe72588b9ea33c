"""One server for all tests of a file; they use devices of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.protocols.scep.support import APPROVED, CODE, RENEWAL, World, template, world

LEGACY = 'legacy = ["des3", "sha1", "des", "md5"]'


@pytest.fixture(scope="module")
def scep(tmp_path_factory: pytest.TempPathFactory, on_reactor: Callable[[Any], Any]) -> Iterator[World]:
    texts = dict(
        (
            template("device"),
            template("legacy", scep=LEGACY),
            template("approved", APPROVED),
            template("late", renewal='[renewal]\nwindow = "1d"\n'),
            template("fresh-key", renewal='[renewal]\nwindow = "120d"\nsame_key = "refuse"\nrevoke_old = true\n'),
            template("any-key", scep="password_recipient = true"),
            template("quiet", scep='failure_text = false\nca_certificates = "root_first"'),
            template("both", CODE + APPROVED),
            template("code-approved", '[[evidence]]\nall = ["code"]\napproval = true\n'),
            template("short", scep='ca_certificates = "without_root"'),
            template("single", scep='ca_certificates = "ra_only"'),
            template("once", renewal="[renewal]\nallowed = false\n"),
            template("seated", renewal=f"{RENEWAL}[seats]\nenabled = true\ncertificates = 1\n"),
            template("graceful", renewal='[renewal]\nwindow = "120d"\ngrace = "10d"\n'),
        )
    )
    with world(tmp_path_factory.mktemp("scep"), on_reactor, texts) as made:
        yield made
