"""Collections of MongoDB, by a sample of their documents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import pymongo
from bson import Decimal128, Int64

from holdfast.authoring.sources import Field, Kind, Source, distinct_values
from holdfast.links.mongo import client_of
from holdfast.links.mongo_errors import translated
from holdfast.settings import MongoSettings

SAMPLE = 300
SECONDS = 10.0
_OURS = "holdfast_"
_KINDS: tuple[tuple[type[Any], Kind, str], ...] = (
    (bool, "boolean", "bool"),
    (int, "integer", "int"),
    (Int64, "integer", "int"),
    (float, "number", "float"),
    (Decimal128, "number", "Any"),
    (str, "text", "str"),
    (dt.datetime, "time", "dt.datetime"),
)


async def sources(settings: MongoSettings) -> list[Source]:
    """Every collection and view that is no system's, without its fields."""
    async with client_of(settings) as client:
        with translated(), pymongo.timeout(SECONDS):
            names = await client[settings.database].list_collection_names()
    return [Source("mongo", name) for name in sorted(names) if not name.startswith(("system.", _OURS))]


async def described(settings: MongoSettings, source: Source) -> Source:
    """The source with the fields of some documents."""
    async with client_of(settings) as client:
        with translated(), pymongo.timeout(SECONDS):
            found = client[settings.database][source.name].find().limit(SAMPLE)
            documents = [document async for document in found]
    return Source("mongo", source.name, None, fields_of(documents))


def fields_of(documents: Sequence[Mapping[str, Any]]) -> tuple[Field, ...]:
    """The fields of these documents: each with the one kind that all of its values have, or `other`."""
    names = dict.fromkeys(name for document in documents for name in document)
    return tuple(
        _field(name, [document[name] for document in documents if document.get(name) is not None])
        for name in names
    )


def _field(name: str, values: list[Any]) -> Field:
    found = {_kind(value) for value in values}
    if found and {kind for kind, _ in found} <= {"integer", "number"}:
        kind, annotation = max(found, key=lambda each: each[0] == "number")
    else:
        kind, annotation = found.pop() if len(found) == 1 else ("other", "Any")
    if name == "_id" or "." in name or name.startswith("$"):
        # Such a name is no path in a pipeline.
        kind = "other"
    return Field(
        name=name,
        kind=kind,
        type=annotation,
        distinct=distinct_values(values),
        key=name == "_id",
    )


def _kind(value: Any) -> tuple[Kind, str]:
    for base, kind, annotation in _KINDS:
        if isinstance(value, base):
            return kind, annotation
    return "other", "Any"
