-- Creates the table with two rows if it does not exist. Run it in the application's database,
-- as a user who may create tables.
IF OBJECT_ID(N'dbo.Employees', N'U') IS NULL
BEGIN
    CREATE TABLE dbo.Employees (
        ID int IDENTITY(1,1) NOT NULL CONSTRAINT PK_Employees PRIMARY KEY,
        Name nvarchar(100) NOT NULL,
        Position nvarchar(100) NOT NULL,
        Salary decimal(12,2) NOT NULL CONSTRAINT CK_Employees_Salary CHECK (Salary >= 0)
    );
    INSERT INTO dbo.Employees (Name, Position, Salary)
    VALUES (N'Ada Lovelace', N'Analyst', 82000.00), (N'Grace Hopper', N'Rear Admiral', 97500.50);
END;
