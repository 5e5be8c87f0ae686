// Node's pg: a pool whose password is a function, as is usual for tokens.
const { readFileSync } = require("node:fs");
const { Pool } = require("pg");

const pool = new Pool({
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  user: process.env.PGUSER,
  database: process.env.PGDATABASE,
  password: async () => process.env.TOKEN,
  ssl: { ca: readFileSync(process.env.CA), servername: process.env.PGHOST },
  max: 2,
});

(async () => {
  const { rows } = await pool.query("SELECT name FROM dish WHERE id <= $1 ORDER BY id", [2]);
  const names = rows.map((row) => row.name).join();
  if (names !== "soup,salad") throw new Error(names);
  await pool.end();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
