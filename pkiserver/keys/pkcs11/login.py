"""Finding a token and logging in to it: once, and never twice with a PIN that was refused."""

from __future__ import annotations

from typing import Any

from pkcs11 import TokenFlag
from pkcs11 import exceptions as p11

from pkiserver.foundation.secret import Secret
from pkiserver.keys.faults import FaultKind, KeyProblem, KeyUnavailable
from pkiserver.keys.pkcs11.refusedpin import RefusedPin
from pkiserver.keys.pkcs11.softhsmfiles import with_reason
from pkiserver.keys.secrets_by_reference import SecretUnreadable, read_secret
from pkiserver.keys.settings import TokenSettings

_PIN_FAULTS: dict[type[Exception], tuple[FaultKind, str]] = {
    p11.PinIncorrect: (
        FaultKind.PIN_WRONG,
        "the PIN from {source} is wrong; it will not be tried again until it changes",
    ),
    p11.PinInvalid: (FaultKind.PIN_WRONG, "the PIN from {source} is not a valid PIN for this token"),
    p11.PinLenRange: (FaultKind.PIN_WRONG, "the PIN from {source} is too short or too long for this token"),
    p11.PinLocked: (FaultKind.PIN_LOCKED, "the user PIN is locked: the security officer must unlock it"),
    p11.PinExpired: (FaultKind.PIN_EXPIRED, "the user PIN has expired and must be changed"),
    p11.UserPinNotInitialized: (FaultKind.PIN_NOT_SET, "the token has no user PIN yet: initialise it"),
}


class TokenLogin:
    """One token of a module: present or not, logged in or not, and why not."""

    def __init__(self, settings: TokenSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.token: Any = None
        self.live = False
        self.problem: KeyProblem | None = KeyProblem(settings.name, FaultKind.TOKEN_ABSENT, "not yet looked for")
        self.mechanisms: frozenset[int] = frozenset()
        self._refused = RefusedPin(settings)

    @property
    def reads_files(self) -> bool:
        """Whether the token reads a file whenever a key of its own is used, as SoftHSM does."""
        return self.token is not None and self.token.manufacturer_id.startswith("SoftHSM")

    @property
    def wanted(self) -> str:
        """The token in words."""
        label, serial = self.settings.token_label, self.settings.token_serial
        words = [f"label {label!r}"] if label is not None else []
        return " and ".join([*words, *([f"serial {serial!r}"] if serial is not None else [])])

    def connect(self, library: Any) -> Any | None:
        """Find the token and log in: the session of the login. In the module, start lock held.

        What goes wrong stands in ``problem``, and there is no session then.
        """
        try:
            with self._refused.alone():
                self.token = self._find(library)
                self.mechanisms = frozenset(int(mechanism) for mechanism in self.token.slot.get_mechanisms())
                session = self._login(library)
        except KeyUnavailable as error:
            self.live, self.problem = False, error.problem
        except p11.PKCS11Error as error:
            text = f"token with {self.wanted} does not answer: {str(error) or type(error).__name__}"
            self.live, self.problem = False, KeyProblem(self.name, FaultKind.TOKEN_LOST, text)
        else:
            self.live, self.problem = True, None
            return session
        return None

    def forget(self) -> None:
        """The module is being initialised again: sessions and login are gone."""
        self.token, self.live = None, False

    def session(self, *, writable: bool = False) -> Any:
        """Another session of a token that is logged in; raises :class:`KeyUnavailable` while it is not."""
        if self.token is None:
            raise KeyUnavailable(self.problem or KeyProblem(self.name, FaultKind.TOKEN_ABSENT, "the token is away"))
        return self.token.open(rw=writable)

    def _find(self, library: Any) -> Any:
        found = list(library.get_tokens(token_label=self.settings.token_label, token_serial=self._serial()))
        found = [token for token in found if TokenFlag.TOKEN_INITIALIZED in token.flags]
        if not found:
            text = f"there is no token with {self.wanted} in {self.settings.module}"
            raise self._fault(FaultKind.TOKEN_ABSENT, with_reason(text, self.settings))
        if len(found) > 1:
            serials = ", ".join(token.serial.decode(errors="replace") for token in found)
            text = f"{len(found)} tokens have {self.wanted} (serials {serials}): set token_serial"
            raise self._fault(FaultKind.TOKEN_AMBIGUOUS, text)
        return found[0]

    def _serial(self) -> bytes | None:
        return None if self.settings.token_serial is None else self.settings.token_serial.encode()

    def _login(self, library: Any) -> Any:
        pin = self._pin()
        flags = self.token.flags
        if TokenFlag.USER_PIN_LOCKED in flags:
            raise self._fault(*_PIN_FAULTS[p11.PinLocked])
        if TokenFlag.USER_PIN_FINAL_TRY in flags:
            text = "one try of the user PIN is left, which is not used up unattended: log in once with another tool"
            raise self._fault(FaultKind.PIN_LAST_TRY, text)
        if self._refused.stands(pin, self.token):
            raise KeyUnavailable(self._refusal())
        try:
            session = self.token.open(user_pin=pin.reveal_text())
        except p11.UserAlreadyLoggedIn:
            return self.token.open()
        except tuple(_PIN_FAULTS) as error:
            self._refused.note(pin, self._find(library))  # as the token shows itself after the refusal
            kind, text = _PIN_FAULTS[type(error)]
            raise self._fault(kind, text.format(source=self.settings.pin_source)) from error
        self._refused.forget()
        return session

    def _pin(self) -> Secret:
        try:
            pin = read_secret(self.settings.pin_source)
            pin.reveal_text()
        except (SecretUnreadable, UnicodeDecodeError) as error:
            raise self._fault(FaultKind.PIN_UNREADABLE, f"the PIN cannot be read: {error}") from error
        return pin

    def _refusal(self) -> KeyProblem:
        """What is said of a PIN that is not tried: what the token said of it, or that another process heard it."""
        if self.problem is not None and self.problem.kind in {kind for kind, _ in _PIN_FAULTS.values()}:
            return self.problem
        remembered = "" if self._refused.file is None else f" or {self._refused.file} is deleted"
        text = f"the PIN from {self.settings.pin_source} was refused before: it is not tried again until it changes"
        return KeyProblem(self.name, FaultKind.PIN_WRONG, text + remembered)

    def _fault(self, kind: FaultKind, text: str) -> KeyUnavailable:
        return KeyUnavailable.because(self.name, kind, text)
