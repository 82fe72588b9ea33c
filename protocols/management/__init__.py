"""The management API: REST for administrators with client certificates. See docs/protocols/management.md."""
