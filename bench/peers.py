"""Other servers on the same machine: installed into an environment of their own where they are missing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("PKISERVER_BENCH_PEERS", Path(__file__).resolve().parents[1] / "build" / "bench-peers"))


class Missing(Exception):
    """The peer cannot be had here; the text says why."""


def python_with(package: str) -> Path:
    """The interpreter of an environment that holds ``package``; installs it on first use."""
    folder = CACHE / package
    python = folder / "bin" / "python"
    if not (folder / ".done").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
            subprocess.run([python, "-m", "pip", "install", "-q", package], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            raise Missing(error.stderr.decode(errors="replace")[-200:]) from error
        (folder / ".done").touch()
    return python


_DJANGO = """
import os, sys, time, json, datetime
folder, seconds = sys.argv[1], float(sys.argv[2])
os.environ["DJANGO_SETTINGS_MODULE"] = "peer_settings"
sys.path.insert(0, folder)
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from django_ca.models import CertificateAuthority, Certificate
call_command("init_ca", "peer", "CN=peer", "--key-type=EC", "--elliptic-curve=secp256r1",
             "--path=ca")
ca = CertificateAuthority.objects.first()
options = ca.key_backend.get_use_private_key_options(ca, {})
csrs = []
for number in range(int(seconds * 1500)):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"n{number}.example")])
    csrs.append(x509.CertificateSigningRequestBuilder().subject_name(name).sign(
        ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()))
until = time.monotonic() + seconds
started = time.monotonic()
done = 0
for csr in csrs:
    if time.monotonic() > until:
        break
    Certificate.objects.create_cert(ca, options, csr, subject=csr.subject)
    done += 1
print(json.dumps(done / (time.monotonic() - started)))
"""

_DJANGO_OCSP = """
import os, sys, time, json
folder, seconds = sys.argv[1], float(sys.argv[2])
os.environ["DJANGO_SETTINGS_MODULE"] = "peer_settings"
sys.path.insert(0, folder)
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from django.test import RequestFactory
from django_ca.models import CertificateAuthority, Certificate
from django_ca.views import GenericOCSPView
call_command("init_ca", "peer", "CN=peer", "--key-type=EC", "--elliptic-curve=secp256r1", "--path=ca")
ca = CertificateAuthority.objects.first()
options = ca.key_backend.get_use_private_key_options(ca, {})
ca.generate_ocsp_key(options)
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "n.example")])
csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(
    ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
made = Certificate.objects.create_cert(ca, options, csr, subject=csr.subject)
bodies = [
    ocsp.OCSPRequestBuilder().add_certificate(made.pub.loaded, ca.pub.loaded, hashes.SHA1())
    .add_extension(x509.OCSPNonce(os.urandom(32)), critical=False).build().public_bytes(Encoding.DER)
    for _ in range(2000)
]
view, factory, done = GenericOCSPView.as_view(), RequestFactory(), 0
started = time.monotonic()
while time.monotonic() < started + seconds:
    request = factory.post("/", bodies[done % len(bodies)], content_type="application/ocsp-request")
    answer = view(request, serial=ca.serial)
    assert len(answer.content) > 300, answer.content
    done += 1
print(json.dumps(done / (time.monotonic() - started)))
"""

_SETTINGS = """
SECRET_KEY = "bench"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "%(folder)s/db.sqlite3"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_ca"]
USE_TZ = True
CA_DEFAULT_HOSTNAME = "localhost:8000"
CA_USE_CELERY = False
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "django-ca": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": "%(folder)s"}},
}
ROOT_URLCONF = "peer_urls"
"""


_URLS = """
from django.urls import include, path
urlpatterns = [path("django_ca/", include("django_ca.urls"))]
"""


def django_ca(seconds: float) -> Callable[[], float]:
    """django-ca's ``create_cert`` in process: SQLite, P-256 software key."""
    return _django(_DJANGO, seconds)


def django_ca_ocsp(seconds: float) -> Callable[[], float]:
    """django-ca's OCSP view in process, without HTTP: SQLite, P-256 software key, a fresh nonce each."""
    return _django(_DJANGO_OCSP, seconds)


def _django(program: str, seconds: float) -> Callable[[], float]:
    python = python_with("django-ca")

    def once() -> float:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "peer_settings.py").write_text(_SETTINGS % {"folder": folder})
            Path(folder, "peer_urls.py").write_text(_URLS)
            script = Path(folder, "peer.py")
            script.write_text(program)
            done = subprocess.run([python, script, folder, str(seconds)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise Missing(done.stderr[-400:])
            return float(done.stdout.strip().splitlines()[-1])

    once()  # a first run shows whether it works at all
    return once


_OPENSSL_CONFIG = """
[ca]
default_ca = d
[d]
database = index.txt
new_certs_dir = new
certificate = ca.pem
private_key = ca.key
rand_serial = yes
default_md = sha256
default_days = 90
policy = p
[p]
commonName = supplied
"""


def openssl_ca(seconds: float) -> Callable[[], float]:
    """``openssl ca`` in a loop: one process for each certificate, P-256."""

    def once() -> float:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "new").mkdir()
            (folder / "index.txt").touch()
            (folder / "ca.cnf").write_text(_OPENSSL_CONFIG)
            key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            _openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
            done = 0
            _openssl(folder, "req", "-new", *key, "-keyout", "k.key", "-out", "r.csr", "-subj", "/CN=n")
            started = time.monotonic()
            while time.monotonic() < started + seconds:
                subject = ["-subj", f"/CN=n{done}"]
                _openssl(folder, "ca", "-batch", "-notext", "-config", "ca.cnf", "-in", "r.csr", *subject)
                done += 1
            return done / (time.monotonic() - started)

    return once


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(done.stderr[-400:])
