"""What every certificate to be is looked at for: its key, its names against those of its issuers, and the linter."""
