"""Time-stamping units (RFC 3161): what they are, their keys and certificates, whether the time may be told, serials."""
