"""What a node's settings say of dual control. Apart from the operations, so that reading settings loads no database."""

from __future__ import annotations

from datetime import timedelta

import attrs


@attrs.frozen
class DualControl:
    """How many others must agree, from which groups, and how long they have."""

    approvals: int = attrs.field(default=1, validator=attrs.validators.in_(range(1, 11)))
    """Persons besides the one who asks."""
    approvers: tuple[str, ...] = ()
    """Groups of administrators; empty: every administrator who may decide operations."""
    lifetime: timedelta = timedelta(days=7)
    """From the wish to the deed."""
    templates: bool = False
    """Whether ``pkiserver apply`` asks for a change of a template too, instead of making it."""
    administrators: bool = False
    """Whether ``pkiserver admin`` asks before it hands out an administrator's key or gives one more to do."""
