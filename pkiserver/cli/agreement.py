"""Commands that wait for others where dual control is switched on: first they ask, then ``--operation`` does it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from pkiserver.cli.voting import voter, voter_options

if TYPE_CHECKING:
    from pkiserver.authority.consent import Consent
    from pkiserver.cli.context import Session
    from pkiserver.registration.operations import OperationKind
    from pkiserver.runtime.engine import Engine

F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen
class Agreement:
    """What the command line says of others' agreement."""

    reason: str
    operation: int | None
    credential: Path | None
    password_file: Path | None

    async def reached(
        self, session: Session, engine: Engine, kind: OperationKind, what: str, particulars: dict[str, str]
    ) -> Consent | None:
        """What the deed uses up in its own transaction; None where others must agree first, who are asked now.

        Args:
            session: Where it is said that somebody was asked.
            engine: The open engine; its settings say whether anybody must agree.
            kind: Of the operation.
            what: Its object.
            particulars: All that decides what is done: an approval of anything else does not count.

        Raises:
            Rejected: no reason is given; or the operation is not approved, is spent, or approves something else.
        """
        from pkiserver.authority.consent import UNASKED

        if not engine.operations.rules.administrators:
            if self.operation is not None:
                raise click.UsageError(
                    "--operation: nobody has to agree here ([approvals.dual_control] administrators)"
                )
            return UNASKED
        if self.operation is None:
            by = await voter(engine, self.credential, self.password_file)
            made = await engine.dual_control.ask(kind, what, particulars, reason=self.reason, by=by)
            text = f"nothing done yet: operation {made.number} waits for approval"
            again = f"then give the same command again with --operation {made.number}"
            session.output.done(f"{text}; {again}", done=False, operation=made.number)
            return None
        return await engine.dual_control.consent(self.operation, kind, what, particulars)


def agreement_options(function: F) -> F:
    """Decorator (above ``async_command``): the options, which the function gets as ``agreement``."""

    @functools.wraps(function)
    def wrapper(
        *args: Any,
        reason: str,
        operation: int | None,
        credential: Path | None,
        password_file: Path | None,
        **kwargs: Any,
    ) -> Any:
        return function(*args, agreement=Agreement(reason, operation, credential, password_file), **kwargs)

    number = click.option("--operation", type=int, metavar="NUMBER", help="The operation that others have approved.")
    why = click.option("--reason", default="", help="For those who vote, where administrators are under dual control.")
    return voter_options(why(number(wrapper)))  # type: ignore[return-value]
