"""What an administrator should know about a template: said when it is applied, by ``doctor``, health and the log."""

from __future__ import annotations

from collections.abc import Iterable

from pkiserver.authority.templates.model import Template


def weaknesses(template: Template) -> Iterable[str]:
    """What is weak about what a template allows SCEP clients, a sentence each."""
    if template.scep.legacy:
        names = ", ".join(one.value for one in template.scep.legacy)
        yield f"template {template.name} accepts old algorithms: {names}"
    if template.scep.static_challenge:
        yield f"template {template.name} has a static challenge: whoever learns it can enrol as anybody"
