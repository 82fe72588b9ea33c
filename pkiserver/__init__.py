"""The engine: what is true whatever the protocol."""
