"""What a certificate's status is and how it is told: revocation lists, responders, the reader that answers."""
