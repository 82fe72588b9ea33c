"""What the address book shows: who is in it, which of their certificates, and how it is found."""
