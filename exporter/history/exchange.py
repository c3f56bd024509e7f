"""Note from which exchange each account's history comes, and refuse another one."""

from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, select

from exporter.database.database import Database
from exporter.errors import ExchangeChangedError
from exporter.history.head import NOTHING_YET, insert_for
from exporter.history.schema import accounts
from exporter.history.types import among


def settle(database: Database, exchanges: Mapping[str, str]) -> None:
    """Note the exchange of each account, or refuse an account whose history is another's.

    Args:
        database: with the newest schema.
        exchanges: "predictions" or "margin", by account.

    Raises:
        ExchangeChangedError: the history of an account comes from another exchange.
        DatabaseError: the database failed.
    """
    with database.transaction() as connection:
        known = _known(connection, exchanges)
        changed = [each for each in known if known[each] != exchanges[each]]
        if changed:
            raise ExchangeChangedError(
                *(
                    f'account {each}: its history comes from exchange = "{known[each]}", and would'
                    f' mix with that of "{exchanges[each]}": give the account another name'
                    for each in changed
                )
            )
        statement = (
            insert_for(connection.dialect.name, accounts)
            .values(NOTHING_YET | {"exchange": bindparam("exchange")})
            .on_conflict_do_update(
                index_elements=["account"], set_={"exchange": bindparam("exchange")}
            )
        )
        for account in sorted(exchanges.keys() - known.keys()):
            connection.execute(statement, {"account": account, "exchange": exchanges[account]})


def _known(connection: Connection, exchanges: Mapping[str, str]) -> dict[str, str]:
    rows = connection.execute(
        select(accounts.c.account, accounts.c.exchange).where(
            among(connection, accounts.c.account, sorted(exchanges)),
            accounts.c.exchange.is_not(None),
        )
    )
    return {row.account: row.exchange for row in rows}
