"""The tamper-evident log: write, verify, export."""
