"""Administrators whom an insider writes in SQL are found by what the audit log says of them; on both databases."""

from __future__ import annotations

from pathlib import Path

import attrs

from pkiserver.authority.tampering import Alteration
from pkiserver.registration.adminalterations import administrator_alterations
from pkiserver.registration.administrators import Administrator, Role
from pkiserver.runtime.engine import Engine
from tests.support.engines import engine_with


async def sql(engine: Engine, text: str) -> None:
    """What an insider types."""
    await engine.database.write(lambda connection: connection.exec_driver_sql(text) and None)


async def found(engine: Engine) -> dict[str, Alteration]:
    return {one.object: one for one in await engine.database.read(administrator_alterations)}


async def test_row_40_administrators_made_or_changed_in_sql_are_found(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, {}, url=url) as engine:
        people = engine.administrators
        for name in ("ada", "olga", "ruth"):
            await people.create(Administrator(name, frozenset({Role.OPERATOR})), by="machine")
        certificate = engine.authorities.get("issuing").current.certificate.der
        await people.bind("ada", certificate, by="machine")
        await people.change("olga", "machine", lambda one: attrs.evolve(one, groups=frozenset({"desk"})))
        await people.delete("ruth", by="machine")
        assert await found(engine) == {}
        own = 'name, roles, authorities, templates, "groups", account, disabled, created, created_by'
        others = own.removeprefix("name, ")
        await sql(
            engine, f"INSERT INTO administrator ({own}) SELECT 'ruth', {others} FROM administrator WHERE name = 'ada'"
        )
        await sql(
            engine, "UPDATE administrator SET roles = replace(roles, 'operator', 'ra-officer') WHERE name = 'olga'"
        )
        await sql(engine, "UPDATE administrator_certificate SET administrator = 'ruth'")
        known = await found(engine)
        assert set(known) == {"administrator ada", "administrator olga", "administrator ruth"}
        assert "nobody made" in known["administrator ruth"].text
        assert all("edited in the database" in known[f"administrator {name}"].text for name in ("ada", "olga"))
        assert all(one.certain for one in known.values())
        await people.delete("ruth", by="machine")
        await people.change("olga", "machine", lambda one: one)
        await people.bind("ada", certificate, by="machine")
        assert await found(engine) == {}
