"""Publishing outwards: the certificates that the address book shows, in the entries of directories elsewhere."""
