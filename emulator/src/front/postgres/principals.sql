-- The functions of Azure Database for PostgreSQL for its Entra administrators ("Manage
-- Microsoft Entra roles"), which the front creates in the engine. One implicit transaction.
SELECT pg_catalog.pg_advisory_xact_lock(8241990170);

-- The group of the administrators.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'azure_pg_admin') THEN
        CREATE ROLE azure_pg_admin NOLOGIN;
    END IF;
END $$;

-- A comment marks a role as created by the front. PostgreSQL drops it with the role.
CREATE OR REPLACE FUNCTION pg_catalog.pgaadauth_create_principal_with_oid(
    rolename text, objectid text, objecttype text, isadmin boolean, ismfa boolean
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- `session_user` is a superuser if the front itself calls.
    by_superuser boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = session_user);
BEGIN
    IF objecttype IS NULL OR objecttype NOT IN ('user', 'group', 'service') THEN
        RAISE 'objectType must be user, group or service' USING ERRCODE = '22023';
    END IF;
    EXECUTE format('CREATE ROLE %I LOGIN', rolename);
    EXECUTE format('COMMENT ON ROLE %I IS %L', rolename, concat(
        'entra-pool-emulator: aadauth',
        ',oid=' || objectid::uuid, ',type=' || objecttype,
        CASE WHEN isadmin THEN ',admin' END, CASE WHEN ismfa THEN ',mfa' END));
    IF isadmin THEN
        EXECUTE format('ALTER ROLE %I CREATEDB CREATEROLE', rolename);
        EXECUTE format('GRANT azure_pg_admin TO %I', rolename);
    END IF;
    -- Since PostgreSQL 16, CREATEROLE alone is not enough to change or drop a role.
    IF current_setting('server_version_num')::int >= 160000 AND NOT by_superuser THEN
        EXECUTE format('GRANT %I TO %I WITH ADMIN TRUE, INHERIT FALSE, SET FALSE', rolename, session_user);
    END IF;
    RETURN format('Created role for %I', rolename);
END $$;

-- Without an object ID, the role belongs to whichever principal has its name.
CREATE OR REPLACE FUNCTION pg_catalog.pgaadauth_create_principal(
    rolename text, isadmin boolean, ismfa boolean
) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT pgaadauth_create_principal_with_oid(
        rolename, NULL, CASE WHEN strpos(rolename, '@') > 0 THEN 'user' ELSE 'service' END,
        isadmin, ismfa);
$$;

CREATE OR REPLACE FUNCTION pg_catalog.pgaadauth_list_principals(isadminvalue boolean)
RETURNS TABLE (
    rolname name, principaltype text, objectid text, tenantid text, ismfa integer, isadmin integer
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.rolname, substring(m.mark FROM ',type=([a-z]+)'), substring(m.mark FROM ',oid=([0-9a-f-]+)'),
        '{tenant}'::text, (m.mark LIKE '%,mfa%')::integer, (m.mark LIKE '%,admin%')::integer
    FROM pg_roles AS r, LATERAL (SELECT shobj_description(r.oid, 'pg_authid')) AS m (mark)
    WHERE m.mark LIKE 'entra-pool-emulator: aadauth%' AND (m.mark LIKE '%,admin%' OR NOT isadminvalue)
    ORDER BY r.rolname;
$$;

REVOKE ALL ON FUNCTION pg_catalog.pgaadauth_create_principal_with_oid(text, text, text, boolean, boolean),
    pg_catalog.pgaadauth_create_principal(text, boolean, boolean),
    pg_catalog.pgaadauth_list_principals(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pg_catalog.pgaadauth_create_principal_with_oid(text, text, text, boolean, boolean),
    pg_catalog.pgaadauth_create_principal(text, boolean, boolean),
    pg_catalog.pgaadauth_list_principals(boolean) TO azure_pg_admin;
