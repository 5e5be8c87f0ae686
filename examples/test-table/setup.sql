-- Creates the table with two rows if it does not exist. Run it in the application's database,
-- as a user who may create tables.
IF OBJECT_ID(N'dbo.TestTable', N'U') IS NULL
BEGIN
    CREATE TABLE dbo.TestTable (
        Column1 int NOT NULL PRIMARY KEY,
        Column2 nvarchar(100) NULL
    );
    INSERT INTO dbo.TestTable (Column1, Column2) VALUES (1, N'Hello'), (2, N'Entra');
END;
