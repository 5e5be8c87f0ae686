// Runs the applications' statements with tedious, which gets its own token from App Service's endpoint.
import assert from 'node:assert/strict';
import { Connection, Request, TYPES } from 'tedious';

const connection = new Connection({
  server: 'localhost',
  authentication: {
    type: 'azure-active-directory-msi-app-service',
    options: { clientId: process.env.AZURE_CLIENT_ID },
  },
  options: {
    port: Number(process.env.PORT),
    database: 'orders',
    encrypt: true,
    useColumnNames: false,
  },
});
await new Promise((done, failed) => connection.connect((error) => (error ? failed(error) : done())));

function rows(sql, parameters = {}, run = 'execSql') {
  return new Promise((done, failed) => {
    const found = [];
    const request = new Request(sql, (error) => (error ? failed(error) : done(found)));
    for (const [name, [type, value, options]] of Object.entries(parameters)) {
      request.addParameter(name, type, value, options);
    }
    request.on('row', (columns) => found.push(columns.map((column) => column.value)));
    connection[run](request);
  });
}

const step = (name) => new Promise((done, failed) => {
  connection[name]((error) => (error ? failed(error) : done()));
});

assert.deepEqual(await rows('SELECT SUSER_SNAME()'), [[process.env.EXPECTED_USER]]);

// A page from a table.
const page = await rows('SELECT Column2 FROM dbo.TestTable ORDER BY Column1', {}, 'execSqlBatch');
assert.deepEqual(page, [['Hello'], ['Entra']]);

// A query into a table in memory.
const sales = await rows('SELECT id, item, amount, sold_on FROM sales ORDER BY id');
assert.deepEqual(sales[1], [2, 'Café crème', 4.2, new Date('2026-11-02T00:00:00Z')]);
assert.equal(sales[2][2], null);

// Users: create, list, get; in a transaction that commits, and in one that is rolled back.
const create = 'INSERT INTO dbo.Users (FirstName, LastName) OUTPUT INSERTED.Id VALUES (@P1, @P2)';
const user = (first, last) => ({ P1: [TYPES.NVarChar, first], P2: [TYPES.NVarChar, last] });
await step('beginTransaction');
const [[first]] = await rows(create, user('Ada', 'Lovelace'));
await step('commitTransaction');
await step('beginTransaction');
const [[lost]] = await rows(create, user('Nobody', 'Nowhere'));
await step('rollbackTransaction');
const list = 'SELECT TOP (@P1) Id, FirstName, LastName FROM dbo.Users WHERE Id > @P2 ORDER BY Id';
const listed = await rows(list, { P1: [TYPES.Int, 1], P2: [TYPES.Int, first - 1] });
assert.deepEqual(listed, [[first, 'Ada', 'Lovelace']]);
const get = 'SELECT Id, FirstName, LastName FROM dbo.Users WHERE Id = @P1';
assert.deepEqual(await rows(get, { P1: [TYPES.Int, lost] }), []);
await assert.rejects(rows('SELECT * FROM nowhere'), /Invalid object name/);

// Employees, with a prepared statement that runs twice.
const hire = 'INSERT INTO dbo.Employees (Name, Position, Salary) OUTPUT INSERTED.ID VALUES (@P1, @P2, @P3)';
const hired = await new Promise((done, failed) => {
  const ids = [];
  let runs = 0;
  const request = new Request(hire, (error) => {
    if (error) {
      failed(error);
    }
  });
  request.addParameter('P1', TYPES.NVarChar);
  request.addParameter('P2', TYPES.NVarChar);
  request.addParameter('P3', TYPES.Decimal, undefined, { precision: 12, scale: 2 });
  request.on('row', (columns) => ids.push(columns[0].value));
  request.on('prepared', () => {
    connection.execute(request, { P1: 'Radia Perlman', P2: 'Engineer', P3: 123456.78 });
  });
  request.on('requestCompleted', () => {
    runs += 1;
    if (runs === 1) {
      connection.execute(request, { P1: 'Barbara Liskov', P2: 'Professor', P3: 0.01 });
    } else if (runs === 2) {
      connection.unprepare(request);
    } else if (runs === 3) {
      done(ids);
    }
  });
  connection.prepare(request);
});
assert.equal(hired.length, 2);
const employee = 'SELECT ID, Name, Position, Salary FROM dbo.Employees WHERE ID = @P1';
assert.deepEqual(await rows(employee, { P1: [TYPES.Int, hired[1]] }), [
  [hired[1], 'Barbara Liskov', 'Professor', 0.01],
]);

// A reset as in pools of tedious.
await rows('SET NOCOUNT ON; CREATE TABLE #mine (n int)', {}, 'execSqlBatch');
await new Promise((done, failed) => connection.reset((error) => (error ? failed(error) : done())));
await assert.rejects(rows('SELECT * FROM #mine', {}, 'execSqlBatch'), /Invalid object name/);

connection.close();
console.log('all statements');
