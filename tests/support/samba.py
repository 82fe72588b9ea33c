"""An Active Directory domain controller of the test run's own: Samba's, on a loopback address that is nobody else's.

The fixtures are known everywhere, through ``tests/conftest.py``, so that one domain does for the whole run; it is made
when the first test asks for it. Samba's LDAP ports are fixed (389, 636, 3268, 3269), hence the address.
"""

from __future__ import annotations

import base64
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tlsfiles import TestCa

INSTALL = (
    "Samba's domain controller is missing; install it with: "
    "apt-get install -y samba samba-ad-provision samba-dsdb-modules samba-vfs-modules ldb-tools ldap-utils"
)
PORTS = (389, 636, 3268, 3269)
SUFFIX = "DC=ad,DC=example,DC=org"
REALM = "ad.example.org"
PEOPLE = f"OU=People,{SUFFIX}"
GROUPS = f"OU=Groups,{SUFFIX}"
ADMIN_PASSWORD = "Administrators-Secret-1"
SERVICE_PASSWORD = "Services-Secret-1"
USER_PASSWORD = "Correct-Horse-1"
GUESSES = 12
"""So many wrong passwords lock an account."""


class DomainController:
    """A started domain controller with people, groups in groups, and password policies.

    ``ca`` issued its certificate, for ``address`` and for a name that is in no DNS.
    """

    def __init__(self) -> None:
        self.address = _own_address()
        self.folder = Path(tempfile.mkdtemp(prefix="pkiserver-samba-"))
        self.ca = TestCa(self.folder)
        certificate, key = self.ca.issue("dc1", hosts=(self.address, f"dc1.{REALM}"))
        self._config = self.folder / "smb.conf"
        self._config.write_text(
            _CONFIG.format(
                folder=self.folder, address=self.address, ca=self.ca.file, certificate=certificate, key=key, realm=REALM
            )
        )
        for name in ("lock", "run"):
            (self.folder / name).mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._provision()
            self.start()
            self._fill()
        except BaseException:
            self.discard()
            raise

    @property
    def ldaps(self) -> str:
        """The URL of the domain's directory."""
        return f"ldaps://{self.address}"

    @property
    def ldap(self) -> str:
        """The same without TLS, or for StartTLS."""
        return f"ldap://{self.address}"

    @property
    def catalog(self) -> str:
        """The URL of the Global Catalog."""
        return f"ldaps://{self.address}:3269"

    def start(self) -> None:
        """Begin to answer."""
        # the end of its standard input ends it too: it does not outlive a test run that is killed
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                ["samba", "-s", str(self._config), "-i", "--no-process-group", "-M", "single"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        for _ in range(600):
            try:
                for port in PORTS:
                    socket.create_connection((self.address, port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self.folder / "output").read_text(errors="replace")
                time.sleep(0.05)
            else:
                return
        raise AssertionError("samba does not answer: " + (self.folder / "output").read_text(errors="replace"))

    def load(self, ldif: str) -> None:
        """Add or change entries as the domain's administrator."""
        self._tool("ldapmodify", "-a", text=ldif)

    def modify(self, dn: str, *lines: str) -> None:
        """Change one entry: lines such as ``replace: mail`` and ``mail: a@b``."""
        self.load(f"dn: {dn}\nchangetype: modify\n" + "\n".join(lines) + "\n")

    def values(self, dn: str, attribute: str) -> set[bytes]:
        """An attribute's values, as ``ldapsearch`` shows them."""
        shown = self._tool("ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-s", "base", "-b", dn, attribute)
        found = re.findall(rf"^{re.escape(attribute)}(?:;[\w-]+)?:(:?) (.*)$", shown, re.MULTILINE | re.IGNORECASE)
        return {base64.b64decode(text) if coded else text.encode() for coded, text in found}

    def binds(self, name: str, password: str = USER_PASSWORD) -> bool:
        """Whether somebody may bind; a wrong password counts towards the account's lock."""
        command = ["ldapsearch", "-x", "-H", self.ldaps, "-D", name, "-w", password, "-s", "base", "-b", ""]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=self._trusting)
        assert done.returncode in {0, 49}, done.stderr
        return done.returncode == 0

    def let_expire(self, dn: str) -> None:
        """Make somebody's password as old as no policy allows, which only the database itself can be told."""
        # DSDB_CONTROL_BYPASS_PASSWORD_HASH_OID: over LDAP the attribute takes 0 and -1 only
        # fmt: off
        command = [
            "ldbmodify", "-H", str(self.folder / "private/sam.ldb"), f"--configfile={self._config}",
            "--controls=local_oid:1.3.6.1.4.1.7165.4.3.12:0",
        ]
        # fmt: on
        text = f"dn: {dn}\nchangetype: modify\nreplace: pwdLastSet\npwdLastSet: 131000000000000000\n"
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def person(self, name: str, *, password: str = USER_PASSWORD, control: int = 512, more: str = "") -> str:
        """Add somebody; returns the DN. ``control`` is userAccountControl."""
        dn = f"CN={name.title()},{PEOPLE}"
        self.load(_PERSON.format(dn=dn, name=name, realm=REALM, coded=coded(password), control=control, more=more))
        return dn

    def allow(self, dn: str, *rights: str) -> None:
        """Give the account ``pki`` rights to an entry: ACEs in SDDL, without the trustee."""
        (sid,) = self.values(f"CN=pki,CN=Users,{SUFFIX}", "objectSid")
        sddl = "".join(f"({one};{_sid_text(sid)})" for one in rights)
        database = str(self.folder / "private/sam.ldb")
        self._samba_tool("dsacl", "set", "-H", database, f"--objectdn={dn}", f"--sddl={sddl}")

    def discard(self) -> None:
        """End it and remove its files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _provision(self) -> None:
        # fmt: off
        self._samba_tool(
            "domain", "provision", "--quiet", f"--realm={REALM}", "--domain=EXAMPLE", "--server-role=dc",
            "--dns-backend=NONE", "--use-rfc2307", f"--adminpass={ADMIN_PASSWORD}", "--host-name=dc1",
            f"--host-ip={self.address}",
        )
        # fmt: on

    def _fill(self) -> None:
        self.load(
            _STRUCTURE.format(
                guesses=GUESSES, people=PEOPLE, groups=GROUPS, suffix=SUFFIX, coded=coded(SERVICE_PASSWORD)
            )
        )
        self.allow(PEOPLE, *_RIGHTS)
        for name, more in _PEOPLE.items():
            self.person(name, more=more)
        self.load(_GROUPS.format(people=PEOPLE, groups=GROUPS, suffix=SUFFIX))

    @property
    def _trusting(self) -> dict[str, str]:
        return {**os.environ, "LDAPTLS_CACERT": str(self.ca.file), "LDAPTLS_REQCERT": "demand"}

    def _samba_tool(self, *arguments: str) -> None:
        command = ["samba-tool", *arguments, "-s", str(self._config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _tool(self, program: str, *arguments: str, text: str = "") -> str:
        # fmt: off
        command = [program, "-x", "-H", self.ldaps, "-D", f"Administrator@{REALM}", "-w", ADMIN_PASSWORD, *arguments]
        # fmt: on
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=20, check=False, env=self._trusting
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def domain_controller() -> Iterator[DomainController]:
    """The domain of the whole run."""
    if not all(map(shutil.which, ("samba", "samba-tool", "ldbmodify", "ldapmodify"))):
        pytest.fail(INSTALL)
    controller = DomainController()
    yield controller
    controller.discard()


def coded(password: str) -> str:
    """A password as an LDIF value of ``unicodePwd``."""
    return base64.b64encode(f'"{password}"'.encode("utf-16-le")).decode()


def _own_address() -> str:
    """A loopback address on which Samba's four ports are free."""
    problem = ""
    for number in random.SystemRandom().sample(range(1, 255), 32):  # others may look at the same moment
        address = f"127.53.0.{number}"
        try:
            for port in PORTS:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((address, port))
        except PermissionError:
            pytest.fail("Samba's domain controller needs the ports 389 and 636, which only root may bind here")
        except OSError as error:
            problem = f"{address}: {error}"
        else:
            return address
    pytest.fail(f"the ports {PORTS} are taken on every address from 127.53.0.1 to 127.53.0.32; {problem}")


def _sid_text(sid: bytes) -> str:
    """[MS-DTYP] 2.4.2.1 and 2.4.2.2."""
    parts = struct.unpack(f"<{sid[1]}I", sid[8:])
    return "-".join(["S", str(sid[0]), str(int.from_bytes(sid[2:8], "big")), *map(str, parts)])


_CONFIG = """[global]
netbios name = DC1
realm = {realm}
workgroup = EXAMPLE
server role = active directory domain controller
server services = ldap
interfaces = {address}/8
bind interfaces only = yes
private dir = {folder}/private
state directory = {folder}/state
cache directory = {folder}/cache
lock directory = {folder}/lock
pid directory = {folder}/run
ncalrpc dir = {folder}/ncalrpc
ntp signd socket directory = {folder}/ntp
winbindd socket directory = {folder}/winbindd
binddns dir = {folder}/binddns
log file = {folder}/log
xattr_tdb:file = {folder}/xattr.tdb
vfs objects = dfs_samba4 acl_xattr xattr_tdb
idmap_ldb:use rfc2307 = yes
rpc start on demand helpers = no
ldap server require strong auth = yes
tls enabled = yes
tls cafile = {ca}
tls certfile = {certificate}
tls keyfile = {key}

[sysvol]
path = {folder}/state/sysvol
read only = no
[netlogon]
path = {folder}/state/sysvol/{realm}/scripts
read only = no
"""
# Rights as docs/registration.md tells to delegate them:
# write userCertificate and altSecurityIdentities of users, reset their passwords.
USER_CLASS = "bf967aba-0de6-11d0-a285-00aa003049e2"
_RIGHTS = (
    f"OA;CIIO;RPWP;bf967a7f-0de6-11d0-a285-00aa003049e2;{USER_CLASS}",
    f"OA;CIIO;RPWP;00fbf30c-91fe-11d1-aebc-0000f80367c1;{USER_CLASS}",
    f"OA;CIIO;CR;00299570-246d-11d0-a768-00aa006e0529;{USER_CLASS}",
)
_PERSON = """dn: {dn}
objectClass: user
sAMAccountName: {name}
userPrincipalName: {name}@{realm}
unicodePwd:: {coded}
userAccountControl: {control}
{more}
"""
_STRUCTURE = """dn: {suffix}
changetype: modify
replace: minPwdAge
minPwdAge: 0
-
replace: lockoutThreshold
lockoutThreshold: {guesses}

dn: {people}
changetype: add
objectClass: organizationalUnit

dn: {groups}
changetype: add
objectClass: organizationalUnit

dn: CN=pki,CN=Users,{suffix}
changetype: add
objectClass: user
sAMAccountName: pki
userPrincipalName: pki@ad.example.org
unicodePwd:: {coded}
userAccountControl: 66048
"""
_PEOPLE = {
    "alice": "mail: alice@example.org\notherMailbox: alice@elsewhere.example\ndisplayName: Alice Example",
    "bob": "displayName: Bob",
    "kim": "mail: kim@example.org",
}
_GROUPS = """dn: CN=Engineers,{groups}
objectClass: group
sAMAccountName: Engineers
groupType: -2147483646
member: CN=Alice,{people}

dn: CN=Staff,{groups}
objectClass: group
sAMAccountName: Staff
groupType: -2147483646
member: CN=Engineers,{groups}

dn: CN=Certificates,{groups}
objectClass: group
sAMAccountName: Certificates
groupType: -2147483640
member: CN=Staff,{groups}
"""
