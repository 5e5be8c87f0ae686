-- Creates the tables if they do not exist. Run it in the application's database, as a role
-- that may create tables.
CREATE TABLE IF NOT EXISTS restaurant (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name varchar(50) NOT NULL,
    description varchar(250) NOT NULL
);
CREATE TABLE IF NOT EXISTS review (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    restaurant_id bigint NOT NULL REFERENCES restaurant (id),
    reviewer varchar(50) NOT NULL,
    rating smallint NOT NULL CHECK (rating BETWEEN 1 AND 5),
    content varchar(500) NOT NULL,
    photo varchar(40),
    written_on date NOT NULL DEFAULT current_date
);
CREATE INDEX IF NOT EXISTS restaurant_by_name ON restaurant (name);
CREATE INDEX IF NOT EXISTS review_of_restaurant ON review (restaurant_id);
