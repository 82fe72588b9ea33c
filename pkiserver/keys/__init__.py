"""The signing core: key providers, algorithms and the typed doors through which a key may be used."""
