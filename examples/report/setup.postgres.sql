-- Creates the report's table with three rows if it does not exist (PostgreSQL). Run it in the
-- application's database, as a role that may create tables.
CREATE TABLE IF NOT EXISTS sales (
    id integer PRIMARY KEY,
    item varchar(100) NOT NULL,
    amount numeric(12, 2),
    sold_on date NOT NULL
);
INSERT INTO sales (id, item, amount, sold_on) VALUES
    (1, 'Bread', 3.50, '2026-11-01'),
    (2, 'Café crème', 4.20, '2026-11-02'),
    (3, '"Soup", of the day', NULL, '2026-11-02')
ON CONFLICT (id) DO NOTHING;
