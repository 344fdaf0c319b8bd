"""Reports that behave in every way a test needs: quick, slow, failing, large, and trying to write."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from beanie import Document
from pydantic import Field
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    func,
    insert,
    literal,
    literal_column,
    select,
)

from holdfast.reports import Claim, Data, Params, Report, Row, variants

UPTO = (1, 2, 3, 5, 8, 13, 21, 34)
ledger_table = Table(
    "ledger",
    MetaData(),
    Column("account", String, primary_key=True),
    Column("amount", Integer),
)


class Reading(Document):
    """What the sample's MongoDB queries read."""

    place: str
    value: float

    class Settings:
        """Where Beanie keeps it."""

        name = "sample_readings"


class NumbersParams(Params):
    """How many numbers, and a word that comes back as it was given."""

    upto: Annotated[int, Field(ge=1, le=100_000)] = 10
    word: str = ""


numbers = Report("numbers", params=NumbersParams, ttl=600, warm=variants(upto=UPTO))


@numbers.postgres
def squares(p: NumbersParams) -> Select[*tuple[Any, ...]]:
    """n, n² and the word."""
    n = func.generate_series(1, p.upto).column_valued("n")
    return select(n, (n * n).label("square"), literal(p.word).label("word")).order_by(n)


ledger = Report("ledger", ttl=600, max_stale=3600)


@ledger.postgres
def balances(_: Params) -> Select[*tuple[Any, ...]]:
    """Every account; an amount of zero makes the query fail."""
    amount = ledger_table.c.amount
    return select(ledger_table.c.account, amount, (1000 / amount).label("share")).order_by("account")


class TenantParams(Params):
    """Whose accounts; bound to a claim of the token."""

    tenant: Annotated[str, Claim("tenant")]


private = Report("private", params=TenantParams, ttl=600)


@private.postgres
def own(p: TenantParams) -> Select[*tuple[Any, ...]]:
    """The tenant, as it reached the database."""
    return select(literal(p.tenant).label("tenant"))


brief = Report("brief", params=NumbersParams, ttl=1, max_stale=600)


@brief.postgres
def moment(p: NumbersParams) -> Select[*tuple[Any, ...]]:
    """The database's clock: other rows each time."""
    clock = func.extract("epoch", func.clock_timestamp()).label("clock")
    return select(literal(p.upto).label("upto"), clock)


class SlowParams(Params):
    """How long it takes, in milliseconds; results with another `tag` are other results."""

    ms: Annotated[int, Field(ge=0, le=60_000)] = 100
    tag: str = ""


slow = Report("slow", params=SlowParams, ttl=600)


@slow.postgres
def sleep(p: SlowParams) -> Select[*tuple[Any, ...]]:
    """One row, after p.ms; `n` is p.ms."""
    waited = func.pg_sleep(p.ms / 1000).cast(String).label("waited")
    return select(waited, literal(p.ms).label("n"), literal(p.tag).label("tag"))


class FailingParams(Params):
    """Where it fails."""

    where: Literal["query", "function", "one-of-two"] = "query"


failing = Report("failing", params=FailingParams, ttl=600)


@failing.postgres
def divided(p: FailingParams) -> Select[*tuple[Any, ...]]:
    """A division by zero, unless the function is to fail."""
    divisor = 1 if p.where == "function" else 0
    return select((1 / literal_column(str(divisor))).label("n"))


@failing.postgres
def whole(_: FailingParams) -> Select[*tuple[Any, ...]]:
    """A query that succeeds beside the one that fails."""
    return select(literal(1).label("n"))


@failing.compute
def raising(_: FailingParams, data: Data) -> list[Row]:
    """Raises."""
    raise ValueError(f"no use for {len(data[whole])} rows")


class BigParams(Params):
    """How many rows of a mebibyte each."""

    rows: Annotated[int, Field(ge=1, le=100)] = 1


big = Report("big", params=BigParams, ttl=600)


@big.postgres
def filled(p: BigParams) -> Select[*tuple[Any, ...]]:
    """Rows of a mebibyte each."""
    n = func.generate_series(1, p.rows).column_valued("n")
    return select(n, func.repeat("x", 2**20).label("filling"))


class WritingParams(Params):
    """How it tries to write."""

    how: Literal["insert", "sequence", "allow-then-insert"] = "insert"


writing = Report("writing", params=WritingParams, ttl=600)


@writing.postgres
def attempt(p: WritingParams) -> Select[*tuple[Any, ...]]:
    """A `Select` that would write if it could."""
    if p.how == "sequence":
        return select(func.nextval("ledger_sequence"))
    row = insert(ledger_table).values(account="intruder", amount=1).returning(ledger_table.c.account)
    added = row.cte("added")
    if p.how == "insert":
        return select(added)
    allowed = select(func.set_config("transaction_read_only", "off", False).label("v")).cte("allowed")
    return select(allowed.c.v, added)


readings = Report("readings", ttl=600)


@readings.mongo(Reading)
def by_place(_: Params) -> list[dict[str, Any]]:
    """The mean of each place."""
    return [
        {"$group": {"_id": "$place", "mean": {"$avg": "$value"}}},
        {"$sort": {"_id": 1}},
        {"$replaceWith": {"place": "$_id", "mean": "$mean"}},
    ]


class ExportParams(Params):
    """By which stage it tries to write."""

    stage: Literal["$out", "$merge"] = "$out"


export = Report("export", params=ExportParams, ttl=600)


@export.mongo(Reading)
def exported(p: ExportParams) -> list[dict[str, Any]]:
    """A pipeline that would write if it could."""
    return [
        {"$match": {}},
        {p.stage: "sample_intruders" if p.stage == "$out" else {"into": "sample_intruders"}},
    ]


odd = Report("odd", ttl=600)


@odd.postgres
def raw(_: Params) -> Any:
    """A bare string, which is no query; SQL text is `text(...)`."""
    return "SELECT 1"


ticking = Report("ticking", params=NumbersParams, ttl=600, schedule=2, warm=variants(upto=(2, 3)))


@ticking.postgres
def ticks(p: NumbersParams) -> Select[*tuple[Any, ...]]:
    """As many ticks as asked for."""
    return select(func.generate_series(1, p.upto).label("n"))
