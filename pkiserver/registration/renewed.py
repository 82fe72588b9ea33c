"""The certificate that is renewed, as a claim: looked at again in the transaction that makes its successor durable."""

from __future__ import annotations

import attrs
from sqlalchemy import Connection

from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState


@attrs.frozen
class StillStanding:
    """That it may still be renewed.

    ``alone``: its successor takes its place, so that there is one, however many are asked for at the same moment.
    """

    certificate_id: int
    alone: bool = False

    def take(self, connection: Connection, certificate_id: int) -> None:
        """See that it is valid, and that nobody else's successor is being made.

        Raises:
            Rejected: it has been revoked or put on hold meanwhile.
            Unavailable: another is being made; whose that is gets it by asking again.
        """
        if self.alone and not certificates.reserve_successor(connection, self.certificate_id, certificate_id):
            text = "this certificate is being renewed at this moment: ask again"
            raise Unavailable(text, retry_after=1, public=True)
        if certificates.state_of(connection, self.certificate_id) is not CertificateState.ISSUED:
            raise Rejected.because(Refusal.REVOKED, "the certificate to be renewed is not valid any more")

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        """The successor did not come to be: another may."""
        if self.alone:
            certificates.forget_successor(connection, self.certificate_id, certificate_id)
