"""The LDAP and Active Directory connector: bind as the user, or search and bind; groups, attributes, passwords."""

from __future__ import annotations

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.keys.secrets_by_reference import SecretUnreadable
from pkiserver.outbound import ldapnames
from pkiserver.outbound.dial import Servers
from pkiserver.outbound.ldap import NOT_THE_ENTRY, LdapConnection, LdapError, asked, open_server, opened
from pkiserver.outbound.ldapwire import Change, ChangeKind, Entry
from pkiserver.outbound.placeholders import fill, split
from pkiserver.outbound.problems import OutboundError, Trouble
from pkiserver.registration.connectors import ldappolicy, ldappublish, ldapuser
from pkiserver.registration.connectors.credentials import credential_problem, finding, outcome_finding
from pkiserver.registration.connectors.ldappolicy import Policy
from pkiserver.registration.connectors.ldapsettings import USER_PLACES, LdapSettings
from pkiserver.registration.connectors.ldapuser import User
from pkiserver.registration.connectors.values import Challenge, Denied, Finding, Outcome, Step

NOBODY = "cn=there is nobody of this name"
_NO_USER = "pkiserver-check"
_UNBOUND = "nobody may search here without a service account; give the user's password too"


class LdapConnector:
    """Checks names and passwords against a directory."""

    def __init__(self, name: str, settings: LdapSettings, clock: Clock) -> None:
        self.name = name
        self.settings = settings
        self._clock = clock
        self._servers = Servers(clock)

    async def authenticate(self, name: str, password: Secret, answering: Challenge | None = None) -> Outcome:  # noqa: ARG002
        """Who it is; raises :class:`Unavailable`."""
        if problem := credential_problem(name, password):
            return problem

        async def work(connection: LdapConnection) -> Outcome:
            return await self._authenticate(connection, name, password)

        try:
            return await asked(self.settings.service(), self._servers, work)
        except (OutboundError, LdapError, SecretUnreadable) as error:
            raise self._unavailable(error) from error

    async def lookup(self, name: str) -> Outcome:
        """Who it is today, found with the service's rights and without a password; raises :class:`Unavailable`."""

        async def work(connection: LdapConnection) -> Outcome:
            await self._bind_service(connection)
            found = await ldapuser.find(connection, self.settings, name)
            return found if isinstance(found, Denied) else ldapuser.shown(self.settings, name, found)

        try:
            return await asked(self.settings.service(), self._servers, work)
        except (OutboundError, LdapError, SecretUnreadable) as error:
            raise self._unavailable(error) from error

    @property
    def can_look_up(self) -> bool:
        """Whether users can be found without their passwords."""
        return self.settings.service_name is not None

    async def change_password(self, name: str, old: Secret, new: Secret) -> Denied | None:
        """Change a password, an expired one too; None when it is done.

        As the user where their bind still works, if only for this; else with the service's rights after the old one
        was shown to have expired. Raises :class:`Unavailable`.
        """
        if problem := credential_problem(name, old) or credential_problem(name, new):
            return problem
        if not self.settings.writable:
            return Denied(
                Step.SETTINGS, "every server is a Global Catalog, which takes no changes: name another as well"
            )
        try:
            async with opened(self.settings.service(writing=True), self._servers) as connection:
                return await self._change_password(connection, name, old, new)
        except (OutboundError, LdapError, SecretUnreadable) as error:
            raise self._unavailable(error) from error

    @property
    def publishes(self) -> bool:
        """Whether certificates are written to users' entries."""
        return self.settings.publish is not None

    async def publish(self, name: str, certificate: bytes, replaced: tuple[bytes, ...]) -> None:
        """Write a DER certificate to the user's entry, and take replaced ones away.

        Raises:
            Rejected: the user is gone, or the directory refuses.
            Unavailable: it cannot be asked now.
        """
        if not self.publishes:
            return
        try:
            async with opened(self.settings.service(writing=True), self._servers) as connection:
                await self._bind_service(connection)
                entry = await ldapuser.find_entry(connection, self.settings, name)
                if isinstance(entry, Denied):
                    raise Rejected.because(Refusal.CONFIGURATION, f"connector {self.name}: {entry.text}")
                await ldappublish.publish(connection, entry.dn, self.settings, certificate, replaced)
        except LdapError as error:
            if error.code in NOT_THE_ENTRY:
                raise self._unavailable(error) from error
            raise Rejected.because(Refusal.CONFIGURATION, f"connector {self.name}: {error}") from error
        except (OutboundError, SecretUnreadable) as error:
            raise self._unavailable(error) from error

    async def check(self, name: str | None, password: Secret | None) -> tuple[Finding, ...]:
        """Every server by itself: reach it, bind as the service, find the user, bind as the user."""
        findings: list[Finding] = []
        for server in self.settings.servers:
            try:
                connection = await open_server(self.settings.service(), server)
            except OutboundError as error:
                findings.append(finding(error))
                continue
            try:
                findings.append(await self._check_one(connection, name, password))
            except OutboundError as error:
                findings.append(finding(error))
            except SecretUnreadable as error:
                findings.append(Finding(Step.SETTINGS, str(server), str(error)))
            finally:
                await connection.close()
        return tuple(findings)

    def close(self) -> None:
        """Nothing is kept open."""

    async def _authenticate(self, connection: LdapConnection, name: str, password: Secret) -> Outcome:
        if self.settings.bind_name is None:
            await self._bind_service(connection)
            entry = await ldapuser.find_entry(connection, self.settings, name)
            # the same work for a name that is not there; groups are looked for only once the password was right
            dn = NOBODY if isinstance(entry, Denied) else entry.dn
            bound = await self._bind_user(connection, dn, password)
            if isinstance(entry, Denied):
                return entry
            if isinstance(bound, Denied):
                return bound
            if ldapuser.searches_groups(self.settings):
                await self._bind_service(connection)
            return self._result(name, await ldapuser.with_groups(connection, self.settings, entry, name), bound)
        return await self._authenticate_by_name(connection, name, password)

    async def _authenticate_by_name(self, connection: LdapConnection, name: str, password: Secret) -> Outcome:
        """Bind as ``bind_name`` says, then look for the entry, which must be the one that was bound."""
        bind_name = self._bind_name(name)
        bound = await self._bind_user(connection, bind_name, password)
        if isinstance(bound, Denied):
            return bound
        await self._bind_service(connection)
        entry = await ldapuser.find_entry(connection, self.settings, name)
        if isinstance(entry, Denied):
            return entry
        if not ldapnames.same(bind_name, entry.dn):
            # alice@domain may be the user principal name of one and alice the account of another
            if isinstance(await self._bind_user(connection, entry.dn, password), Denied):
                return Denied(Step.PASSWORD, f"{bind_name} has this password, and {entry.dn}, which is found, has not")
            await self._bind_service(connection)
        return self._result(name, await ldapuser.with_groups(connection, self.settings, entry, name), bound)

    def _result(self, name: str, found: User | Denied, policy: Policy) -> Outcome:
        if isinstance(found, Denied):
            return found
        if self.settings.active_directory and (texts := found.entry.texts(ldapuser.EXPIRY)):
            policy = Policy(ldappolicy.ad_expiry(texts[0], self._clock.now()))
        notes = ldappolicy.expiry_note(policy, self.settings.expiry_warning)
        return ldapuser.shown(self.settings, name, found, notes)

    def _bind_name(self, name: str) -> str:
        text = self.settings.bind_name or ""
        value = ldapnames.escape(name) if ldapnames.looks_like_dn(text) else name
        return fill(split(text, USER_PLACES), {"userid": value})

    async def _bind_user(self, connection: LdapConnection, dn: str, password: Secret) -> Policy | Denied:
        """What the directory says about the password beside that it is right; or why it was refused.

        Raises:
            LdapError: the server refuses to try, whoever it is.
            OutboundError: it cannot be talked to any more.
        """
        try:
            bound = await connection.bind(dn, password, policy=True)
        except LdapError as error:
            return ldappolicy.bind_denial(error)
        return ldappolicy.must_change(bound.controls) or ldappolicy.policy_of(bound.controls)

    async def _bind_to_change(self, connection: LdapConnection, dn: str, old: Secret) -> Denied | None:
        """Bind as the user, who may have to change the password before anything else; why it was refused.

        Raises as :meth:`_bind_user`.
        """
        try:
            bound = await connection.bind(dn, old, policy=True)
        except LdapError as error:
            return ldappolicy.bind_denial(error)
        # what is then permitted is RFC 3062's operation, and not a change of unicodePwd
        return ldappolicy.must_change(bound.controls) if self.settings.active_directory else None

    async def _bind_service(self, connection: LdapConnection) -> None:
        """As the service account, where there is one.

        Raises:
            OutboundError: it is not let in: that says nothing of anybody else, and another server may let it in.
        """
        name, reference = self.settings.service_name, self.settings.service_password
        if name is None or reference is None:
            return
        try:
            await connection.bind(name, reference.read())
        except LdapError as error:
            text = f"the service account {name!r}: {error}"
            raise OutboundError(Trouble.BIND, str(connection.server), text) from error

    async def _change_password(self, connection: LdapConnection, name: str, old: Secret, new: Secret) -> Denied | None:
        by_search = self.settings.bind_name is None or self.can_look_up
        dn = self._bind_name(name)
        if by_search:
            await self._bind_service(connection)
            found = await ldapuser.find(connection, self.settings, name)
            if isinstance(found, Denied):
                return found
            dn = found.entry.dn
        denied = await self._bind_to_change(connection, dn, old)
        expired = denied is not None and denied.step is Step.EXPIRED
        if denied is not None:
            if not expired or not self.can_look_up:
                return denied
            await self._bind_service(connection)
        elif not by_search and not ldapnames.looks_like_dn(dn):
            # user@domain is a name to bind with; what is changed is an entry, which its owner may find
            found = await ldapuser.find(connection, self.settings, name)
            if isinstance(found, Denied):
                return found
            dn = found.entry.dn
        try:
            await self._write_password(connection, dn, None if expired else old, new)
        except LdapError as error:
            return ldappolicy.change_denial(error)
        return None

    async def _write_password(self, connection: LdapConnection, dn: str, old: Secret | None, new: Secret) -> None:
        if not self.settings.active_directory:
            await connection.change_password(dn, old, new)
            return
        # [MS-ADTS] 3.1.1.3.1.5: delete and add is the user's change, replace the administrator's reset
        if old is None:
            changes: tuple[Change, ...] = (Change(ChangeKind.REPLACE, "unicodePwd", (unicode_password(new),)),)
        else:
            changes = (
                Change(ChangeKind.DELETE, "unicodePwd", (unicode_password(old),)),
                Change(ChangeKind.ADD, "unicodePwd", (unicode_password(new),)),
            )
        await connection.modify(dn, changes)

    async def _check_one(self, connection: LdapConnection, name: str | None, password: Secret | None) -> Finding:
        server = str(connection.server)
        await self._bind_service(connection)
        if name is None and not self.can_look_up:
            return Finding(Step.FINE, server, "connected")
        unbound = not self.can_look_up and password is None
        try:
            if name is None:
                await ldapuser.find_entry(connection, self.settings, _NO_USER)
                await ldapuser.groups_of(connection, self.settings, Entry(NOBODY), _NO_USER)
                return Finding(Step.FINE, server, f"bound as {self.settings.service_name}")
            if password is not None:
                outcome = credential_problem(name, password) or await self._authenticate(connection, name, password)
            else:
                found = await ldapuser.find(connection, self.settings, name)
                outcome = found if isinstance(found, Denied) else ldapuser.shown(self.settings, name, found)
        except LdapError as error:
            if not unbound:
                return Finding(Step.ANSWER, server, f"the directory refuses to be asked: {error}")
            return Finding(Step.BIND, server, f"{_UNBOUND}: {error}")
        except OutboundError as error:
            if not unbound or error.trouble is not Trouble.ANSWER:
                raise
            return Finding(Step.BIND, server, f"{_UNBOUND}: {error.text}")
        if unbound and isinstance(outcome, Denied) and outcome.step is Step.USER:
            text = f"{outcome.text}, as far as is shown without a service account: give the user's password too"
            return Finding(Step.USER, server, text)
        return outcome_finding(server, outcome)

    def _unavailable(self, error: Exception) -> Unavailable:
        return Unavailable(f"connector {self.name}: {error}", retry_after=30)


def unicode_password(password: Secret) -> bytes:
    """A password as ``unicodePwd`` takes it ([MS-ADTS] 3.1.1.3.1.5): quoted, UTF-16 little endian."""
    return f'"{password.reveal_text()}"'.encode("utf-16-le")
