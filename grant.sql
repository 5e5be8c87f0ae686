-- Lets the system-assigned identity read the table, and do nothing else (Azure SQL).
-- Its name is the application's. Run it in the application's database, as the server's
-- Entra administrator.
IF DATABASE_PRINCIPAL_ID(N'report-29467') IS NULL
    CREATE USER [report-29467] FROM EXTERNAL PROVIDER;
GRANT SELECT ON dbo.sales TO [report-29467];
