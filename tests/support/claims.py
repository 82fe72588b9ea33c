"""Claims that stand where something is spent on a certificate."""

from __future__ import annotations

import threading

from sqlalchemy import Connection


class Held:
    """Keeps the write which makes a certificate durable open until it is let go."""

    def __init__(self) -> None:
        self.taken, self.go, self.given_back = threading.Event(), threading.Event(), threading.Event()

    def take(self, _connection: Connection, _certificate_id: int) -> None:
        self.taken.set()
        self.go.wait(30)

    def give_back(self, _connection: Connection, _certificate_id: int) -> None:
        self.given_back.set()
