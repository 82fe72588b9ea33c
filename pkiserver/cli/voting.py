"""Who votes at the command line: the user of the machine, or an administrator who shows a PKCS#12 file."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pkiserver.cli.options import IN_FILE, number_argument
from pkiserver.cli.typing_in import typed

if TYPE_CHECKING:
    from pkiserver.cli.context import Session
    from pkiserver.registration.votes import Person
    from pkiserver.runtime.engine import Engine

F = TypeVar("F", bound=Callable[..., Any])


def who() -> str:
    """Who runs this command, as the audit log names it: by the process, not by what its environment says."""
    number = os.getuid()
    try:
        return f"cli:{pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"cli:{number}"


def voter_options(function: F) -> F:
    """Decorator: ``--as-admin`` and ``--password-file``."""
    whose = "Decide as the administrator of this PKCS#12 file."
    opens = "The password of that file; by default it is asked for."
    function = click.option("--password-file", type=IN_FILE, help=opens)(function)
    return click.option("--as-admin", "credential", type=IN_FILE, metavar="P12", help=whose)(function)


def decision_options(reason_help: str) -> Callable[[F], F]:
    """Decorator for a vote: the number of what is decided, ``--reason`` with this help, and :func:`voter_options`."""

    def decorate(function: F) -> F:
        function = click.option("--reason", default="", help=reason_help)(voter_options(function))
        return number_argument(function)

    return decorate


async def voter(engine: Engine, credential: Path | None, password_file: Path | None) -> Person:
    """The person behind the options; opening the file shows that its key is theirs.

    Raises:
        Rejected: the certificate in the file shows no administrator (any more).
    """
    from pkiserver.registration.votes import Person

    if credential is None:
        return Person(who())
    person = (await engine.administrators.recognise(_opened(credential, password_file))).person
    _session().actor = person.actor
    return person


@contextmanager
def voting(credential: Path | None, matter: str) -> Iterator[None]:
    """A vote on ``matter``, under which every refusal of it is audited, as the API's are.

    Where the machine's user may not decide, it is said how somebody else does it here.
    """
    from pkiserver.foundation.errors import Reason, Refusal, Rejected

    _session().matter = matter
    try:
        yield
    except Rejected as error:
        if credential is None and error.has(Refusal.NOT_AUTHORISED):
            text = "--as-admin FILE.p12 decides as the administrator of that file"
            raise Rejected([*error.reasons, Reason(Refusal.NOT_AUTHORISED, text)]) from error
        raise


@asynccontextmanager
async def refusals_audited(session: Session, engine: Engine) -> AsyncIterator[None]:
    """A command in which it is audited where somebody was not who may, as the API does; and every vote refused."""
    from pkiserver.audit import AuditEvent, AuditKind
    from pkiserver.foundation.errors import PkiError, Refusal, Rejected

    command = click.get_current_context().command_path
    try:
        yield
    except Rejected as error:
        if session.matter or error.has(Refusal.NOT_AUTHORISED) or error.has(Refusal.NOT_AUTHENTICATED):
            details = (("why", str(error)), ("via", "command line"))
            actor, what = session.actor or who(), session.matter or command
            try:
                await engine.audit.record(AuditEvent(AuditKind.REFUSAL, actor, what, "refused", details=details))
            except PkiError as second:
                session.output.note(f"the audit log could not be told of this refusal: {second}")
        raise


def _session() -> Session:
    from pkiserver.cli.context import Session

    return click.get_current_context().ensure_object(Session)


def _opened(credential: Path, password_file: Path | None) -> bytes:
    """The DER certificate of a PKCS#12 file that can be opened and holds its key."""
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

    from pkiserver.foundation.unreadable import UNREADABLE

    if password_file is not None:
        password = password_file.read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    else:
        password = typed(f"Password of {credential}", option="--password-file").encode()
    try:
        opened = load_pkcs12(credential.read_bytes(), password)
    except UNREADABLE as error:
        raise click.ClickException(f"{credential} cannot be opened: wrong password, or no PKCS#12 file") from error
    key: Any = opened.key
    if opened.cert is None or key is None or key.public_key() != opened.cert.certificate.public_key():
        raise click.ClickException(f"{credential} holds no certificate with its key")
    return opened.cert.certificate.public_bytes(Encoding.DER)
