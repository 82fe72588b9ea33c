"""Certificates of one shape as one document of pkilint, with holes for what differs between them.

The certificates of a template, an issuer and a kind of key differ in few places: serial number, validity, subject, the
key's octets, the values of some extensions, the signature. A shape is everything else, octet for octet, and which
places they are. For a shape that was met often enough there is one tree of nodes that stays; in it, those places are
holes (:class:`Hole`), which are filled anew for each certificate.

A validator keeps nothing itself and reads the tree from its node or from the document. What does not lie under a hole
is the same for each certificate of the shape, so a validator that read nothing else reads and finds the same in each
of them. A hole can be seen in its own value and children, in the value of a node above it (:class:`Value`), and in the
document's octets, also by the document's properties (which in :class:`_Document` remember nothing, and so read again,
in sight). All of these take note in :class:`Watch`. Only validators that were seen to look there run for every
certificate, in pkilint's order; what the others find is found once. A node that a validator adds is made of what it is
added to, and stays with that: below a hole it goes with the hole's filling.
"""

from __future__ import annotations

from functools import cached_property, partial
from itertools import pairwise
from typing import Any

from pkilint.document import PDUNode, decode_der
from pkilint.pkix.certificate import RFC5280Certificate
from pyasn1.error import PyAsn1Error
from pyasn1_alt_modules import rfc5280

from pkiserver.authority.checks.lintpieces import LARGEST, Shelf, Value, Watch, take_apart
from pkiserver.foundation import der

MET = 32
"""As often as this a shape must be met to be kept: keeping it costs as much as linting four certificates by pieces."""
SHAPES = 32 * 1024
FILLINGS = 64 * 1024
"""Octets of the shapes and of the fillings of holes that are kept. Decoded, they take up to 500 times as much."""
_COUNTED = 4096
_MOST_EXTENSIONS = 100

_OF_THE_SUBJECT = {
    bytes.fromhex("0603551d0e"),  # subjectKeyIdentifier
    bytes.fromhex("0603551d11"),  # subjectAltName
    bytes.fromhex("06092b0601040182371902"),  # Microsoft's security identifier (SID)
}
"""Object identifiers (DER) of the extensions whose values differ from subject to subject."""


class Filling:
    """What is in a hole: its value, decoded when somebody looks, and the nodes below.

    ``steps`` and ``again`` are a :class:`~pkiserver.authority.checks.lintpieces.Piece`'s, of one that may come again.
    """

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.pdu: Any = None
        self.below: dict[str, PDUNode] = {}
        self.steps: dict[object, list[Any]] = {}
        self.again = False

    def take_apart(self) -> None:
        """Free the nodes below."""
        for node in self.below.values():
            take_apart(node)
        self.below = {}


class Hole(PDUNode):  # type: ignore[misc]  # pkilint is untyped
    """The node of a place where certificates of one shape differ; who looks at its content is noted.

    A hole with a ``shelf`` may have a filling that was there before: a subject comes again, a serial number does not.
    """

    def __init__(self, node: PDUNode, spec: Any, shelf: Shelf[Filling] | None, watch: Watch) -> None:
        # not PDUNode's own, which makes the children from a decoded value
        self.document = node.document
        self.name = node.name
        self.parent = node.parent
        self.path: str = node.path
        self.kind = type(node.pdu)
        self.filling = Filling(b"")
        self._spec = spec
        self._shelf = shelf
        self._kept = False
        self._watch = watch

    @property
    def pdu(self) -> Any:
        """The value."""
        if self._watch.inside is not self:
            self._watch.outside = True
        filling = self.filling
        if filling.pdu is None:
            filling.pdu = decode_der(filling.octets, asn1Spec=self._spec)[0]
        return filling.pdu

    @property
    def children(self) -> dict[str, PDUNode]:
        """The nodes below, which stay with the filling."""
        if self._watch.inside is not self:
            self._watch.outside = True
        return self.filling.below

    def fill(self, octets: bytes) -> None:
        """Put in another certificate's octets; raises ``ValueError`` or ``PyAsn1Error`` when they cannot be decoded."""
        if not self._kept and self.filling.below:
            self.filling.take_apart()
        if self._shelf is None:
            self.filling = Filling(octets)
            return
        key = (self, octets)
        found = self._shelf.take(key)
        if found is None:
            self.filling = found = Filling(octets)
            found.below = self._generate_child_nodes()
        else:
            self.filling = found
            found.again = True
        self._kept = len(octets) <= LARGEST
        if self._kept:
            self._shelf.put(key, found)


class _Document(RFC5280Certificate):  # type: ignore[misc]
    """The document of whichever certificate of a shape is being linted; it remembers nothing of them."""

    def __init__(self, octets: bytes, watch: Watch) -> None:
        self.watch = watch
        super().__init__(None, octets, "certificate")

    @property
    def substrate(self) -> bytes:
        """The certificate."""
        self.watch.outside = True
        return self._octets

    @substrate.setter
    def substrate(self, octets: bytes) -> None:
        self._octets = octets


for _name, _member in [pair for one in reversed(RFC5280Certificate.__mro__) for pair in vars(one).items()]:
    if isinstance(_member, cached_property):
        setattr(_Document, _name, property(_member.func))


class Shape:
    """The tree of a shape. ``steps`` is for the linter: what it has to do for each certificate, None at first."""

    def __init__(self, certificate: bytes, extensions: list[int], watch: Watch, shelf: Shelf[Filling]) -> None:
        self._document = _Document(certificate, watch)
        self._watch = watch
        self.root = self._document.decode()
        self.steps: list[Any] | None = None
        tbs, key, extension = rfc5280.TBSCertificate(), rfc5280.SubjectPublicKeyInfo(), rfc5280.Extension()
        self._holes = [
            self._dig(("tbsCertificate", "serialNumber"), tbs, None),
            self._dig(("tbsCertificate", "validity"), tbs, shelf),
            self._dig(("tbsCertificate", "subject"), tbs, shelf),
            self._dig(("tbsCertificate", "subjectPublicKeyInfo", "subjectPublicKey"), key, None),
            self._dig(("signature",), rfc5280.Certificate(), None),
        ]
        for number in extensions:
            place = ("tbsCertificate", "extensions", str(number))
            identifier = self.root.navigate(".".join((*place, "extnID"))).pdu
            again = None if identifier == rfc5280.id_ce_subjectKeyIdentifier else shelf
            self._holes.append(self._dig((*place, "extnValue"), extension, again))

    def fill(self, certificate: bytes, octets: list[bytes]) -> None:
        """Let the tree be another certificate's; raises as :meth:`Hole.fill`, and then it is nobody's."""
        self._document.substrate = certificate
        for hole, content in zip(self._holes, octets, strict=True):
            hole.fill(content)

    def take_apart(self) -> None:
        """Free the nodes; nothing can be done with this any more."""
        take_apart(self.root)
        vars(self).clear()  # its nodes' values lead back here

    def _dig(self, path: tuple[str, ...], schema: Any, shelf: Shelf[Filling] | None) -> Hole:
        """A hole instead of the node at this path; ``schema`` is that of the structure it is in."""
        node = self.root
        for depth, name in enumerate(path):
            if not isinstance(node.pdu, Value):
                node.pdu = Value(type(node.pdu), partial(self._decoded, path[:depth]))
            parent, node = node, node.children[name]
        fields = schema.componentType
        hole = Hole(node, fields[fields.getPositionByName(path[-1])].asn1Object, shelf, self._watch)
        take_apart(node)
        parent.children[path[-1]] = hole
        return hole

    def _decoded(self, path: tuple[str, ...]) -> Any:
        value = decode_der(self._document.substrate, asn1Spec=rfc5280.Certificate())[0]
        for name in path:
            value = value[int(name) if name.isdigit() else name]
        return value


class Shapes:
    """Knows the shapes that are met often."""

    def __init__(self) -> None:
        self.watch = Watch()
        self._met: dict[int, int] = {}
        self._shapes: Shelf[Shape] = Shelf(SHAPES)
        self._fillings: Shelf[Filling] = Shelf(FILLINGS)

    def put_together(self, certificate: bytes) -> Shape | None:
        """The certificate's shape with this certificate in it; None: it is not met often, or not of the usual layout.

        The shape is as it is until the next call.
        """
        self._shapes.let_go()
        self._fillings.let_go()
        try:
            constant, octets, extensions = _cut(certificate)
            if len(constant) > LARGEST:
                return None
            key = ("shape", constant)
            shape = self._shapes.take(key) or self._new(certificate, constant, extensions)
            if shape is not None:
                self._shapes.put(key, shape)
                shape.fill(certificate, octets)
        except (ValueError, PyAsn1Error):  # the whole certificate will tell what is wrong with it
            return None
        return shape

    def _new(self, certificate: bytes, constant: bytes, extensions: list[int]) -> Shape | None:
        number = hash(constant)  # of two with one number, the second is only kept sooner
        met = self._met.pop(number, 0) + 1
        if met >= MET:
            return Shape(certificate, extensions, self.watch, self._fillings)
        if len(self._met) >= _COUNTED:
            self._met.clear()
        self._met[number] = met
        return None


def _cut(data: bytes) -> tuple[bytes, list[bytes], list[int]]:
    """A certificate's constant octets, those of its holes, and the places of the extensions that have a hole.

    The constant octets are elements of which each tells its own end and, by its place and tag, what it is: two
    certificates with the same ones differ in nothing but their holes and the lengths of what is around them. A filling
    that is not decoded at once is one that can be.

    Raises:
        ValueError: not the layout of RFC 5280 section 4.1 with version and extensions, and without unique identifiers.
    """
    tbs, algorithm, signature, end = der.starts(data, der.whole(data).body, len(data), at_most=3)
    inner = der.element(data, tbs)
    fields = der.starts(data, inner.body, inner.end, at_most=8)
    version, serial, signed_with, _, validity, subject, key, tagged, _ = fields
    info = der.element(data, key)
    key_algorithm, public_key, key_end = der.starts(data, info.body, info.end, at_most=2)
    outer = der.element(data, tagged)
    listed = der.element(data, outer.body, outer.end)
    if (inner.tag, info.tag, outer.tag, listed.tag, listed.end) != (0x30, 0x30, 0xA3, 0x30, outer.end):
        raise der.NotDer("not a certificate's layout")
    _check_integer(data[serial:signed_with])
    _check_bits(data[public_key:key_end])
    _check_bits(data[signature:end])
    constant = [data[version:serial], data[signed_with:validity], data[key_algorithm:public_key]]
    octets = [
        data[serial:signed_with],
        data[validity:subject],
        data[subject:key],
        data[public_key:key_end],
        data[signature:end],
    ]
    numbers = _cut_extensions(data, listed, constant, octets)
    constant.append(data[algorithm:signature])
    return b"".join(constant), octets, numbers


def _cut_extensions(data: bytes, listed: der.Element, constant: list[bytes], octets: list[bytes]) -> list[int]:
    """Add what the extensions have that is constant, and what is not; of a hole's extension only the value is not."""
    numbers: list[int] = []
    starts = der.starts(data, listed.body, listed.end, at_most=_MOST_EXTENSIONS)
    for number, (start, stop) in enumerate(pairwise(starts)):
        if data[start] != der.SEQUENCE:
            raise der.NotDer("not an extension")
        body = start + 2 + (data[start + 1] & 0x7F if data[start + 1] & 0x80 else 0)
        if data[body : body + 2 + data[body + 1]] not in _OF_THE_SUBJECT:
            constant.append(data[start:stop])
            continue
        *_, value, _ = der.starts(data, body, stop, at_most=3)
        if value == body or data[value] != der.OCTET_STRING:
            raise der.NotDer("not an extension")
        numbers.append(number)
        constant.append(data[body:value])
        octets.append(data[value:stop])
    return numbers


def _check_integer(octets: bytes) -> None:
    _, length, *content = octets[:4]
    if octets[0] != der.INTEGER or not 1 <= length < 0x80:
        raise der.NotDer("not a usual serial number")
    if length > 1 and (content[0] == 0) == (content[1] < 0x80) and content[0] in (0, 0xFF):
        raise der.NotDer("not the shortest")


def _check_bits(octets: bytes) -> None:
    found = der.whole(octets, der.BIT_STRING)
    if found.end - found.body < 2 or octets[found.body] != 0:
        raise der.NotDer("not whole octets")
