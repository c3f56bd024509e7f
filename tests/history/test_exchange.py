"""An account's history never mixes two exchanges."""

import pytest
from sqlalchemy import select

from exporter.database.database import Database
from exporter.errors import ExchangeChangedError, Exit
from exporter.history.exchange import settle
from exporter.history.schema import accounts


def known(database: Database) -> dict[str, str | None]:
    with database.transaction() as connection:
        rows = connection.execute(select(accounts.c.account, accounts.c.exchange))
        return {row.account: row.exchange for row in rows}


def test_the_exchange_of_an_account_is_recorded_once(database: Database) -> None:
    settle(database, {"a": "predictions", "b": "margin"})
    settle(database, {"b": "margin", "c": "margin"})
    assert known(database) == {"a": "predictions", "b": "margin", "c": "margin"}


def test_an_account_of_an_older_version_gets_the_configured_exchange(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            accounts.insert().values(account="a", version=3, failed_polls=0, refused_polls=0)
        )
    settle(database, {"a": "predictions"})
    assert known(database) == {"a": "predictions"}
    with database.transaction() as connection:
        assert connection.execute(select(accounts.c.version)).scalar() == 3


def test_another_exchange_is_refused_and_nothing_is_recorded(database: Database) -> None:
    settle(database, {"a": "predictions"})
    with pytest.raises(
        ExchangeChangedError, match=r'account a: .*"predictions".*"margin"'
    ) as error:
        settle(database, {"a": "margin", "b": "margin"})
    assert error.value.exit_code == Exit.CONFIGURATION
    assert known(database) == {"a": "predictions"}
