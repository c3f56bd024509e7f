-- A role that may read the whole history and write nothing, for analysts and Grafana.
--
-- Run it in the exporter's database as the role that the exporter connects as, if that may create
-- roles, or as an administrator who names the exporter's role below. Then give it a password:
--     \password kalshi_reader

CREATE ROLE kalshi_reader LOGIN;

DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO kalshi_reader', current_database());
    -- Before Postgres 15 every role may create tables in public, and still temporary ones.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

GRANT USAGE ON SCHEMA public TO kalshi_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO kalshi_reader;
-- What later versions add. An administrator writes: ALTER DEFAULT PRIVILEGES FOR ROLE exporter …
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO kalshi_reader;

-- So that a mistake is refused by its right name, and a forgotten query ends.
ALTER ROLE kalshi_reader SET default_transaction_read_only = on;
ALTER ROLE kalshi_reader SET statement_timeout = '5min';
ALTER ROLE kalshi_reader SET idle_in_transaction_session_timeout = '10min';
