"""Exact mail look-ups in the address book over kept LDAP connections, beside slapd (mdb, indexed)."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import create_engine, insert

from bench.ldapload import ADDRESS, BASE
from bench.report import Report
from bench.support import free_port, listening, running, set_up
from pkiserver.cli.setup.layout import Layout
from pkiserver.store.schema.certificates import certificate, certificate_san
from pkiserver.store.times import to_micros

PEOPLE = int(os.environ.get("PKISERVER_BENCH_PEOPLE", "100000"))
SLAPD = "/usr/sbin/slapd"
SERIAL = 0x5A5A5A5A5A5A5A5A0000000000000000
_RATES = """
[ldap.anonymous]
searches_per_minute = 100000000
results_per_hour = 1000000000
"""


def pattern() -> bytes:
    """A P-256 certificate of person 0; the others' differ from it in serial and address only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Person 0000000")])
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    builder = x509.CertificateBuilder(name, name, key.public_key(), SERIAL, now, now + dt.timedelta(days=365))
    usage = x509.KeyUsage(True, False, False, False, True, False, False, False, False)
    purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
    names = x509.SubjectAlternativeName([x509.RFC822Name(ADDRESS % 0)])
    for extension, critical in ((usage, True), (purpose, False), (names, False)):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def people() -> Iterator[tuple[int, bytes, bytes]]:
    """Number, serial and certificate of everybody."""
    first = pattern()
    serial = SERIAL.to_bytes(16, "big")
    at = first.index(serial)
    mail = first.index((ADDRESS % 0).encode())
    name = first.rindex(b"Person 0000000")
    for number in range(PEOPLE):
        own = bytearray(first)
        own_serial = serial[:8] + number.to_bytes(8, "big")
        own[at : at + 16] = own_serial
        own[mail : mail + len(ADDRESS % 0)] = (ADDRESS % number).encode()
        own[name : name + 14] = b"Person %07d" % number
        yield number, own_serial, bytes(own)


def fill(layout: Layout) -> None:
    """Everybody into the instance's database, as if issued."""
    engine = create_engine(f"sqlite:///{layout.database}")
    now = dt.datetime.now(dt.UTC)
    start, end = to_micros(now), to_micros(now + dt.timedelta(days=365))
    rows, names = [], []
    with engine.begin() as connection:
        for number, serial, der in people():
            mail = ADDRESS % number
            rows.append(
                {
                    "id": 10_000 + number, "issuer_id": 1, "generation_id": 1, "serial": serial, "state": "issued",
                    "der": der, "subject": f"CN=Person {number:07}", "subject_key": f"cn=person {number:07}",
                    "sans": f'[["email", "{mail}"]]', "not_before": start, "not_after": end, "template": "smime",
                    "requester": "bench", "protocol": "cli", "request_id": "", "settled": start, "created": start,
                    "fingerprint": hashlib.sha256(der).digest(), "spki_sha256": serial * 2,
                }
            )  # fmt: skip
            names.append({"kind": "email", "value": mail, "certificate_id": 10_000 + number})
            if len(rows) == 5000:
                connection.execute(insert(certificate), rows)
                connection.execute(insert(certificate_san), names)
                rows, names = [], []
        if rows:
            connection.execute(insert(certificate), rows)
            connection.execute(insert(certificate_san), names)
    engine.dispose()


@contextlib.contextmanager
def slapd() -> Iterator[int]:
    """OpenLDAP with the same people, mail indexed."""
    folder = Path(tempfile.mkdtemp(prefix="slapd-bench-"))
    (folder / "db").mkdir()
    schemas = "".join(f"include /etc/ldap/schema/{name}.schema\n" for name in ("core", "cosine", "inetorgperson"))
    (folder / "slapd.conf").write_text(
        f"{schemas}modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {folder}/pid\ndatabase mdb\n"
        f"suffix {BASE}\ndirectory {folder}/db\nmaxsize 8589934592\nindex objectClass,mail eq\n"
    )
    with (folder / "data.ldif").open("w") as ldif:
        ldif.write(f"dn: {BASE}\nobjectClass: organization\no: pkiserver\n\n")
        ldif.write(f"dn: ou=People,{BASE}\nobjectClass: organizationalUnit\nou: People\n\n")
        for number, _, der in people():
            mail = ADDRESS % number
            ldif.write(
                f"dn: uid={mail},ou=People,{BASE}\nobjectClass: inetOrgPerson\nuid: {mail}\nmail: {mail}\n"
                f"cn: Person {number:07}\nsn: {number:07}\n"
                f"userCertificate;binary:: {base64.b64encode(der).decode()}\n\n"
            )
    conf = str(folder / "slapd.conf")
    subprocess.run(["slapadd", "-q", "-f", conf, "-l", str(folder / "data.ldif")], check=True, capture_output=True)
    port = free_port()
    try:
        with listening([SLAPD, "-d", "0", "-f", conf, "-h", f"ldap://127.0.0.1:{port}"], port):
            yield port
    finally:
        shutil.rmtree(folder)


def load(port: int, connections: int, seconds: float, *more: str) -> float:
    """One run of the load generator, on the other core where there are two."""
    command = [sys.executable, "-m", "bench.ldapload", str(port), str(PEOPLE), str(connections), str(seconds), *more]
    if len(os.sched_getaffinity(0)) > 1 and shutil.which("taskset"):
        command = ["taskset", "-c", "1", *command]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def resident(pid: int) -> float:
    """MiB of memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def _server_pid(layout: Layout) -> int:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(layout.config) in (entry / "cmdline").read_bytes().decode(errors="replace"):
                return int(entry.name)
    raise RuntimeError("the server's process is not to be seen")


def run(seconds: float) -> Report:
    """Measure."""
    report = Report()
    with set_up() as layout:
        layout.config.write_text(layout.config.read_text() + _RATES)
        begun = time.perf_counter()
        with running(layout):
            empty = time.perf_counter() - begun
        fill(layout)
        begun = time.perf_counter()
        with running(layout):
            full = time.perf_counter() - begun
            report.notes.append(f"ready after {empty:.1f} s with nobody, {full:.1f} s with {PEOPLE:,} people")
            pid = _server_pid(layout)
            report.measure(
                "ldap_search_cold_per_s", "1/s", lambda: load(layout.ldap_port, 1, min(seconds, 2.0)), runs=1
            )
            load(layout.ldap_port, 1, 0, "--warm")
            report.measure("ldap_search_per_s", "1/s", lambda: load(layout.ldap_port, 1, seconds))
            report.measure("ldap_search_4_connections_per_s", "1/s", lambda: load(layout.ldap_port, 4, seconds))
            report.measure("ldap_memory", "MiB", lambda: resident(pid), runs=1)
    if not Path(SLAPD).exists():
        report.missing["slapd"] = "not installed"
        return report
    with slapd() as port:
        report.measure("slapd_search_per_s", "1/s", lambda: load(port, 1, seconds))
        report.measure("slapd_search_4_connections_per_s", "1/s", lambda: load(port, 4, seconds))
    report.compare("slapd, one connection", "ldap_search_per_s", "slapd_search_per_s")
    report.compare("slapd, four connections", "ldap_search_4_connections_per_s", "slapd_search_4_connections_per_s")
    return report
