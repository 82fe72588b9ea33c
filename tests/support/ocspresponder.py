"""OpenSSL as an OCSP responder for CAs of the tests."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.x509 import ocsp

from tests.support.tlsfiles import TestCa


class OpensslResponder:
    """``openssl ocsp`` answers for CAs with a signer each, behind a server on loopback: its own listens everywhere."""

    def __init__(self, folder: Path, *pairs: tuple[TestCa, tuple[Path, Path]]) -> None:
        self.works = True
        self._lines = {}
        for ca, signer in pairs:
            index = folder / f"{signer[0].stem}.index"
            index.touch()
            command = ["openssl", "ocsp", "-index", str(index), "-CA", str(ca.file), "-nmin", "5"]
            self._lines[_key_hash(ca)] = (ca, index, [*command, "-rsigner", str(signer[0]), "-rkey", str(signer[1])])
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = outer.answer(body)
                self.send_response(200 if outer.works else 503)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, asked: bytes) -> bytes:
        _, _, command = self._lines[ocsp.load_der_ocsp_request(asked).issuer_key_hash]
        with tempfile.TemporaryDirectory() as place:
            question, said = Path(place, "request"), Path(place, "response")
            question.write_bytes(asked)
            both = ["-reqin", str(question), "-respout", str(said)]
            subprocess.run([*command, *both], check=True, capture_output=True)
            return said.read_bytes()

    def knows(self, *certificates: tuple[x509.Certificate, bool]) -> None:
        """These certificates, and whether each is revoked."""
        for ca, index, _ in self._lines.values():
            lines = (_index_line(*one) for one in certificates if one[0].issuer == ca.name)
            index.write_text("".join(lines))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _key_hash(ca: TestCa) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(ca.key.public_key()).digest


def _index_line(certificate: x509.Certificate, revoked: bool) -> str:
    end = f"{certificate.not_valid_after_utc:%y%m%d%H%M%SZ}"
    state = f"R\t{end}\t{certificate.not_valid_before_utc:%y%m%d%H%M%SZ}" if revoked else f"V\t{end}\t"
    return f"{state}\t{certificate.serial_number:040X}\tunknown\t/CN=x\n"
