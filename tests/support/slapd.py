"""An OpenLDAP server of the test's own: on loopback, in a folder that is thrown away."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port

INSTALL = "slapd or its tools are missing; install them with: apt-get install -y slapd ldap-utils"
SUFFIX = "dc=example,dc=org"
ADMIN = f"cn=admin,{SUFFIX}"
ADMIN_PASSWORD = "admin secret"
USER_PASSWORD = "correct horse battery"


class Slapd:
    """A started server with people, groups in groups, and a password policy.

    ``tls``: certificate, key (PEM files); ``public``: whether everybody may read it; ``rules``: lines of its
    configuration about who may have how much, before those that are there anyway.
    """

    def __init__(self, tls: tuple[Path, Path] | None = None, *, public: bool = False, rules: str = "") -> None:
        if not (program := shutil.which("slapd")) or not shutil.which("ldapadd"):
            pytest.fail(INSTALL)
        self.folder = Path(tempfile.mkdtemp(prefix="pkiserver-slapd-"))
        (self.folder / "data").mkdir()
        self.port, self.tls_port = free_port(), free_port()
        config = self.folder / "slapd.conf"
        certificates = f"TLSCertificateFile {tls[0]}\nTLSCertificateKeyFile {tls[1]}\n" if tls else ""
        others = "read" if public else "none"
        config.write_text(_CONFIG.format(folder=self.folder, tls=certificates, others=others, rules=rules))
        urls = f"ldap://127.0.0.1:{self.port}/" + (f" ldaps://127.0.0.1:{self.tls_port}/" if tls else "")
        self._command = [program, "-h", urls, "-f", str(config), "-d", "0"]
        self.start()
        self.load(_PEOPLE)

    def start(self) -> None:
        """Begin to answer, or again after :meth:`stop`, with everything that was there."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        self._wait()

    def stop(self) -> None:
        """Be away: nobody listens."""
        self.process.terminate()
        self.process.wait()

    @property
    def url(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    def load(self, ldif: str) -> None:
        """Add or change entries as the administrator."""
        self._tool("ldapmodify", "-a", text=ldif)

    def search(self, dn: str, *attributes: str) -> str:
        """What ldapsearch shows of one entry."""
        return self._tool("ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-s", "base", "-b", dn, *attributes)

    def discard(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tool(self, program: str, *arguments: str, text: str = "") -> str:
        command = [program, "-x", "-H", self.url, "-D", ADMIN, "-w", ADMIN_PASSWORD, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _wait(self) -> None:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return
        raise AssertionError("slapd does not answer")


_CONFIG = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.2.840.113556.1.4.867 NAME 'altSecurityIdentities' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.2.840.113556.1.4.90 NAME 'unicodePwd' EQUALITY octetStringMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.1996 NAME 'msDS-UserPasswordExpiryTimeComputed' EQUALITY integerMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.99999.1.1 NAME 'testMapped' SUP top AUXILIARY MAY ( altSecurityIdentities ) )
objectclass ( 1.3.6.1.4.1.99999.1.2 NAME 'testWindows' SUP top AUXILIARY
  MAY ( unicodePwd $ msDS-UserPasswordExpiryTimeComputed ) )
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
pidfile {folder}/pid
{tls}
access to attrs=userPassword by self write by anonymous auth by * none
access to attrs=unicodePwd by self write by * none
access to * by users read by * {others}
database mdb
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw "admin secret"
directory {folder}/data
{rules}
overlay ppolicy
ppolicy_default "cn=policy,dc=example,dc=org"
"""
_PEOPLE = f"""
dn: {SUFFIX}
objectClass: domain
dc: example

dn: cn=policy,{SUFFIX}
objectClass: device
objectClass: pwdPolicy
cn: policy
pwdAttribute: userPassword
pwdMaxAge: 820000
pwdMustChange: TRUE
pwdExpireWarning: 900000

dn: ou=people,{SUFFIX}
objectClass: organizationalUnit
ou: people

dn: ou=groups,{SUFFIX}
objectClass: organizationalUnit
ou: groups

dn: cn=pki,{SUFFIX}
objectClass: inetOrgPerson
cn: pki
sn: service
userPassword: service secret

dn: uid=alice,ou=people,{SUFFIX}
objectClass: inetOrgPerson
objectClass: testMapped
uid: alice
cn: Alice Example
sn: Example
mail: alice@example.org
mail: alice@elsewhere.example
userPassword: {USER_PASSWORD}

dn: uid=bob,ou=people,{SUFFIX}
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: Bob
userPassword: {USER_PASSWORD}

dn: uid=a*(b)\\5Cc,ou=people,{SUFFIX}
objectClass: inetOrgPerson
uid: a*(b)\\c
cn: Odd
sn: Odd
mail: odd@example.org
userPassword: {USER_PASSWORD}

dn: cn=engineers,ou=groups,{SUFFIX}
objectClass: groupOfNames
cn: engineers
member: uid=alice,ou=people,{SUFFIX}

dn: cn=staff,ou=groups,{SUFFIX}
objectClass: groupOfNames
cn: staff
member: cn=engineers,ou=groups,{SUFFIX}
member: cn=staff,ou=groups,{SUFFIX}
"""


@pytest.fixture
def slapd() -> Iterator[Slapd]:
    """One of a test's own."""
    server = Slapd()
    yield server
    server.discard()


@pytest.fixture(scope="module")
def directory() -> Iterator[Slapd]:
    """One for all tests of a file."""
    server = Slapd()
    yield server
    server.discard()
