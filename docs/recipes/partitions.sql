-- Split every table that holds accounts' rows into eight partitions, by the hash of the account.
--
-- Run it in the exporter's database as the exporter's role: after `kalshi-exporter migrate` on a new
-- database, or at any time on one in use, under running daemons. It is one transaction: all of it
-- happens, or none. Tables that are partitioned already stay as they are.

DO $$
DECLARE
    name text;
    statement text;
    indexes text[];
    views text[];
    own CONSTANT regnamespace := quote_ident(current_schema())::regnamespace;
    tables CONSTANT text[] := ARRAY(
        SELECT c.relname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'account'
        WHERE c.relnamespace = own AND c.relkind = 'r' AND NOT c.relispartition
        ORDER BY c.relname = 'polls' DESC, c.relname
    );
BEGIN
    -- Daemons wait, and their polls go to the spool if that takes longer than ten seconds.
    FOREACH name IN ARRAY tables LOOP
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name);
    END LOOP;
    -- Read now, while each name in them still means the table that is to be replaced.
    views := ARRAY(
        SELECT format('CREATE OR REPLACE VIEW %I AS %s', relname, pg_get_viewdef(oid))
        FROM pg_class WHERE relnamespace = own AND relkind = 'v'
    );
    FOREACH name IN ARRAY tables LOOP
        -- They keep their names, because later versions of the exporter may use them.
        indexes := ARRAY(
            SELECT CASE WHEN k.oid IS NULL THEN pg_get_indexdef(i.indexrelid)
                   ELSE format('ALTER TABLE %I ADD CONSTRAINT %I %s',
                               name, k.conname, pg_get_constraintdef(k.oid)) END
            FROM pg_index i LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid
            WHERE i.indrelid = quote_ident(name)::regclass
        );
        EXECUTE format('ALTER TABLE %I RENAME TO %I', name, name || '_whole');
        EXECUTE format(
            'CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING INDEXES) PARTITION BY HASH (account)',
            name, name || '_whole');
        EXECUTE format('COMMENT ON TABLE %I IS %L',
                       name, obj_description(quote_ident(name || '_whole')::regclass));
        FOR number IN 0..7 LOOP
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF %I FOR VALUES WITH (MODULUS 8, REMAINDER %s)',
                name || '_' || number, name, number);
        END LOOP;
        EXECUTE format('INSERT INTO %I SELECT * FROM %I', name, name || '_whole');
        -- It would be dropped together with the table that owns it.
        IF name = 'polls' THEN
            ALTER SEQUENCE polls_id_seq OWNED BY polls.id;
        END IF;
        FOREACH statement IN ARRAY views LOOP
            EXECUTE statement;
        END LOOP;
        EXECUTE format('DROP TABLE %I', name || '_whole');
        FOREACH statement IN ARRAY indexes LOOP
            EXECUTE statement;
        END LOOP;
        EXECUTE format('ANALYZE %I', name);
    END LOOP;
END
$$;
