"""The OpenAPI 3.1 document, made from the calls themselves, so that it cannot say anything else than they do."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from protocols.management import codec
from protocols.management.calls import PREFIX, Call, Nothing, parameter_schema
from protocols.management.problems import Problem

Json = dict[str, Any]
_PROBLEMS = {
    "400": "The request is malformed.",
    "403": "The client certificate shows nobody, or the role or the scope does not permit it.",
    "404": "There is no such thing.",
    "409": "It is not in the state for that.",
    "413": "The body is larger than the listener's `body_bytes`, 1 MiB by default.",
    "415": "The body is not JSON.",
    "422": "It was understood and refused.",
    "500": "The server failed.",
    "503": "Something that is needed is away; try again after Retry-After.",
}
_RETRY_AFTER: Json = {"Retry-After": {"description": "In seconds.", "required": True, "schema": {"type": "integer"}}}
_DESCRIPTION = (
    "Management of a certificate server. Every connection is TLS with an administrator's client certificate. "
    "Errors are problem details (RFC 9457)."
)


def document(calls: Sequence[Call]) -> Json:
    """The document for a set of calls."""
    schemas: Json = {}
    paths: Json = {}
    for call in calls:
        paths.setdefault(f"{PREFIX}{call.path}", {})[call.method.lower()] = _operation(call, schemas)
    codec.schema_of(Problem, schemas)
    try:
        number = version("pkiserver")
    except PackageNotFoundError:
        number = "0"
    return {
        "openapi": "3.1.0",
        "info": {"title": "pkiserver management", "version": number, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"administratorCertificate": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"administratorCertificate": {"type": "mutualTLS"}},
        },
    }


def _operation(call: Call, schemas: Json) -> Json:
    operation: Json = {
        "operationId": call.name,
        "summary": call.summary,
        "description": " ".join((call.handler.__doc__ or "").split())
        + (f" Permission: {call.permission}." if call.permission is not None else " Every administrator may."),
        "responses": {str(call.status): _answer(call, schemas), **_problem_answers(call, schemas)},
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": parameter_schema(name)} for name in call.parameters
    ]
    if call.query is not Nothing:
        parameters += [
            {"name": name, "in": "query", "required": required, "schema": schema}
            for name, schema, required in codec.fields_of(call.query, schemas, taken=True)
        ]
    if parameters:
        operation["parameters"] = parameters
    if call.body is not Nothing:
        content = {"application/json": {"schema": codec.schema_of(call.body, schemas, taken=True)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _answer(call: Call, schemas: Json) -> Json:
    if call.answer is None:
        return {"description": "Done."}
    return {
        "description": " ".join((call.answer.__doc__ or "Done.").split()),
        "content": {"application/json": {"schema": codec.schema_of(call.answer, schemas)}},
    }


def _problem_answers(call: Call, schemas: Json) -> Json:
    schema = codec.schema_of(Problem, schemas)
    without = set() if call.body is not Nothing else {"415"}
    return {
        status: {
            "description": text,
            **({"headers": _RETRY_AFTER} if status == "503" else {}),
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status, text in _PROBLEMS.items()
        if status not in without
    }
