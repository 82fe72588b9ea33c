"""Tell twistd that ``pkiserver`` is one of its services."""

from twisted.application.service import ServiceMaker

pkiserver = ServiceMaker(  # type: ignore[no-untyped-call]  # Twisted types it not
    "pkiserver",
    "pkiserver.runtime.services",
    "A certificate server: EST, OCSP, CRL and more over one signing core",
    "pkiserver",
)
