"""Runs the applications' statements with Microsoft's ODBC driver, which gets its own token."""

import datetime
import decimal
import os
import pathlib

import mssql_python
import pandas

STRING = (
    f"Server=tcp:localhost,{os.environ['PORT']};Database=orders;Encrypt=yes;"
    f"Authentication=ActiveDirectoryMsi;UID={os.environ['AZURE_CLIENT_ID']}"
)
connection = mssql_python.connect(STRING)
cursor = connection.cursor()


def rows(sql, *parameters):
    cursor.execute(sql, *parameters)
    return [tuple(row) for row in cursor.fetchall()]


assert rows("SELECT SUSER_SNAME()") == [(os.environ["EXPECTED_USER"],)]

for application in ["test-table", "report", "users-api", "employees-api"]:
    for _ in range(2):
        setup = pathlib.Path(os.environ["SETUP"], application, "setup.sql").read_text("utf-8")
        cursor.execute(setup)
        while cursor.nextset():
            pass
connection.commit()

# A page from a table.
page = rows("SELECT Column2 FROM dbo.TestTable ORDER BY Column1")
assert page == [("Hello",), ("Entra",)], page

# A query into a data frame.
query = "SELECT id, item, amount, sold_on FROM sales ORDER BY id"
cursor.execute(query)
names = [column[0] for column in cursor.description]
frame = pandas.DataFrame([tuple(row) for row in cursor.fetchall()], columns=names)
assert list(frame.columns) == ["id", "item", "amount", "sold_on"], frame
assert frame["item"][1] == "Café crème" and frame["amount"][0] == decimal.Decimal("3.50"), frame
assert frame["amount"].isna()[2] and frame["sold_on"][0] == datetime.date(2026, 11, 1), frame

# Users: create, list, get. Each statement with parameters is prepared.
create = "INSERT INTO dbo.Users (FirstName, LastName) OUTPUT INSERTED.Id VALUES (?, ?)"
[(first,)] = rows(create, "Ada", "Lovelace")
[(second,)] = rows(create, "Zoë", "O'Hara 🦀")
connection.commit()
[(lost,)] = rows(create, "Nobody", "Nowhere")
connection.rollback()
assert second == first + 1, (first, second)
listed = "SELECT TOP (?) Id, FirstName, LastName FROM dbo.Users WHERE Id > ? ORDER BY Id"
expected = [(first, "Ada", "Lovelace"), (second, "Zoë", "O'Hara 🦀")]
assert rows(listed, 10, first - 1) == expected, rows(listed, 10, first - 1)
one = "SELECT Id, FirstName, LastName FROM dbo.Users WHERE Id = ?"
assert rows(one, second) == expected[1:] and rows(one, lost) == []
try:
    rows(create, "x" * 51, "too long")
    raise AssertionError("a name longer than its column was accepted")
except mssql_python.DatabaseError as error:
    assert "truncated" in str(error), error
connection.rollback()

# Employees, with decimals.
hire = (
    "INSERT INTO dbo.Employees (Name, Position, Salary) OUTPUT INSERTED.ID "
    "VALUES (?, ?, ?)"
)
[(hired,)] = rows(hire, "Radia Perlman", "Engineer", decimal.Decimal("123456.78"))
connection.commit()
everyone = rows("SELECT TOP (1000) ID, Name, Position, Salary FROM dbo.Employees ORDER BY ID")
assert everyone[1][1:] == ("Grace Hopper", "Rear Admiral", decimal.Decimal("97500.50")), everyone
found = rows("SELECT ID, Name, Position, Salary FROM dbo.Employees WHERE ID = ?", hired)
assert found == [(hired, "Radia Perlman", "Engineer", decimal.Decimal("123456.78"))], found

# Several sets of parameters at once.
cursor.executemany("INSERT INTO dbo.Users (FirstName, LastName) VALUES (?, ?)", [("a", "b"), ("c", "d")])
connection.commit()
assert rows("SELECT COUNT(*) FROM dbo.Users WHERE Id > ?", second) == [(2,)]

# A second connection uses the same token.
other = mssql_python.connect(STRING)
assert other.cursor().execute("SELECT 1").fetchone()[0] == 1
other.close()
connection.close()
print("all statements")
