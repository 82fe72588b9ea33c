"""One room per protocol; nothing here knows another protocol's room, but for ``web`` and ``cms``."""
