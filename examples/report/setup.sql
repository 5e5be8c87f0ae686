-- Creates the report's table with three rows if it does not exist (Azure SQL). Run it in the
-- application's database, as a user who may create tables.
IF OBJECT_ID(N'dbo.sales', N'U') IS NULL
BEGIN
    CREATE TABLE dbo.sales (
        id int NOT NULL PRIMARY KEY,
        item nvarchar(100) NOT NULL,
        amount decimal(12, 2) NULL,
        sold_on date NOT NULL
    );
    INSERT INTO dbo.sales (id, item, amount, sold_on) VALUES
        (1, N'Bread', 3.50, '2026-11-01'),
        (2, N'Café crème', 4.20, '2026-11-02'),
        (3, N'"Soup", of the day', NULL, '2026-11-02');
END;
