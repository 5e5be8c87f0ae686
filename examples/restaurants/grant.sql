-- Grants the identity access, and the right to read and add restaurants and reviews.
-- Create the role in the database `postgres`, as the server's Entra administrator:
SELECT * FROM pgaadauth_create_principal('restaurants-identity', false, false);

-- Run the rest in the application's database:
GRANT SELECT, INSERT ON restaurant, review TO "restaurants-identity";
