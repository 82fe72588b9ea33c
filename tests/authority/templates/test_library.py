"""Templates in the database: what changed is read again, what is broken is told and stops nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkiserver.authority.templates.library import TemplateLibrary, ready_text
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.authority import templates as rows
from pkiserver.store.database import Database
from pkiserver.store.migrate import migrate

from .helpers import NOW


async def test_the_library_follows_the_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/pkiserver.db"
    migrate(url)
    database = await Database.open(url)
    try:
        library = TemplateLibrary(database)
        await library.refresh()
        assert library.list() == ()
        await database.write(lambda c: rows.put(c, "user", ready_text("user"), now=NOW, expected=None))
        await database.write(lambda c: rows.put(c, "broken", 'kind = "template"\n', now=NOW, expected=None))
        with pytest.raises(Rejected) as caught:
            library.get("user")
        assert caught.value.has(Refusal.UNKNOWN_TEMPLATE)
        await library.refresh()
        user = library.get("user")
        assert [problem.template for problem in library.problems()] == ["broken"]
        assert "is missing" in library.problems()[0].text

        await library.refresh()
        assert library.get("user") is user
        changed = ready_text("user").replace('"365d"', '"30d"').replace('window = "60d"', 'window = "10d"')
        await database.write(lambda c: rows.put(c, "user", changed, now=NOW, expected=1))
        await database.write(lambda c: rows.remove(c, "broken", expected=1))
        await library.refresh()
        assert library.get("user") != user
        assert library.find("broken") is None
        assert library.problems() == ()
    finally:
        await database.close()
