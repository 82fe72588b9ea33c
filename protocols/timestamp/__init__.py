"""Time-stamping over HTTP (RFC 3161, RFC 5816), and the older Authenticode form of it."""
