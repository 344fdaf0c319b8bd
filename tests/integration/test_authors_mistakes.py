"""What an author reads of a wrong report: in check, query, runs, status and the log, but not over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.mistaken_reports import PACKAGE, computed, on_mongo, on_postgres, write_reports
from tests.support.servers import Servers
from tests.support.stack import Stack
from tests.support.waiting import eventually

from holdfast.embedded import Mongo, Postgres, Valkey

WRITING_CTE = "WITH gone AS (DELETE FROM orders RETURNING id) SELECT count(*) AS n FROM gone"

RIGHT = {
    "plain": on_postgres("plain", "return select(orders.c.city, orders.c.amount).order_by(orders.c.id)"),
    "sql": on_postgres(
        "sql", 'return text("SELECT city, amount FROM orders WHERE amount > :least").bindparams(least=10)'
    ),
    "typed": on_postgres(
        "typed", 'return text("SELECT city AS place FROM orders -- all").columns(column("place"))'
    ),
    "optional": on_postgres(
        "optional",
        'sql = "SELECT id FROM orders WHERE CAST(:id AS integer) IS NULL OR id = :id"\n'
        "    return text(sql).bindparams(id=None)",
    ),
    "both": on_postgres("both", "return union_all(select(orders.c.city), select(orders.c.city))"),
    "readings": on_mongo(
        "readings", 'return [{"$match": {"place": "a"}}, {"$project": {"_id": 0, "place": 1}}]'
    ),
    "added": computed("added", 'yield {"total": sum(row["amount"] for row in data[rows])}'),
}
FILE = rf"{PACKAGE}/bad\.py:\d+"
LATE = {
    # A function that raises, or builds no query
    "raises": (
        on_postgres("raises", 'return {}["city"]'),
        r"query raises\.rows: its function raised KeyError: 'city'",
    ),
    "exits": (on_postgres("exits", "raise SystemExit(3)"), r"its function raised SystemExit: 3"),
    "nothing": (
        on_postgres("nothing", "select(orders)"),
        r"it returned nothing: does the function end with return\?",
    ),
    "words": (
        on_postgres("words", 'return "SELECT 1"'),
        r"it returned str 'SELECT 1': SQL is written as text\(\.\.\.\)",
    ),
    "writes": (on_postgres("writes", "return insert(orders)"), r"it returned a statement that writes"),
    "number": (on_postgres("number", "return 5"), r"it returned int 5"),
    "listed": (on_postgres("listed", 'return [{"$match": {}}]'), r"is it a pipeline of @report\.mongo\?"),
    "stages": (on_mongo("stages", 'return ["$match"]'), r"stage 1 is str '\$match'"),
    "stage": (on_mongo("stage", 'return {"$match": {}}'), r"a stage stands in a list"),
    "select": (on_mongo("select", "return select(orders)"), r"is it a query of @report\.postgres\?"),
    "empty": (on_mongo("empty", "pass"), r"it returned nothing"),
    # What a database refuses
    "column": (
        on_postgres("column", 'return text("SELECT nme FROM orders")'),
        r'column "nme" does not exist \(SQLSTATE 42703',
    ),
    "table": (
        on_postgres("table", 'return text("SELECT 1 AS n FROM ordres")'),
        r'relation "ordres" does not exist \(SQLSTATE 42P01\)',
    ),
    "syntax": (
        on_postgres("syntax", 'return text("SELEC 1")'),
        r'syntax error at or near "SELEC" \(SQLSTATE 42601\)',
    ),
    "divides": (
        on_postgres("divides", 'return text("SELECT amount / 0 AS n FROM orders")'),
        r"division by zero \(SQLSTATE 22012\)",
    ),
    "function": (
        on_postgres("function", "return select(func.no_such(orders.c.id))"),
        r"function no_such\(integer\) does not exist \(SQLSTATE 42883; hint: ",
    ),
    "unbound": (on_postgres("unbound", 'return text("SELECT 1 AS n WHERE :x = 1")'), r"'x'"),
    "grop": (
        on_mongo("grop", 'return [{"$grop": {"_id": 1}}]'),
        r"Unrecognized pipeline stage name: '\$grop' \(code 40324\)",
    ),
    "operator": (
        on_mongo("operator", 'return [{"$project": {"n": {"$ad": [1, 2]}}}]'),
        r"Unknown expression \$ad",
    ),
    "out": (on_mongo("out", 'return [{"$out": "elsewhere"}]'), r"may not write"),
    # The function
    "divided": (
        computed("divided", "return [1 / 0]"),
        r"report divided: ZeroDivisionError: division by zero",
    ),
    "asserts": (
        computed("asserts", "assert not data[rows]"),
        r"report asserts: AssertionError: what the code asserts",
    ),
    "misses": (computed("misses", "return data[len]"), r"report misses: KeyError"),
    "opens": (
        computed("opens", 'return open("/no/such/file")'),
        r"report opens: no such file: /no/such/file",
    ),
    "forgets": (computed("forgets", "data[rows]"), r"report forgets: .*None"),
}
"""Files that can be loaded, each with what is said of its report when it is computed."""
BROKEN = {
    "unreadable": ('late = Report("unreadable"\n', "the file is no Python"),
    "seconds": (
        on_postgres("seconds", "return select(orders)").replace("ttl=600", 'ttl="5m"'),
        "ttl is a whole number",
    ),
}


@pytest.fixture(scope="module")
def authored(postgres: Postgres, mongo: Mongo, valkey: Valkey) -> Iterator[Stack]:
    """A supervisor and a gateway with all these reports."""
    servers = Servers(postgres, mongo, valkey, database="authored")
    servers.create_database()
    servers.execute(
        "CREATE TABLE IF NOT EXISTS orders (id integer PRIMARY KEY, city text, amount integer);"
        "INSERT INTO orders VALUES (1, 'Rome', 10), (2, 'Oslo', 20) ON CONFLICT DO NOTHING;"
        "CREATE SEQUENCE IF NOT EXISTS orders_numbers;"
        "CREATE OR REPLACE FUNCTION emptied() RETURNS integer LANGUAGE sql AS"
        " 'DELETE FROM orders RETURNING id'"
    )
    servers.on_mongo(lambda database: database["author_readings"].delete_many({}))
    servers.on_mongo(
        lambda database: database["author_readings"].insert_many([{"place": "a"}, {"place": "b"}])
    )
    with Stack(servers=servers, REPORTS=PACKAGE, **servers.env()) as stack:
        late = {name: source for name, (source, _) in LATE.items()}
        broken = {name: source for name, (source, _) in BROKEN.items()}
        write_reports(stack.folder, {**RIGHT, **late, **broken})
        stack.supervisor()
        stack.gateway("open", GW_AUTH="off", until="readyz")
        yield stack


def holdfast(stack: Stack, *arguments: str, **settings: str) -> tuple[int, str]:
    """The exit status and the output of a command, run in the folder of the reports."""
    process = stack.start(*arguments, name="command", **settings)
    return process.wait(60), process.output()


@pytest.fixture(scope="module")
def checked(authored: Stack) -> tuple[int, list[str]]:
    """What `holdfast check --run` says of all of them."""
    status, output = holdfast(authored, "check", "--run", GW_AUTH="off")
    return status, output.splitlines()


# Only the wrong ones are harmed.


@pytest.mark.parametrize("name", RIGHT)
def test_every_other_report_is_served(authored: Stack, name: str) -> None:
    """Beside files that cannot be loaded and reports that fail, the right ones are served as ever."""
    answer = authored.gateways["open"].get(name)
    assert answer.status_code == 200, answer.text
    assert answer.json()["rows"]


def test_sql_text_is_a_query(authored: Stack) -> None:
    """SQL with values, and SQL with named columns, give their rows as a Select does."""
    get = authored.gateways["open"].get
    assert get("sql").json()["rows"] == [{"city": "Oslo", "amount": 20}]
    assert get("typed").json()["rows"] == [{"place": "Rome"}, {"place": "Oslo"}]


@pytest.mark.parametrize("name", BROKEN)
def test_a_report_that_is_set_aside_is_named_everywhere(
    authored: Stack, checked: tuple[int, list[str]], name: str
) -> None:
    """`check`, `reports`, `status` and its document, and the log name it, with file, line and reason."""
    said = BROKEN[name][1]
    (listed,) = [each for each in authored.status()["broken"] if each["name"] == name]
    assert said in listed["reason"]
    assert listed["file"] == f"{PACKAGE}/{name}.py"
    assert authored.supervisor().output().count(f'"report": "{name}", "place": "{PACKAGE}/{name}.py:') == 1
    for arguments in (("status",), ("reports",)):
        _, output = holdfast(authored, *arguments)
        assert f"{PACKAGE}/{name}.py:{listed['line']}" in output
        assert said in output
    _, lines = checked
    assert any(f"report {name} is set aside: " in line and said in line for line in lines)
    status, output = holdfast(authored, "reports", name)
    assert status == 2
    assert output.startswith(f"report {name} is set aside: ")


# The same words whichever way.


@pytest.mark.parametrize("name", LATE)
def test_a_failure_is_said_in_the_same_words_everywhere(
    authored: Stack, checked: tuple[int, list[str]], name: str
) -> None:
    """The database's own message, the query's name, file and line: in `check --run` and `runs` alone."""
    words = LATE[name][1]
    status, lines = checked
    assert status == 1
    failed = "\n".join(lines).split("\nfailed ")
    found = [text for text in failed if re.search(words, text) and f"{PACKAGE}/{name}.py:" in text]
    assert found, "\n".join(lines)
    answer = authored.gateways["open"].get(name)
    assert answer.status_code == 500
    assert set(answer.json()) <= {"type", "title", "status", "detail", "code"}
    assert name not in str(answer.json()["detail"])
    assert PACKAGE not in answer.text

    def recorded() -> str:
        runs = authored.run(authored.client.runs(name, limit=1))
        return str(runs[0]["reason"]) if runs else ""

    eventually("the run to be recorded", recorded, within=10)
    reason = recorded()
    assert re.search(words, reason)
    assert f"{PACKAGE}/{name}.py:" in reason
    assert "site-packages" not in reason
    assert "platform/holdfast" not in reason


def test_a_check_ends_with_a_list_of_what_failed(checked: tuple[int, list[str]]) -> None:
    """The last line of `check --run` names each report that failed, and no other."""
    _, lines = checked
    head, _, names = lines[-1].partition("reports: ")
    assert head.startswith("failed ")
    assert set(names.split(", ")) == set(LATE)
    shown = {line.split(":")[0].split()[1]: line for line in lines if line.startswith("ok ")}
    assert set(RIGHT) <= set(shown)
    assert "2 rows" in shown["plain"]
    assert shown["plain"].endswith("columns: city, amount")


def test_a_refused_query_shows_where_in_its_sql(authored: Stack) -> None:
    """`query` prints the line of SQL, a mark below the place, and what to do next as the last line."""
    status, output = holdfast(authored, "query", "column.rows")
    lines = output.splitlines()
    assert status == 1
    assert lines[0].startswith('query column.rows: Postgres refused the query: column "nme" does not exist')
    assert lines[1].strip() == "SELECT nme FROM orders"
    assert lines[2].index("^") == lines[1].index("nme")
    assert re.fullmatch(rf"  {PACKAGE}/column\.py:\d+ in rows: def rows\(p\):", lines[3])
    assert lines[-1] == "Correct the query; `holdfast check --run` tries every report."


# SQL text only reads, and what is not there is named.

WRITING = {
    "cte": (WRITING_CTE, "read-only|top level"),
    "called": ("SELECT emptied() AS n", "cannot execute DELETE in a read-only transaction"),
    "sequence": ("SELECT nextval('orders_numbers') AS n", "cannot execute nextval"),
    "several": ("SELECT 1 AS n; DELETE FROM orders", "cannot insert multiple commands"),
    "deleted": ("DELETE FROM orders", "no columns"),
    "returned": ("DELETE FROM orders RETURNING id", "read-only|syntax error"),
    "committed": ("COMMIT", "it has no columns: a query is one SELECT"),
    "set": ("SET default_transaction_read_only = off", "no columns"),
    "truncated": ("TRUNCATE orders", "no columns"),
    "copied": ("COPY orders TO STDOUT", "no columns"),
    "unset": ("SELECT set_config('transaction_read_only', 'off', true) AS n", "read-write mode"),
    "into": ("SELECT 1 AS n INTO copied", "read-only|no columns"),
    "object": ("SELECT lo_create(0) AS n", "read-only"),
    "explained": ("EXPLAIN ANALYZE DELETE FROM orders", "read-only|syntax error"),
    "locked": ("SELECT id FROM orders FOR UPDATE", "read-only"),
}
OTHER_ORDERS = 't = Table("orders", MetaData(), Column("citty", Text), Column("amuont", Text))\n'
ABSENT = {
    "ordres": (
        on_postgres(
            "ordres", "return select(t.c.a)", head='t = Table("ordres", metadata, Column("a", Integer))\n'
        ),
        ["table \"ordres\" is not there. Did you mean 'orders'?"],
    ),
    "columns": (
        on_postgres("columns", "return select(t.c.citty, t.c.amuont)", head=OTHER_ORDERS),
        ["column 'citty' of table \"orders\" is not there. Did you mean 'city'?", "column 'amuont' of"],
    ),
    "schema": (
        on_postgres(
            "schema",
            "return select(t.c.a)",
            head='t = Table("orders", MetaData(), Column("a", Text), schema="shop")\n',
        ),
        ['table "shop"."orders" is not there'],
    ),
    "joined": (
        on_postgres(
            "joined",
            "return select(orders.c.id).join(t, t.c.a == orders.c.id)",
            head='t = Table("gone", metadata, Column("a", Integer))\n',
        ),
        ['table "gone" is not there'],
    ),
    "worded": (
        on_postgres("worded", 'return text("SELECT nme FROM orders")'),
        ['column "nme" does not exist'],
    ),
    "raedings": (
        on_mongo("raedings", "return []", "Nowhere"),
        ["collection 'author_raedings' is not there. Did you mean 'author_readings'?"],
    ),
    "matched": (on_mongo("matched", 'return [{"$match": {"plcae": "a"}}]'), ["has a field 'plcae'"]),
    "grouped": (
        on_mongo("grouped", 'return [{"$group": {"_id": "$kind", "n": {"$sum": "$amount"}}}]'),
        ["no document has a field 'kind'", "no document has a field 'amount'"],
    ),
    "sorted": (on_mongo("sorted", 'return [{"$sort": {"at": -1}}]'), ["no document has a field 'at'"]),
}
"""Reports that read what is not there, each with what is said of it."""


@pytest.fixture(scope="module")
def tried(authored: Stack) -> list[dict[str, Any]]:
    """What `holdfast check --run --json` finds of each report of a package of such reports."""
    files = {name: source for name, (source, _) in ABSENT.items()}
    files |= {name: on_postgres(name, f"return text({sql!r})") for name, (sql, _) in WRITING.items()}
    files["quiet"] = on_mongo("quiet", 'return [{"$match": {"x": 1}}]', "Quiet")
    authored.servers.on_mongo(_emptied)
    write_reports(authored.folder, files, "tried_reports")
    status, output = holdfast(authored, "check", "--run", "--json", REPORTS="tried_reports", GW_AUTH="off")
    assert status == 1
    found: list[dict[str, Any]] = json.loads(output)["reports"]
    return found


async def _emptied(database: Any) -> None:
    await database["author_quiet"].insert_one({"x": 1})
    await database["author_quiet"].delete_many({})


def finding(tried: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The finding of that kind of one report."""
    (found,) = [each for each in tried if (each["kind"], each["report"]) == (kind, name)]
    return found


@pytest.mark.parametrize("name", WRITING)
def test_sql_text_cannot_write(tried: list[dict[str, Any]], authored: Stack, name: str) -> None:
    """Whatever text a query is, it runs alone in a read-only transaction, and nothing of it stays."""
    (problem,) = finding(tried, "run", name)["problems"]
    assert re.search(WRITING[name][1], problem), problem
    assert authored.servers.scalar("SELECT count(*) FROM orders") == 2
    assert authored.servers.scalar("SELECT to_regclass('copied') IS NULL")
    assert authored.servers.scalar("SELECT is_called FROM orders_numbers") is False


@pytest.mark.parametrize("name", ABSENT)
def test_check_names_what_a_report_reads_and_is_not_there(tried: list[dict[str, Any]], name: str) -> None:
    """`check` names every table, column, collection and field that is not there, with the query's name."""
    problems = finding(tried, "reads", name)["problems"]
    for words in ABSENT[name][1]:
        (problem,) = [each for each in problems if words in each]
        assert problem.startswith(f"query {name}.rows: ")
    assert len(problems) == len(ABSENT[name][1])


def test_an_empty_collection_is_said(tried: list[dict[str, Any]]) -> None:
    """A collection that exists and has no document is no mistake, and is said."""
    found = finding(tried, "reads", "quiet")
    assert found.get("problems", []) == []
    assert found["notes"] == ["query quiet.rows: collection 'author_quiet' is empty"]


# Names.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs", "plian"], "there is no report 'plian'. Did you mean 'plain'?"),
        (["query", "plain.row"], "there is no query 'plain.row'. Did you mean 'plain.rows'?"),
        (["reports", "NOPE"], "there is no report 'NOPE'."),
        (["runs", "seconds"], "report seconds is set aside: "),
    ],
)
def test_a_name_that_is_not_there_is_an_error(authored: Stack, arguments: list[str], said: str) -> None:
    """An unknown report or query is an error that names the one that was meant, and the next step."""
    status, output = holdfast(authored, *arguments)
    assert status in (1, 2)
    assert output.startswith(said)
    assert "`holdfast " in output.splitlines()[-1]


def test_a_database_that_is_down_is_said_of_each_report_that_reads_it(authored: Stack) -> None:
    """The reports of the other database are computed; of these the reason is shown, without an address."""
    nowhere = {"MONGO_URL": "mongodb://127.0.0.1:1"}
    status, output = holdfast(authored, "check", "--run", "--json", GW_AUTH="off", **nowhere)
    assert status == 1
    found = json.loads(output)["reports"]
    assert finding(found, "run", "plain").get("problems", []) == []
    (problem,) = finding(found, "run", "readings")["problems"]
    assert problem.startswith("report readings: mongo is ")
    assert problem.endswith("MongoDB cannot be reached: connection refused")
    assert "127.0.0.1:1" not in problem
