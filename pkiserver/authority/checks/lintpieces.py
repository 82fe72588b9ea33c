"""A certificate as pkilint's document, put together from pieces of which most have been seen before.

Nearly all octets of a template's certificates are the same: issuer, policies, URLs, usages. A piece is a field of the
TBSCertificate or one extension, known by its place and its octets. It is decoded once, and what validators found in it
is found again without running them, as long as they looked at nothing but that piece. What they looked at is observed
while they run for the first time: the way out of a piece leads over the document or over the nodes above the piece,
and both take note of it. A validator that took it runs anew for every certificate.

A certificate whose outer layout is not the one of RFC 5280 section 4.1 has no pieces; it is linted as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from pkilint.document import Document, PDUNode, decode_der
from pkilint.pkix.certificate import RFC5280Certificate
from pyasn1.error import PyAsn1Error
from pyasn1_alt_modules import rfc5280

from pkiserver.foundation import der

_VERSION_3 = b"\xa0\x03\x02\x01\x02"
_EXTENSIONS = 0xA3
_FIELDS = (
    ("version", 0xA0),
    ("serialNumber", 0x02),
    ("signature", 0x30),
    ("issuer", 0x30),
    ("validity", 0x30),
    ("subject", 0x30),
    ("subjectPublicKeyInfo", 0x30),
)
_MOST_EXTENSIONS = 100
LARGEST = 4096
"""Octets of the largest piece that is kept."""
NEW = 32 * 1024
PROVEN = 96 * 1024
"""Octets of the pieces that are kept after they were seen once, and more often: a serial number never comes again, an
issuer does. Decoded, a piece takes up to 220 times its octets."""
_plain = object.__getattribute__


class NotInPieces(Exception):
    """The certificate's outer layout is not the usual one."""


class Watch:
    """Whether somebody looked outside of what is under observation."""

    def __init__(self) -> None:
        self.outside = False
        self.inside: object = None
        """The one hole (:mod:`pkiserver.authority.checks.lintshapes`) into which a look is none outside."""


class _Watched(RFC5280Certificate):  # type: ignore[misc]  # pkilint is untyped
    """The document of whichever certificate is being linted; who asks it anything has looked outside."""

    def __getattribute__(self, name: str) -> Any:
        _plain(self, "__dict__")["watch"].outside = True
        return _plain(self, name)


class Value:
    """The value of a node above the pieces: its type is known, its content is decoded when somebody looks at it."""

    def __init__(self, kind: type, load: Callable[[], Any]) -> None:
        self.__dict__.update(_kind=kind, _load=load)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        kind: type = self.__dict__["_kind"]
        return kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_load"](), name)

    def __eq__(self, other: object) -> bool:
        return bool(self.__dict__["_load"]() == other)

    def __hash__(self) -> int:
        return hash(self.__dict__["_load"]())

    def __len__(self) -> int:
        return len(self.__dict__["_load"]())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__dict__["_load"]())

    def __getitem__(self, key: Any) -> Any:
        return self.__dict__["_load"]()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self.__dict__["_load"]()

    def __str__(self) -> str:
        return str(self.__dict__["_load"]())

    def __repr__(self) -> str:
        return repr(self.__dict__["_load"]())


class Above(PDUNode):  # type: ignore[misc]
    """A node above the pieces: the certificate, its TBSCertificate, its extensions."""

    def __init__(self, pieces: Pieces, name: str, kind: type, parent: Above | None, load: Callable[[], Any]) -> None:
        # not PDUNode's own, which makes the children from a decoded value
        self.document = pieces.document
        self.name = name
        self.parent = parent
        self.path: str = name if parent is None else f"{parent.path}.{name}"
        self.kind = kind
        self.pdu = Value(kind, load)
        self.below: dict[str, PDUNode] = {}
        self._watch = pieces.watch

    @property
    def children(self) -> dict[str, PDUNode]:
        """The nodes below; who asks looks outside of each piece."""
        self._watch.outside = True
        return self.below


class Piece:
    """The node of a piece and everything below it; ``steps`` holds what each container of validators found in it.

    ``again`` says that it has been met before: finding out what can be known of it is worth the time.
    """

    def __init__(self, node: PDUNode) -> None:
        self.node = node
        self.again = False
        self.steps: dict[object, list[Any]] = {}
        node.piece = self

    def take_apart(self) -> None:
        """Free the nodes."""
        take_apart(self.node)


class Pieces:
    """Makes documents. The last document is gone when the next is made."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.document: Document = _Watched.__new__(_Watched)
        _plain(self.document, "__dict__")["watch"] = self.watch
        self._fresh = vars(RFC5280Certificate(None, b"", "certificate"))
        self._decoded: Any = None
        self._new: Shelf[Piece] = Shelf(NEW)
        self._proven: Shelf[Piece] = Shelf(PROVEN)
        schema, tbs = rfc5280.Certificate(), rfc5280.TBSCertificate()
        self._root = Above(self, "certificate", rfc5280.Certificate, None, self._whole)
        self._tbs = Above(
            self, "tbsCertificate", rfc5280.TBSCertificate, self._root, lambda: self._whole()["tbsCertificate"]
        )
        self._extensions = Above(
            self, "extensions", rfc5280.Extensions, self._tbs, lambda: self._whole()["tbsCertificate"]["extensions"]
        )
        self._specs = {name: _spec(tbs, name) for name, _ in _FIELDS}
        self._outer_specs = {name: _spec(schema, name) for name in ("signatureAlgorithm", "signature")}
        self._extension_spec = rfc5280.Extension()

    def put_together(self, certificate: bytes) -> Above:
        """The document's root node.

        Raises:
            NotInPieces: lint it as a whole.
        """
        # the last certificate is done with: none of its pieces is needed any more
        self._new.let_go()
        self._proven.let_go()
        try:
            return self._put_together(certificate)
        except (der.NotDer, ValueError, PyAsn1Error) as error:
            raise NotInPieces from error

    def _put_together(self, certificate: bytes) -> Above:
        outer = der.element(certificate)
        if outer.tag != der.SEQUENCE:
            raise NotInPieces
        tbs, *rest = _inside(certificate, outer, (0x30, 0x30, 0x03), ends=len(certificate))
        fields = der.children(certificate, tbs)
        if len(fields) != 8 or fields[7].tag != _EXTENSIONS:
            raise NotInPieces
        (listed,) = _inside(certificate, fields[7], (0x30,), ends=tbs.end)
        extensions = der.children(certificate, listed)
        if not 1 <= len(extensions) <= _MOST_EXTENSIONS or _octets(certificate, fields[0]) != _VERSION_3:
            raise NotInPieces
        self._begin(certificate)
        below: dict[str, PDUNode] = {}
        for (name, tag), field in zip(_FIELDS, fields, strict=False):
            if field.tag != tag:
                raise NotInPieces
            below[name] = self._node(self._tbs, name, _octets(certificate, field), self._specs[name])
        below["extensions"] = self._extensions
        self._tbs.below = below
        self._extensions.below = {
            str(number): self._node(self._extensions, str(number), _octets(certificate, one), self._extension_spec)
            for number, one in enumerate(extensions)
        }
        self._root.below = {"tbsCertificate": self._tbs}
        for (name, spec), one in zip(self._outer_specs.items(), rest, strict=True):
            self._root.below[name] = self._node(self._root, name, _octets(certificate, one), spec)
        return self._root

    def _begin(self, certificate: bytes) -> None:
        """Let the document be this certificate's; what it remembered of the last one (its cached properties) goes."""
        remembered = _plain(self.document, "__dict__")
        remembered.clear()
        remembered.update(self._fresh, substrate=certificate, root=self._root, watch=self.watch)
        self._decoded = None

    def _whole(self) -> Any:
        self.watch.outside = True
        if self._decoded is None:
            self._decoded = decode_der(self.document.substrate, asn1Spec=rfc5280.Certificate())[0]
        return self._decoded

    def _node(self, parent: Above, name: str, octets: bytes, spec: Any) -> PDUNode:
        key = (parent.path + name, octets)
        found = self._proven.take(key) or self._new.take(key)
        if found is not None:
            found.again = True
            self._proven.put(key, found)
            return found.node
        decoded, _ = decode_der(octets, asn1Spec=spec)
        piece = Piece(PDUNode(self.document, name, decoded, parent))
        if len(octets) <= LARGEST:
            self._new.put(key, piece)
        return piece.node


class _Kept(Protocol):
    def take_apart(self) -> None:
        """Free its nodes."""


_T = TypeVar("_T", bound=_Kept)


class Shelf(Generic[_T]):
    """What is kept, by place and octets; what was asked for longest ago is first."""

    def __init__(self, most: int) -> None:
        self.pieces: dict[tuple[object, bytes], _T] = {}
        self.octets = 0
        self._most = most

    def put(self, key: tuple[object, bytes], piece: _T) -> None:
        """Add one."""
        self.pieces[key] = piece
        self.octets += len(key[1])

    def take(self, key: tuple[object, bytes]) -> _T | None:
        """That one, which is not here any more."""
        piece = self.pieces.pop(key, None)
        if piece is not None:
            self.octets -= len(key[1])
        return piece

    def let_go(self) -> None:
        """Forget the first ones while there is too much."""
        while self.octets > self._most:
            key = next(iter(self.pieces))
            self.pieces.pop(key).take_apart()
            self.octets -= len(key[1])


def take_apart(root: Any) -> None:
    """Undo the circles of parents and children, so that the nodes are freed where they stand."""
    todo = [root]
    while todo:
        node = todo.pop()
        todo.extend(node.children.values())
        node.children.clear()
        node.parent = node.document = node.piece = None


def _inside(data: bytes, outer: der.Element, tags: tuple[int, ...], *, ends: int) -> list[der.Element]:
    found = der.children(data, outer)
    if outer.end != ends or tuple(one.tag for one in found) != tags:
        raise NotInPieces
    return found


def _octets(data: bytes, element: der.Element) -> bytes:
    return data[element.start : element.end]


def _spec(schema: Any, name: str) -> Any:
    return schema.componentType[schema.componentType.getPositionByName(name)].asn1Object
