-- Grants the identity the right to read and add users, and no other right. Run it in the
-- application's database, as the server's Entra administrator.
IF DATABASE_PRINCIPAL_ID(N'users-api-identity') IS NULL
    CREATE USER [users-api-identity] FROM EXTERNAL PROVIDER;
GRANT SELECT, INSERT ON dbo.Users TO [users-api-identity];
