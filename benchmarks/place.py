"""The environment of a subject, passed between processes as JSON: exchange, keys, database."""

import json
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit


class Place(NamedTuple):
    """The environment of a subject.

    Attributes:
        base_url: the address of the local exchange.
        key_ids: one per account; all share the key in `key_file`.
        key_file: a 2048-bit RSA key in PEM.
        directory: a directory for the subject alone.
        postgres: the libpq URL of a database for the subject alone, over a Unix socket; None to use
            SQLite, in `directory`.
        detail: further arguments of a subject.
    """

    base_url: str
    key_ids: tuple[str, ...]
    key_file: str
    directory: str
    postgres: str | None = None
    detail: str = ""

    @property
    def accounts(self) -> dict[str, str]:
        """Each account's key id, by the account's name."""
        return {f"account-{number}": each for number, each in enumerate(self.key_ids)}

    @property
    def sqlite_file(self) -> Path:
        """The path of the subject's SQLite database."""
        return Path(self.directory) / "order_groups.db"

    @property
    def sqlalchemy_url(self) -> str:
        """The SQLAlchemy URL of the database."""
        if self.postgres is None:
            return f"sqlite:///{self.sqlite_file}"
        return self.postgres.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def socket_and_name(self) -> tuple[str, str]:
        """The directory of Postgres' socket, and the database's name."""
        url = urlsplit(self.postgres or "")
        return parse_qs(url.query)["host"][0], url.path.removeprefix("/")

    def to_json(self) -> str:
        """Return the place as one line of JSON."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> "Place":
        """Return the place that `to_json` encoded."""
        base_url, key_ids, *others = json.loads(text)
        return cls(base_url, tuple(key_ids), *others)
