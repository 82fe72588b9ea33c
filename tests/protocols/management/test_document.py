"""The served document is the truth: what it takes is taken, what it does not is refused, and every answer is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.registration.administrators import Administrators, Role
from protocols.management.problems import problem_of
from protocols.management.site import ApiLimits
from tests.protocols.management.callers import Caller, calling
from tests.protocols.management.world import DOCUMENT, opened

SCHEMAS = DOCUMENT["components"]["schemas"]
VALUES = {"number": "999999", "slot": "1", "fingerprint": "0" * 64, "name": "nobody"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path with values that name nothing, and what the document says."""
    for path, methods in DOCUMENT["paths"].items():
        for method, what in methods.items():
            filled = path.removeprefix("/api/v1")
            for name, value in VALUES.items():
                filled = filled.replace(f"{{{name}}}", value)
            yield method.upper(), filled, what


def body_schema(what: dict[str, Any]) -> dict[str, Any] | None:
    taken = what.get("requestBody")
    if taken is None:
        return None
    name = taken["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    found: dict[str, Any] = SCHEMAS[name]
    return found


def sample(schema: dict[str, Any]) -> Any:
    """The smallest value that a schema takes."""
    if "$ref" in schema:
        return sample(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return sample(schema["anyOf"][0])
    match schema:
        case {"enum": [first, *_]}:
            return first
        case {"type": "object", "properties": properties}:
            return {name: sample(properties[name]) for name in schema["required"]}
        case {"type": "string", "format": "date-time"}:
            return "2030-01-01T00:00:00Z"
        case {"type": "string"}:
            return "x" * schema.get("minLength", 0)
        case {"type": "integer"}:
            return schema.get("minimum", 0)
    return {"array": [], "object": {}, "boolean": False}[schema["type"]]


def wrong(schema: dict[str, Any]) -> Iterator[Any]:
    """Values that a schema does not take, one for each of its bounds."""
    if "anyOf" in schema:
        several = any(one.get("type") == "array" for one in schema["anyOf"])
        return (
            yield from (one for one in wrong(schema["anyOf"][0]) if one is not None and not (several and one == []))
        )
    yield {"string": 1, "integer": "1", "boolean": 1, "array": {}, "object": []}.get(schema.get("type", ""), [[]])
    if schema.get("type") in {"string", "integer", "boolean"}:
        yield from ({}, [])
    if "maxLength" in schema and "enum" not in schema:
        yield "x" * (schema["maxLength"] + 1)
    if schema.get("minLength"):
        yield ""
    if "enum" in schema:
        yield "nonsense"
    if "minimum" in schema:
        yield schema["minimum"] - 1
        yield schema["maximum"] + 1
    if "maxItems" in schema:
        yield ["x"] * (schema["maxItems"] + 1)
        yield from ([one] for one in wrong(schema["items"]))
    if "maxProperties" in schema:
        yield {str(number): "x" for number in range(schema["maxProperties"] + 1)}
        yield from ({"x": one} for one in wrong(schema["additionalProperties"]))


async def malformed(caller: Caller, method: str, path: str, body: Any = None) -> None:
    answer = await caller.call(method, path, body)
    assert (answer.status, answer.codes) == (400, {"malformed"}), (method, path, str(body)[:200], answer)


async def test_what_the_document_does_not_have_is_refused_by_every_operation(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        roles = {"GET": "aud", "POST": "ruth", "PATCH": "ruth", "PUT": "ruth", "DELETE": "ruth"}
        who = {
            "aud": await world.person("aud", Role.AUDITOR),
            "ruth": await world.person("ruth", Role.RA_OFFICER),
        }
        with calling(world, who["aud"]) as aud, calling(world, who["ruth"]) as ruth:
            callers = {"aud": aud, "ruth": ruth}
            for method, path, what in operations():
                caller = callers[roles[method]]
                schema = body_schema(what)
                good = None if schema is None else sample(schema)
                await malformed(caller, method, f"{path}?nonsense=1", good)
                await malformed(caller, method, f"{path}?limit=1&limit=1", good)
                if schema is None:
                    await malformed(caller, method, path, {})
                    continue
                await malformed(caller, method, path, {**good, "nonsense": 1})
                for name, one in schema["properties"].items():
                    for value in wrong(one):
                        await malformed(caller, method, path, {**good, name: value})
                for name in schema["required"]:
                    await malformed(caller, method, path, {key: good[key] for key in good if key != name})


async def test_every_query_parameter_is_taken_and_bounded_as_the_document_says(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        with calling(world, await world.person("aud", Role.AUDITOR)) as caller:
            for method, path, what in operations():
                for parameter in what.get("parameters", ()):
                    if parameter["in"] != "query":
                        continue
                    name, schema = parameter["name"], parameter["schema"]
                    bounds = schema["anyOf"][0] if "anyOf" in schema else schema
                    assert {"maxLength", "maximum", "enum", "format"} & bounds.keys(), (path, name)
                    if "maximum" in bounds and name == "limit":
                        full = await caller.call(method, f"{path}?limit={bounds['maximum']}")
                        assert full.status == 200
                    for value in wrong(bounds):
                        # any text is a string, and digits are a number
                        if isinstance(value, str | int) and value not in {1, "1"}:
                            await malformed(caller, method, f"{path}?{name}={value}")


async def test_row_34_a_body_of_any_operation_is_bounded_and_the_answer_is_documented(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=ApiLimits(body_bytes=1000)) as world:
        credential = await world.person("ruth", Role.RA_OFFICER)
        for method, path, what in operations():
            assert "413" in what["responses"]
            with calling(world, credential) as caller:  # the connection ends with the refusal
                assert (await caller.call(method, path, b"x" * 1001)).status == 413, (method, path)


@pytest.mark.parametrize("code", list(Refusal))
def test_every_refusal_has_a_status_that_every_operation_documents(code: Refusal) -> None:
    found = problem_of(Rejected.because(code, "why"), "1")
    validator = jsonschema.Draft202012Validator({**SCHEMAS["Problem"], "components": DOCUMENT["components"]})
    validator.validate(json.loads(found.octets()))
    for _, path, what in operations():
        assert str(found.status) in what["responses"], path


async def test_a_head_and_an_unknown_method_get_an_answer_of_ours(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        with calling(world, await world.person("aud", Role.AUDITOR)) as caller:
            for method in ("PUT", "TRACE", "BREW"):
                answer = await caller.call(method, "/me", checked=False)
                assert answer.status == 405
                assert answer.headers["content-type"] == "application/problem+json"
                assert "GET" in answer.headers["allow"]
            for path in ("/nothing", "/me/", "/requests/1/2", "/../../etc/passwd", "/accounts/%00", "/accounts/a%2Fb"):
                answer = await caller.call("GET", path, checked=False)
                assert answer.status == 404, path
                assert answer.headers["content-type"] == "application/problem+json"


def test_the_document_says_what_bounds_cannot() -> None:
    """What `particulars` an operation takes, for instance, stood in the program and not in its document."""
    assert "release-authority: `fingerprint` of one that is on hold" in SCHEMAS["NewOperation"]["description"]
    assert "at least 12 characters" in SCHEMAS["NewAccount"]["description"]
    search = DOCUMENT["paths"]["/api/v1/certificates"]["get"]["description"]
    assert "`name` and `name_prefix` are KIND:VALUE" in search
    assert "Permission: read-certificates." in search


async def test_what_is_away_is_told_with_the_time_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as world:
        credential = await world.person("aud", Role.AUDITOR)

        async def away(*_arguments: object) -> None:
            raise Unavailable("the database is away", retry_after=7)

        monkeypatch.setattr(Administrators, "recognise", away)
        with calling(world, credential) as caller:
            for method, path, what in operations():
                answer = await caller.call(method, path, None if body_schema(what) is None else {})
                assert (answer.status, answer.headers["retry-after"]) == (503, "7"), path
                assert "Retry-After" in what["responses"]["503"]["headers"]
            document = await caller.call("GET", "/openapi.json", checked=False)
            assert (document.status, document.headers["retry-after"]) == (503, "7")
        page = await world.page("aud")
        assert (page.status, page.headers["retry-after"]) == (503, "7")


def test_the_page_has_every_path_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "protocols" / "management.md").read_text()
    explained, whole = [], ""
    for row in re.findall(r"^\| (`[/…].*?) \|", page, re.MULTILINE):
        for path in re.findall(r"`([^`]+)`", row):
            if not path.startswith("…"):
                whole = path
            explained.append(whole if path is whole else whole + path.removeprefix("…"))
    assert sorted(explained) == sorted(path.removeprefix("/api/v1") for path in DOCUMENT["paths"])
