"""The HTTP edge that the HTTP protocols share."""
