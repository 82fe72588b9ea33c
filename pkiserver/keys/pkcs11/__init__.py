"""Keys in PKCS#11 tokens, through python-pkcs11 (PKCS#11 v2.40 and v3.0)."""
