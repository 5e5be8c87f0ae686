-- Lets the identity in, and to read and add restaurants and reviews; no more.
-- The role is made in the database `postgres`, as the server's Entra administrator:
SELECT * FROM pgaadauth_create_principal('restaurants-identity', false, false);

-- The rest in the application's database:
GRANT SELECT, INSERT ON restaurant, review TO "restaurants-identity";
