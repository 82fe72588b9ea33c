"""Objects that an insider edits in SQL are found by what the audit log says of them; on both databases."""

from __future__ import annotations

from pathlib import Path

from pkiserver.authority.configuration import Configuration
from pkiserver.authority.documents import Key, Kind, read_documents
from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.tampering import Alteration, alterations
from pkiserver.keys.algorithms import KeyType
from pkiserver.runtime.engine import Engine
from tests.support.engines import ACTOR, engine_with, template_text

RULE = '[[evidence]]\nall = ["password"]\n'


async def apply(engine: Engine, *names: str, more: str = "", remove: tuple[str, ...] = ()) -> None:
    configuration = Configuration(engine.database, engine.audit, engine.clock)
    texts = [(name, template_text(name, RULE, more)) for name in names]
    unwanted = [Key(Kind.TEMPLATE, name) for name in remove]
    await configuration.apply(await configuration.plan(read_documents(texts), remove=unwanted), by="ruth")


async def sql(engine: Engine, text: str) -> None:
    """What an insider types."""
    await engine.database.write(lambda connection: connection.exec_driver_sql(text) and None)


async def found(engine: Engine) -> dict[str, Alteration]:
    return {one.object: one for one in await engine.database.read(alterations)}


async def test_row_40_an_object_edited_added_or_removed_in_sql_is_found(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, {}, url=url) as engine:
        await apply(engine, "a", "b", "c", "d")
        await apply(engine, "a", more="# changed as it should be\n")
        await apply(engine, remove=("d",))
        assert await found(engine) == {}
        await sql(engine, "UPDATE config_object SET toml = replace(toml, 'password', 'anonymous') WHERE name = 'a'")
        await sql(engine, "DELETE FROM config_object WHERE name = 'b'")
        columns = "kind, revision, toml, updated"
        copied = f"SELECT 'd', {columns} FROM config_object WHERE name = 'c'"
        await sql(engine, f"INSERT INTO config_object (name, {columns}) {copied}")
        known = await found(engine)
        assert set(known) == {"template a", "template b", "template d"}
        assert "edited in the database" in known["template a"].text
        assert "nobody removed it" in known["template b"].text
        assert "nobody applied it" in known["template d"].text
        assert all(one.certain for one in known.values())
        await sql(engine, "DELETE FROM config_object WHERE name = 'd'")
        await apply(engine, "a", "b")
        assert await found(engine) == {}


async def test_row_40_settings_of_an_authority_edited_in_sql_are_found(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, {}, url=url) as engine:
        assert await found(engine) == {}, "authorities are known from the moment they were made"
        settings = 'kind = "authority"\nname = "issuing"\n[settings]\ndescription = "people"\n'
        configuration = Configuration(engine.database, engine.audit, engine.clock)
        plan = await configuration.plan(read_documents([("issuing", settings)]))
        await configuration.apply(plan, by="ruth")
        await engine.road.succession.rekey(
            "issuing", KeyChoice(key_type=KeyType.parse("ec-p256"), store="software"), ACTOR
        )
        assert await found(engine) == {}, "a new key says nothing of the settings"
        await sql(engine, "UPDATE authority SET config = replace(config, 'people', 'nobody') WHERE name = 'issuing'")
        assert list(await found(engine)) == ["authority issuing"]
        assert "not what ruth made of it" in (await found(engine))["authority issuing"].text
        await sql(engine, "UPDATE authority SET config = replace(config, 'nobody', 'people') WHERE name = 'issuing'")
        assert await found(engine) == {}
