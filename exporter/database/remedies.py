"""Say what to do about an error of Postgres that waiting does not mend."""

import getpass
import os
import re

from sqlalchemy.engine import URL


def remedy_of_statement(said: str, state: str, url: URL, *, write: bool) -> str:
    """Return what to do about a statement that the server refuses.

    Args:
        said: the first line of the server's message.
        state: its SQLSTATE.
        url: of the database.
        write: whether the connection writes: a reader needs fewer rights.
    """
    if state == "3F000":
        return (
            "search_path names no schema that exists and that this role may use: CREATE SCHEMA, or"
            f" GRANT USAGE, CREATE ON the SCHEMA TO {_role(url)}, or correct search_path"
        )
    if state in {"42P01", "42703", "42883", "42P10"}:
        return (
            "somebody has dropped or renamed it, or search_path has changed: put it back, or"
            " restore a backup"
        )
    return _grant(said, url, write=write) if state == "42501" else "mend it on the server"


def _grant(said: str, url: URL, *, write: bool) -> str:
    role = _role(url)
    if found := re.search(r"must be (?:the )?owner of (\w+) (\S+)", said):
        kind, name = found.groups()
        return (
            f"ALTER {kind.upper()} {name} OWNER TO {role}, or let the owner run"
            " `kalshi-exporter migrate`"
        )
    if found := re.search(r"permission denied for (schema|sequence|database) (\S+)", said):
        kind, name = found.groups()
        rights = {
            "schema": "USAGE, CREATE" if write else "USAGE",
            "sequence": "USAGE",
            "database": "CONNECT",
        }
        return f"GRANT {rights[kind]} ON {kind.upper()} {name} TO {role}"
    if found := re.search(r"permission denied for (table|view|relation) (\S+)", said):
        kind, name = found.groups()
        # Nothing writes to a view.
        needed = "SELECT, INSERT, UPDATE, DELETE" if write and kind != "view" else "SELECT"
        return f"GRANT {needed} ON {name} TO {role}"
    return f"give the right to {role}"


def _role(url: URL) -> str:
    """Return the role that connects, as SQL writes it."""
    role = url.username or url.query.get("user") or os.environ.get("PGUSER") or _user()
    if not isinstance(role, str):
        return "the role"
    return role if re.fullmatch("[a-z_][a-z0-9_]*", role) else '"' + role.replace('"', '""') + '"'


def _user() -> str | None:
    """Return the name of this process's user; None if it has none, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the error of Python before and since 3.13
        return None


def remedy_of_connection(said: str, url: URL) -> str | None:
    """Return what to do about a connection that was not made; None if waiting may help.

    The driver does not tell the SQLSTATE of what a server says before the session begins.

    Args:
        said: the first line of the driver's message.
        url: of the database.
    """
    if found := re.search(r'invalid connection option "(.+?)"', said):
        return _OPTIONS.get(found[1], "remove it from database.url: libpq does not know it")
    for pattern, remedy in _CONNECTIONS:
        if re.search(pattern, said):
            return remedy.format(role=_role(url), database=url.database or _role(url))
    return None


_OPTIONS = {
    "pgbouncer": "remove it from database.url: the exporter works behind PgBouncer as it is",
    "schema": "write ?options=-csearch_path%3DSCHEMA in database.url instead",
    "ssl": "write ?sslmode=require or verify-full in database.url instead",
}

_CONNECTIONS = (
    (
        r'database ".*" does not exist|no such database',
        "CREATE DATABASE {database}, or correct the name in database.url",
    ),
    (
        r'role ".*" does not exist|no such user',
        "CREATE ROLE {role} LOGIN, or correct the user in database.url",
    ),
    (
        r"local user with ID \d+ does not exist",
        "name the user in database.url, as in //user@host/database, or in PGUSER",
    ),
    (r"not permitted to log in", "ALTER ROLE {role} LOGIN, or use another role in database.url"),
    (r"permission denied for database", "GRANT CONNECT ON DATABASE {database} TO {role}"),
    (
        r"authentication failed|no password supplied|[Pp]assword.* required",
        "correct the user and the password in database.url",
    ),
    (r"pg_hba\.conf", "allow this host, user and database in pg_hba.conf, or correct database.url"),
    (
        r"unsupported startup parameter",
        "take it out of database.url, or add it to PgBouncer's ignore_startup_parameters",
    ),
    (
        r"unrecognized configuration parameter|invalid value for parameter|requires a value",
        "correct the options in database.url, PGOPTIONS, PGDATESTYLE and PGTZ",
    ),
    (r"invalid sslmode value", "use disable, allow, prefer, require, verify-ca or verify-full"),
    (r"does not support SSL", "use sslmode=prefer or disable, or set up TLS on the server"),
    (
        r"certificate|private key file|does not match host name|sslmode",
        "correct sslmode, sslrootcert, sslcert and sslkey in database.url",
    ),
    (r"definition of service|service file", "correct the service in database.url or PGSERVICE"),
    (
        r"invalid \S+ value|invalid integer value|invalid port|could not parse",
        "correct it in database.url",
    ),
    (r"failed: Permission denied", "let this user reach the server's socket, or use TCP"),
)
