"""What the rooms of the authority keep: CAs and their keys, templates, lists, status, and other CAs' lists."""
