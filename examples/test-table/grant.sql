-- Grants the identity the right to read the table, and no other right. Run it in the application's
-- database, as the server's Entra administrator.
IF DATABASE_PRINCIPAL_ID(N'test-table-identity') IS NULL
    CREATE USER [test-table-identity] FROM EXTERNAL PROVIDER;
GRANT SELECT ON dbo.TestTable TO [test-table-identity];
