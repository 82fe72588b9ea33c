"""A stand-in for an MDM's SCEP validation as Microsoft Intune has it: tokens, validateRequest, notifications."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from cryptography import x509

CLIENT_ID, CLIENT_SECRET = "the-ca", "what the ca knows"


class Mdm:
    """Knows challenges (challenge to the common name that it was given out for) and keeps what it is told."""

    def __init__(self, challenges: dict[str, str]) -> None:
        self.challenges = challenges
        self.tokens: set[str] = set()
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = outer.token(body) if self.path == "/token" else self.action(body)
                octets = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(octets)))
                self.end_headers()
                self.wfile.write(octets)

            def action(self, body: bytes) -> tuple[int, dict[str, Any]]:
                if self.headers["Authorization"].removeprefix("Bearer ") not in outer.tokens:
                    return 401, {}
                if outer.status != 200:
                    return outer.status, {}
                return 200, outer.act(self.path.rpartition("/")[2], json.loads(body)["request"])

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def token(self, body: bytes) -> tuple[int, dict[str, Any]]:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        if (form["client_id"], form["client_secret"]) != (CLIENT_ID, CLIENT_SECRET):
            return 400, {"error": "invalid_client"}
        self.tokens.add(f"token-{len(self.tokens)}")
        return 200, {"access_token": f"token-{len(self.tokens) - 1}", "expires_in": 3600}

    def act(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((action, request))
        if action != "validateRequest":
            return {"code": "Success"}
        csr = x509.load_der_x509_csr(base64.b64decode(request["certificateRequest"]))
        challenge = csr.attributes.get_attribute_for_oid(x509.oid.AttributeOID.CHALLENGE_PASSWORD).value.decode()
        [name] = csr.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        if challenge not in self.challenges:
            return {"code": "ChallengeDecryptionError", "errorDescription": "not ours"}
        if self.challenges[challenge] != name.value:
            return {"code": "SubjectNameMismatch", "errorDescription": "for somebody else"}
        return {"code": "Success", "errorDescription": ""}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
