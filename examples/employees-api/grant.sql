-- Lets the identity read employees and add some, and do nothing else. Run it in the
-- application's database, as the server's Entra administrator. The name is that of the
-- identity in deploy/main.bicep.
IF DATABASE_PRINCIPAL_ID(N'employees-api-identity') IS NULL
    CREATE USER [employees-api-identity] FROM EXTERNAL PROVIDER;
GRANT SELECT, INSERT ON dbo.Employees TO [employees-api-identity];
