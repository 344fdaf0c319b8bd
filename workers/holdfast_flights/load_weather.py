"""The MongoDB side of the load: a staging collection, its indexes, then one rename into place.

Readers see the old collection or the complete new one. Each load has a staging collection of its own name:
what a killed load left, or what the server still writes for it, cannot mix with the next load.
"""

from __future__ import annotations

from itertools import islice
from typing import Any
from uuid import uuid4

from pymongo.asynchronous.database import AsyncDatabase

from holdfast_flights.models import Observation
from holdfast_flights.progress import LoadProgress
from holdfast_flights.sources import WEATHER, LoadError, read_observations

BATCH = 2_500
COLLECTION = Observation.Settings.name
STAGING = f"{COLLECTION}_loading_"


async def weather_is_missing(database: AsyncDatabase[dict[str, Any]]) -> bool:
    """Whether the collection is absent or holds fewer observations than the file.

    Raises:
        LoadError: a collection or view of that name holds other documents; it is somebody else's.
    """
    fields = set(Observation.model_fields) - {"id", "revision_id"}
    other = {"$or": [{field: {"$exists": False}} for field in sorted(fields)]}
    info = await (await database.list_collections(filter={"name": COLLECTION})).to_list()
    foreign = any(item["type"] != "collection" for item in info)
    if foreign or await database[COLLECTION].find_one(other) is not None:
        raise LoadError(
            f"MongoDB already has a {COLLECTION!r} that is not the example's; nothing was changed. "
            "Rename it, or give the example a database of its own (MONGO_DB)."
        )
    return await database[COLLECTION].count_documents({}) < WEATHER.rows


async def drop_leftovers(database: AsyncDatabase[dict[str, Any]]) -> None:
    """Drop the staging collections of killed loads. Call it only while no other load can run."""
    for name in await database.list_collection_names(filter={"name": {"$regex": f"^{STAGING}"}}):
        await database.drop_collection(name)


async def load_weather(database: AsyncDatabase[dict[str, Any]], progress: LoadProgress) -> None:
    """Put the observations and their indexes in place, all at once.

    Raises:
        LoadError: the file held another number of observations than it should.
    """
    staging = database[STAGING + uuid4().hex]
    observations = read_observations()
    with progress.bar(COLLECTION, WEATHER.rows) as advance:
        while batch := list(islice(observations, BATCH)):
            await staging.insert_many(batch, ordered=False)
            advance(len(batch))
    staged = await staging.count_documents({})
    if staged != WEATHER.rows:
        raise LoadError(f"{WEATHER.file} holds {staged:,} observations and not {WEATHER.rows:,}")
    await staging.create_indexes(Observation.Settings.indexes)
    await staging.rename(COLLECTION, dropTarget=True)
