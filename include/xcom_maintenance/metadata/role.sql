-- The role for the metadata Connection, with only the permissions the bundle needs. It cannot read Connections or Variables.
--
-- Run this in Airflow's metadata database as the owner of Airflow's tables, with psql or any other client. You can run it
-- again at any time, for instance after `airflow db clean` has created a table, or after updating Airflow or the bundle.
-- Creating the role needs CREATEROLE: if the owner lacks it, have an administrator run part 1 first.
--
-- If Airflow's tables are in a schema other than public, put this first, with that schema:
--     SET search_path = airflow;
--     ALTER ROLE xcom_maintenance SET search_path = airflow;    -- after part 1

-- 1. The role. This file sets no password, so that none gets into a repository. Nobody can log in with one until you set it,
--    with \password xcom_maintenance in psql, or with ALTER ROLE xcom_maintenance PASSWORD '...' elsewhere.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'xcom_maintenance') THEN
        CREATE ROLE xcom_maintenance LOGIN;
    END IF;
END
$$;

-- 2. To report. The schema is the one that contains Airflow's tables.
DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO xcom_maintenance',
                   (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE c.oid = 'xcom'::regclass));
END
$$;
GRANT SELECT ON xcom TO xcom_maintenance;
GRANT SELECT ON dag_run TO xcom_maintenance;
GRANT SELECT ON task_instance TO xcom_maintenance;
GRANT SELECT ON dag TO xcom_maintenance;
GRANT SELECT ON dag_tag TO xcom_maintenance;
GRANT SELECT ON alembic_version TO xcom_maintenance;

-- 3. Archive tables that `airflow db clean` and migrations leave; blobs that their rows refer to are kept. A DAG that
--    searches for references stops with an error at a table it may not read: run this part again, or drop the table.
DO $$
DECLARE
    aside regclass;
BEGIN
    FOR aside IN
        SELECT c.oid FROM pg_class c
        WHERE c.relkind IN ('r', 'p')
          AND c.relnamespace = (SELECT x.relnamespace FROM pg_class x WHERE x.oid = 'xcom'::regclass)
          AND (c.relname LIKE '\_airflow\_deleted\_\_xcom\_\_%' OR c.relname LIKE '\_airflow\_moved\_\_%xcom%'
               OR c.relname = '_xcom_archive')
    LOOP
        EXECUTE format('GRANT SELECT ON %s TO xcom_maintenance', aside);
    END LOOP;
END
$$;
-- Instead of running part 3 again, you can grant access in advance. That covers every table that the role running this
-- statement will create, including future Airflow tables with unrelated data, so it is off by default.
-- ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO xcom_maintenance;

-- 4. To enforce the cleanup.
GRANT DELETE ON xcom TO xcom_maintenance;

-- 5. Recommended: lock the runs of a batch, so that clearing one of them waits for the batch that is deleting from it, a few
--    hundredths of a second. Nothing is ever written: SELECT ... FOR SHARE requires UPDATE on at least one column, and this
--    one has no effect in Airflow (every change of a run overwrites it). Without it, the delete still checks every run and
--    task in its own statement, but a clear that starts at the same instant is not blocked.
GRANT UPDATE (updated_at) ON dag_run TO xcom_maintenance;

-- 6. Recommended: the audit log, which records DAGs that were deleted in the UI. Without it, blobs of such DAGs count as
--    foreign and are left alone. The log can contain user input: leave this out if that matters more to you.
GRANT SELECT ON log TO xcom_maintenance;

-- Optional permissions, each for one purpose. Remove the leading dashes to enable one.

-- To put archived rows back (xcom_restore); quarantined blobs return without it. It allows adding rows, not changing them.
-- GRANT INSERT ON xcom TO xcom_maintenance;

-- To replace the values of rows, and no other column: to move large values into blobs and back
-- (xcom_offload_large_values), and to re-encrypt values with a new key (xcom_rotate_keys).
-- GRANT UPDATE (value) ON xcom TO xcom_maintenance;

-- To see how far replicas lag and slow down for them; without it, the role sees that a replica exists but not its lag.
-- Needs a superuser, or ADMIN on pg_monitor. It shows the statistics and queries of all roles.
-- GRANT pg_monitor TO xcom_maintenance;

-- To VACUUM the table after a large cleanup, instead of waiting for autovacuum. Postgres 17 and later; before that only
-- a table's owner may do this, and making the role a member of the owner would grant it everything.
-- GRANT MAINTAIN ON xcom TO xcom_maintenance;
