"""The signing core: keys in tokens and files, and the typed doors through which alone they are used."""
