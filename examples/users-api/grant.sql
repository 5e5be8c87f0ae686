-- Lets the identity read users and add some, and do nothing else. Run it in the
-- application's database, as the server's Entra administrator.
CREATE USER [users-api-identity] FROM EXTERNAL PROVIDER;
GRANT SELECT, INSERT ON dbo.Users TO [users-api-identity];
