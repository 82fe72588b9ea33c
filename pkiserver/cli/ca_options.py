"""Options that several ``pkiserver ca`` commands share, gathered into the values that the engine takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from pkiserver.cli.selectors import MOMENT

if TYPE_CHECKING:
    from cryptography import x509

    from pkiserver.authority.lifecycle.ceremonies import KeyChoice
    from pkiserver.authority.lifecycle.profile import CaProfile
    from pkiserver.runtime.engine import Engine

Command = Callable[..., Any]
NO_END = "none"


def parse_validity(text: str) -> timedelta:
    """A duration such as ``10y`` or ``90d``; raises :class:`click.BadParameter`."""
    from pkiserver.foundation.durations import parse_duration

    try:
        found = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not found:
        raise click.BadParameter(
            f"{text!r} is no time at all; without an end it is --validity none, for a new authority"
        )
    return found


def parse_subject(text: str) -> x509.Name:
    """A DN; raises :class:`click.BadParameter`."""
    from pkiserver.authority.lifecycle.profile import parse_name

    try:
        return parse_name(text)
    except ValueError as error:
        raise click.BadParameter(f"--subject {text!r}: {error}") from error


def _stack(function: Command, options: list[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        function = option(function)
    return function


def key_options(function: Command) -> Command:
    """``--key-name``, ``--key-type``, ``--key-store``, ``--key-uri``, ``--scep`` become ``key: KeyChoice``."""
    new_type = click.option("--key-type", default="ec-p256", show_default=True, help="The type of a new key.")
    return _key_options(function, new_type)


def next_key_options(function: Command) -> Command:
    """The same for a key that follows another; what is not said is for :func:`like` to fill in."""
    return _key_options(function, click.option("--key-type", help="The type of a new key; by default the last one's."))


def _key_options(function: Command, key_type_option: Callable[[Command], Command]) -> Command:
    @functools.wraps(function)
    def wrapper(
        *args: Any,
        key_name: str | None,
        key_type: str | None,
        key_store: str | None,
        key_uri: str | None,
        scep: bool,
        **others: Any,
    ) -> Any:
        from pkiserver.authority.lifecycle.ceremonies import CA_DOORS, SCEP_DOORS, KeyChoice
        from pkiserver.keys.algorithms import KeyType

        chosen = KeyChoice(
            name=key_name,
            key_type=None if key_type is None else KeyType.parse(key_type),
            store=key_store,
            uri=key_uri,
            doors=SCEP_DOORS if scep else CA_DOORS,
        )
        return function(*args, key=chosen, **others)

    return _stack(
        wrapper,
        [
            click.option("--key-name", metavar="KEY", help="The key's name; one that exists is used."),
            key_type_option,
            click.option("--key-store", metavar="STORE", help="Where a new key is made; by default the only store."),
            click.option("--key-uri", metavar="URI", help="Adopt a key from its place: pkcs11:... or file:..."),
            click.option(
                "--scep", is_flag=True, help="An RSA key that opens SCEP envelopes too (scep.ra = authority)."
            ),
        ],
    )


def with_store(engine: Engine, key: KeyChoice) -> KeyChoice:
    """The choice with the store filled in where there is only one."""
    import attrs

    stores = engine.keys.stores
    if key.store is None and len(stores) == 1:
        return attrs.evolve(key, store=stores[0])
    return key


def like(engine: Engine, authority: str, key: KeyChoice) -> KeyChoice:
    """The choice with type, store and use of the authority's present key where nothing else is said.

    Devices that know RSA alone must not find a key of another kind because nobody thought of it. Raises
    :class:`Rejected` where there is no such authority.
    """
    import attrs

    from pkiserver.authority.lifecycle.ceremonies import SCEP_DOORS
    from pkiserver.keys.algorithms import KeyFamily, KeyType
    from pkiserver.keys.doors import Door

    present = engine.authorities.get(authority).current.key_name
    known = None if present is None else next((one for one in engine.keys.list() if one.name == present), None)
    if known is None:
        return with_store(engine, attrs.evolve(key, key_type=key.key_type or KeyType.parse("ec-p256")))
    kind, store = key.key_type or known.key_type, key.store or known.provider
    opens = kind.family is KeyFamily.RSA and Door.OPEN in known.record.doors
    return with_store(engine, attrs.evolve(key, key_type=kind, store=store, doors=SCEP_DOORS if opens else key.doors))


def profile_options(function: Command) -> Command:
    """Everything a CA certificate says becomes ``profile: CaProfile``."""

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        names = (
            "validity",
            "not_after",
            "path_length",
            "permit",
            "exclude",
            "policy",
            "eku",
            "refuse_longer",
            "sign_other",
        )
        given = {name: options.pop(name) for name in names}
        return function(*args, profile=_profile(**given), **options)

    return _stack(
        wrapper,
        [
            click.option("--validity", default="10y", show_default=True, help="From now; none: no end (year 9999)."),
            click.option("--not-after", type=MOMENT, metavar="TIME", help="A fixed end instead."),
            click.option("--path-length", type=click.IntRange(0, 8), help="How many CAs may follow below."),
            click.option(
                "--permit", multiple=True, metavar="KIND:VALUE", help="Name constraint, for instance dns:a.ch."
            ),
            click.option("--exclude", multiple=True, metavar="KIND:VALUE", help="Excluded by name constraint."),
            click.option("--policy", multiple=True, metavar="'OID [CPS-URI]'", help="A certificate policy."),
            click.option("--eku", multiple=True, metavar="OID", help="Limit what certificates below may be for."),
            click.option("--refuse-longer", is_flag=True, help="Refuse, do not cut, a life beyond the issuer's."),
            click.option(
                "--sign-other/--no-sign-other",
                default=True,
                help="The digitalSignature bit: OCSP, CMP and SCEP answers.",
            ),
        ],
    )


def _profile(
    *,
    validity: str,
    not_after: datetime | None,
    path_length: int | None,
    permit: tuple[str, ...],
    exclude: tuple[str, ...],
    policy: tuple[str, ...],
    eku: tuple[str, ...],
    refuse_longer: bool,
    sign_other: bool,
) -> CaProfile:
    from pkiserver.authority.lifecycle.profile import CaProfile, Outlive

    return CaProfile(
        validity=None if validity == NO_END else parse_validity(validity),
        not_after=not_after,
        path_length=path_length,
        permitted=permit,
        excluded=exclude,
        policies=policy,
        extended_key_usages=eku,
        digital_signature=sign_other,
        outlive=Outlive.REFUSE if refuse_longer else Outlive.CLAMP,
    )
