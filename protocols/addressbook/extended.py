"""Names of the extended operations."""

from __future__ import annotations

START_TLS = "1.3.6.1.4.1.1466.20037"
"""RFC 4511 section 4.14."""
WHO_AM_I = "1.3.6.1.4.1.4203.1.11.3"
"""RFC 4532."""
CANCEL = "1.3.6.1.1.8"
"""RFC 3909."""
SUPPORTED_EXTENSIONS = (START_TLS, WHO_AM_I, CANCEL)
