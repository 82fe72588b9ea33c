"""The ``pkiserver`` command."""
