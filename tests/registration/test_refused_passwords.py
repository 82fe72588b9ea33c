"""What the log says of names and passwords that are refused; the client is told the same in all cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.logger import capturedLogs, formatEvent

from pkiserver.authority.requests import IssuedCertificate, PasswordEvidence
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.runtime.engine import Engine
from tests.registration.test_connectors import by, opened, webhook
from tests.support.engines import enrollment
from tests.support.webhook import SECRET, Webhook

RIGHT, WRONG = Secret("an internal password"), Secret("not the right password")
BEGIN = "connector internal does not show"


async def refused(engine: Engine, name: str, password: Secret) -> tuple[list[str], tuple[str, ...]]:
    """What the log says, and what the client is told."""
    with capturedLogs() as captured, pytest.raises(Rejected) as caught:
        await engine.enroll(enrollment("own", PasswordEvidence(name, password)))
    lines = [formatEvent(event) for event in captured if event["log_namespace"] == "pkiserver.connectors"]
    return lines, tuple(reason.text for reason in caught.value.reasons)


async def test_the_log_names_who_was_refused_and_why(tmp_path: Path) -> None:
    async with opened(tmp_path, {"own": by("internal")}) as engine:
        await engine.accounts.create("codes-only", None, by="tester")
        await engine.accounts.create("gone", RIGHT, by="tester")
        await engine.accounts.set_disabled("gone", disabled=True, by="tester")
        said = {name: await refused(engine, name, RIGHT) for name in ("Alice", "codes-only", "gone")}
        said["alice"] = await refused(engine, "alice", WRONG)
        assert {name: lines for name, (lines, _) in said.items()} == {
            "Alice": [f"{BEGIN} Alice: user not found: there is no account of this name"],
            "codes-only": [f"{BEGIN} codes-only: password refused: the account has no password"],
            "gone": [f"{BEGIN} gone: password refused: the account is disabled"],
            "alice": [f"{BEGIN} alice: password refused: the password is wrong"],
        }
        assert len({told for _, told in said.values()}) == 1


async def test_who_is_known_elsewhere_is_not_said_to_be_unknown_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    service = Webhook(lambda question: {"decision": "yes" if question["name"] == "walt" else "no"})
    try:
        async with opened(tmp_path, {"own": by("internal", "portal")}, webhook(service.port)) as engine:
            with capturedLogs() as captured:
                issued = await engine.enroll(enrollment("own", PasswordEvidence("walt", RIGHT)))
            assert isinstance(issued, IssuedCertificate)
            assert not [event for event in captured if BEGIN in (formatEvent(event) or "")]
            lines, _ = await refused(engine, "wanda", RIGHT)
            assert sum(BEGIN in line for line in lines) == 1
    finally:
        service.close()


async def test_a_connector_that_is_switched_off_is_named_in_the_log(tmp_path: Path) -> None:
    text = webhook(1).replace("[webhook]", "enabled = false\n[webhook]")
    async with opened(tmp_path, {"own": by("portal")}, text) as engine:
        lines, _ = await refused(engine, "walt", RIGHT)
        assert lines == ["connector portal does not show walt: settings: connector portal is switched off"]
