"""Those whom an authority lets sign or open in its stead, with keys of their own: OCSP responders, RAs, packagers."""
