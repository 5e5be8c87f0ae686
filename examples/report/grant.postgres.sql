-- Lets the system-assigned identity read the table, and do nothing else (PostgreSQL).
-- Its name is the application's. The role is made in the database `postgres`, as the
-- server's Entra administrator:
SELECT * FROM pgaadauth_create_principal('NAME-OF-THE-APP', false, false);

-- The rest in the application's database:
GRANT SELECT ON sales TO "NAME-OF-THE-APP";
