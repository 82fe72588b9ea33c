"""A web service that answers webhooks: Python's own HTTP server in a thread, with TLS and client certificates."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECRET = "both sides know this"


class Webhook:
    """Answers with what ``decide`` makes of the question; ``spoil`` may change (status, body, signature)."""

    def __init__(
        self,
        decide: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        tls: tuple[Path, Path] | None = None,
        clients: Path | None = None,
        spoil: Callable[[int, bytes, str], tuple[int, bytes, str]] = lambda *same: same,
    ) -> None:
        self.questions: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                expected = "v1=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
                assert self.headers["Pkiserver-Signature"] == expected
                question = json.loads(body)
                outer.questions.append(question)
                answer = json.dumps(decide(question)).encode()
                signed = question["id"].encode() + b"." + answer
                signature = "v1=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
                status, answer, signature = spoil(200, answer, signature)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Pkiserver-Signature", signature)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self.server.server_address[1]
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
