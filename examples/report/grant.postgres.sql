-- Grants the system-assigned identity the right to read the table, and no other right
-- (PostgreSQL). Its name is the application's. Create the role in the database `postgres`, as
-- the server's Entra administrator:
SELECT * FROM pgaadauth_create_principal('NAME-OF-THE-APP', false, false);

-- Run the rest in the application's database:
GRANT SELECT ON sales TO "NAME-OF-THE-APP";
