-- Grants the identity the right to read and add employees, and no other right. Run it in the
-- application's database, as the server's Entra administrator. The name is that of the
-- identity in deploy/registry.bicep.
IF DATABASE_PRINCIPAL_ID(N'employees_api') IS NULL
    CREATE ROLE employees_api;
GRANT SELECT, INSERT ON dbo.Employees TO employees_api;

IF DATABASE_PRINCIPAL_ID(N'employees-api-identity') IS NULL
    CREATE USER [employees-api-identity] FROM EXTERNAL PROVIDER;
ALTER ROLE employees_api ADD MEMBER [employees-api-identity];
