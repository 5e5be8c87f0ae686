-- Grants the system-assigned identity the right to read the table, and no other right (Azure SQL).
-- Its name is the application's. Run it in the application's database, as the server's
-- Entra administrator.
IF DATABASE_PRINCIPAL_ID(N'NAME-OF-THE-APP') IS NULL
    CREATE USER [NAME-OF-THE-APP] FROM EXTERNAL PROVIDER;
GRANT SELECT ON dbo.sales TO [NAME-OF-THE-APP];
