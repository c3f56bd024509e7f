"""Connections to Postgres on which every wait has a time-out; `database` imports it when needed.

Nothing here relies on session state, because a pooler in transaction mode may be in between.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from exporter.clock import elapsed
from exporter.database.postgres_connection import PING_SECONDS, BoundedConnection

_CONNECT_SECONDS = 5
_DEAD_PEER_SECONDS = 10
_SILENT_PEER_SECONDS = 10
_FRESH_SECONDS = 1.0  # a connection is taken to work for this long after its last use
_STATEMENT_SECONDS = 10.0
_IDLE_SECONDS = 20.0
# A server that still runs needs this long to report that it has given up.
_LENIENCE_SECONDS = 1.0

POLL_SECONDS = _STATEMENT_SECONDS + _LENIENCE_SECONDS
"""How long to wait for the response to a statement of a poll."""

_USED_AT = "used_at"

# Options that take Python objects: a URL can give the driver only text, which it cannot use.
_DRIVERS_OWN = frozenset({"context", "cursor_factory", "row_factory"})


def make_engine(url: URL, pool_size: int) -> Engine:
    """Make an engine that keeps up to `pool_size` connections."""
    defaults = {
        "connect_timeout": str(_CONNECT_SECONDS),
        "tcp_user_timeout": str(_DEAD_PEER_SECONDS * 1000),
        # If the server vanishes after it acknowledged all packets, only TCP keepalive probes find
        # out; by default the system sends them after two hours.
        "keepalives_idle": str(_SILENT_PEER_SECONDS),
        "keepalives_interval": str(_SILENT_PEER_SECONDS),
        "keepalives_count": "2",
        "application_name": "kalshi-exporter",
        # The database's own encoding may lack characters that the driver has to send.
        "client_encoding": "utf8",
    }
    defaults = {key: value for key, value in defaults.items() if key not in url.query}
    engine = create_engine(
        url.update_query_dict(defaults),
        # Prepared statements belong to a session; a pooler changes sessions between transactions.
        connect_args={"prepare_threshold": None},
        pool_size=pool_size,
        max_overflow=0,
        # `begin` sends BEGIN together with the settings. The driver's own BEGIN would be one more
        # round trip.
        isolation_level="AUTOCOMMIT",
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: object, _record: object, args: Any, kwargs: Any) -> Any:
        for option in _DRIVERS_OWN & url.query.keys():
            raise psycopg.ProgrammingError(f'invalid connection option "{option}"')
        try:
            return BoundedConnection.connect(*args, **kwargs)
        except psycopg.Error:
            raise
        except Exception as error:  # the driver trips over some addresses, each in its own way
            raise psycopg.ProgrammingError(f"the address cannot be used: {error}") from error

    @event.listens_for(engine, "checkout")
    def _taken(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        # A connection that died between two polls is replaced silently.
        if elapsed() - record.info.get(_USED_AT, math.inf) > _FRESH_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except psycopg.Error as error:
                raise InvalidatePoolError from error
        connection.timeout = None

    @event.listens_for(engine, "checkin")
    def _given_back(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_USED_AT] = elapsed()
        if connection is not None:
            connection.timeout = PING_SECONDS

    return engine


def begin(connection: Connection) -> None:
    """Begin a transaction in which each statement has the time-out of a poll's.

    Args:
        connection: to Postgres.
    """
    set_client_timeout(connection)
    # One message, because each takes a round trip.
    connection.exec_driver_sql(
        f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {settings(driver(connection))};"
        f" {poll_timeout()};"
        f" SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_SECONDS * 1000:.0f}ms'"
    )


def begin_reading(connection: Connection) -> None:
    """Begin a read-only transaction on one snapshot, without a limit on its duration.

    Args:
        connection: to Postgres.
    """
    connection.exec_driver_sql(
        f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {settings(driver(connection))};"
        " SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = 0;"
        " SET LOCAL idle_in_transaction_session_timeout = 0"
    )


def settings(driver: BoundedConnection, scope: Literal["LOCAL", "SESSION"] = "LOCAL") -> str:
    """Return the statements that make a transaction independent of everybody's settings.

    Server, database, role and environment have defaults of their own. A session may be a pooler's,
    which rules out startup parameters, and SESSION unless it is known that there is no pooler.
    """
    wanted: Sequence[str] = _SETTINGS
    if driver.info.server_version >= _FIRST_WITH_TRANSACTION_TIMEOUT:
        wanted = ("transaction_timeout = 0", *_SETTINGS)
    return "; ".join(f"SET {scope} {setting}" for setting in wanted)


_SETTINGS = (
    "DateStyle = 'ISO, MDY'",  # the driver reads no instants in another style
    "TimeZone = 'UTC'",
    "extra_float_digits = 1",  # all digits of seconds
    "lock_timeout = 0",  # each statement has its bound
)
_FIRST_WITH_TRANSACTION_TIMEOUT = 170000


def poll_timeout(scope: Literal["LOCAL", "SESSION"] = "LOCAL") -> str:
    """Return the statement that gives all later ones of a transaction the time-out of a poll."""
    return f"SET {scope} statement_timeout = '{_STATEMENT_SECONDS * 1000:.0f}ms'"


def driver(connection: Connection) -> BoundedConnection:
    """Return the driver's connection."""
    return cast("BoundedConnection", connection.connection.driver_connection)


@contextmanager
def sqlalchemy_errors(connection: Connection, statement: str) -> Iterator[None]:
    """Raise the driver's errors as SQLAlchemy does, and discard a connection that is lost."""
    try:
        yield
    except psycopg.Error as error:
        if driver(connection).closed:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement, None, error, psycopg.Error, dialect=connection.dialect
        ) from error


def set_client_timeout(connection: Connection, seconds: float | None = None) -> None:
    """Limit the wait for each response, with a little time for the server to report its time-out.

    This ends only the wait of this process. `set_statement_timeout` ends the work on the server.

    Args:
        connection: to Postgres.
        seconds: the limit; that of a poll if None.
    """
    driver(connection).timeout = (seconds or _STATEMENT_SECONDS) + _LENIENCE_SECONDS


def set_statement_timeout(connection: Connection, *, rows: int, seconds: float | None) -> None:
    """Do for Postgres what `database.set_statement_timeout` says."""
    seconds = (seconds or _STATEMENT_SECONDS) + rows / 1000
    set_client_timeout(connection, seconds)
    connection.execute(
        _BOUND,
        {"statement": f"{seconds * 1000:.0f}ms", "idle": f"{_IDLE_SECONDS + rows / 1000:.0f}s"},
    )


# The settings hold for the transaction, because the session may be a pooler's.
_BOUND = text(
    "SELECT set_config('statement_timeout', :statement, true),"
    " set_config('idle_in_transaction_session_timeout', :idle, true)"
)
