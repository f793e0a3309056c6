-- The role of the metadata connection: what the bundle does, and no more. It cannot read connections or variables.
--
-- Run this in Airflow's metadata database as the owner of Airflow's tables, with psql or any other client. It may be run
-- again at any time, for instance after `airflow db clean` has made a table, or after an update of Airflow or the bundle.
-- Creating the role needs CREATEROLE: if the owner lacks it, let an administrator run part 1 first.
--
-- If Airflow's tables lie in another schema than public, put this before it, with that schema:
--     SET search_path = airflow;
--     ALTER ROLE xcom_maintenance SET search_path = airflow;    -- after part 1

-- 1. The role. It has no password here, so that none gets into a repository: nobody can log in with one until you set it,
--    with \password xcom_maintenance in psql, or with ALTER ROLE xcom_maintenance PASSWORD '...' elsewhere.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'xcom_maintenance') THEN
        CREATE ROLE xcom_maintenance LOGIN;
    END IF;
END
$$;

-- 2. To report. The schema is the one in which Airflow's tables are found.
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

-- 3. Tables that hold XCom rows aside: `airflow db clean` and migrations leave them, and what their rows refer to is kept.
--    A job that looks for references stops with an error at one that it may not read: run this part again, or drop it.
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
-- Instead of running it again you can grant such tables in advance. This holds for every table that the role which runs
-- it makes from now on, so also for tables of a later Airflow that are nobody's business: hence not by default.
-- ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO xcom_maintenance;

-- 4. To enforce the cleanup.
GRANT DELETE ON xcom TO xcom_maintenance;

-- 5. Recommended: lock the runs of a batch, so that somebody who clears one waits for the batch that is deleting from it,
--    a few hundredths of a second. Nothing is ever written: SELECT ... FOR SHARE asks for UPDATE on at least one column,
--    and this is the one that decides nothing in Airflow (each change of a run sets it anew). Without it the delete still
--    checks every run and task in its own statement, but a clear that starts in the same instant is not held back.
GRANT UPDATE (updated_at) ON dag_run TO xcom_maintenance;

-- 6. Recommended: the audit log, which remembers DAGs that were deleted in the UI. Without it, blobs of such DAGs count
--    as somebody else's and are left alone. The log can hold what users typed: leave this out if that matters more.
GRANT SELECT ON log TO xcom_maintenance;

-- Optional, each for one thing; take the two dashes away.

-- To put deleted rows back from their backup (xcom_restore); blobs from quarantine return without it. It can only add rows,
-- not change any.
-- GRANT INSERT ON xcom TO xcom_maintenance;

-- To replace what rows hold, their values and no other column: to move large values into blobs and back
-- (xcom_offload_large_values), and to encrypt them with another key (xcom_rotate_keys).
-- GRANT UPDATE (value) ON xcom TO xcom_maintenance;

-- To see how far replicas lag behind and slow down for them; other roles see that there is a replica but not its lag.
-- Needs a superuser, or ADMIN on pg_monitor. It shows the statistics and queries of all roles.
-- GRANT pg_monitor TO xcom_maintenance;

-- To VACUUM the table after a large cleanup, instead of waiting for autovacuum. Postgres 17 and later; before that only
-- the owner of a table may, and making the role a member of the owner would give it everything.
-- GRANT MAINTAIN ON xcom TO xcom_maintenance;
