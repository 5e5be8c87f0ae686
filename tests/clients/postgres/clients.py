"""Logs in with each client and runs typical first steps. Prints a line for each client."""

import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request

HERE = sys.argv[1]
AUDIENCE = "https://ossrdbms-aad.database.windows.net"


def token():
    """Returns a token of the user-assigned identity from App Service's endpoint."""
    query = urllib.parse.urlencode(
        {
            "api-version": "2019-08-01",
            "resource": AUDIENCE,
            "client_id": os.environ["AZURE_CLIENT_ID"],
        }
    )
    request = urllib.request.Request(
        os.environ["IDENTITY_ENDPOINT"] + "?" + query,
        headers={"X-IDENTITY-HEADER": os.environ["IDENTITY_HEADER"]},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["access_token"]


URL = urllib.parse.urlsplit(os.environ["EMULATOR_POSTGRES"])
CA = urllib.parse.parse_qs(URL.query)["sslrootcert"][0]
HOST, PORT, USER, DATABASE = URL.hostname, URL.port, URL.username, "shop"
LIBPQ = {
    "PGHOST": HOST,
    "PGPORT": str(PORT),
    "PGUSER": USER,
    "PGDATABASE": DATABASE,
    "PGPASSWORD": token(),
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": CA,
}


def run(*command, **more):
    """Runs a process with libpq's variables and returns its output."""
    environment = {**os.environ, **LIBPQ, **more}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def grant():
    """Grants permissions as an administrator: the role exists after its first login."""
    run(os.environ["PSQL"], "-c", "SELECT 1")
    sql = f'GRANT ALL ON SCHEMA public TO "{USER}"'
    socket = os.environ["SUPERUSER_SOCKET"]
    subprocess.run(
        [os.environ["PSQL"], "-q", "-h", socket, "-U", "postgres", "-d", DATABASE, "-c", sql],
        check=True,
    )


def psql():
    psql = os.environ["PSQL"]
    run(psql, "-c", "CREATE TABLE dish (id serial PRIMARY KEY, name varchar(50) NOT NULL)")
    run(psql, "-c", "INSERT INTO dish (name) VALUES ('soup'), ('salad')")
    listed = run(psql, "-c", r"\d") + run(psql, "-c", r"\d dish")
    assert "dish_id_seq" in listed and "character varying(50)" in listed, listed
    assert run(psql, "-At", "-c", "SELECT current_user").strip() == USER


def pg_dump():
    dumped = run(os.environ["PG_DUMP"], "--table=dish")
    assert "CREATE TABLE public.dish" in dumped and "salad" in dumped, dumped


def psycopg():
    import psycopg

    settings = dict(host=HOST, port=PORT, user=USER, dbname=DATABASE, password=token())
    with psycopg.connect(**settings, sslmode="verify-full", sslrootcert=CA) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE guest (id int, name text)")
            with cursor.copy("COPY guest FROM STDIN") as copy:
                for number in range(1000):
                    copy.write_row((number, f"guest {number}"))
            cursor.execute("SELECT count(*), max(name) FROM guest WHERE id < %s", (500,))
            assert cursor.fetchone() == (500, "guest 99")
    wrong = dict(settings, password=token()[:-4] + "AAAA")
    try:
        psycopg.connect(**wrong, sslmode="verify-full", sslrootcert=CA)
        raise AssertionError("a token with another signature was accepted")
    except psycopg.OperationalError as error:
        assert "authentication failed" in str(error), error


def asyncpg():
    import asyncio
    import ssl

    import asyncpg

    async def work():
        connection = await asyncpg.connect(
            host=HOST,
            port=PORT,
            user=USER,
            database=DATABASE,
            password=token,
            ssl=ssl.create_default_context(cafile=CA),
        )
        async with connection.transaction():
            await connection.execute("INSERT INTO dish (name) VALUES ($1)", "stew")
        rows = await connection.fetch("SELECT name FROM dish ORDER BY id")
        assert [row["name"] for row in rows] == ["soup", "salad", "stew"], rows
        await connection.close()

    asyncio.run(work())


def sqlalchemy():
    from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, event
    from sqlalchemy import insert, inspect, select

    query = urllib.parse.urlencode({"sslmode": "verify-full", "sslrootcert": CA})
    engine = create_engine(f"postgresql+psycopg://{USER}@{HOST}:{PORT}/{DATABASE}?{query}")

    @event.listens_for(engine, "do_connect")
    def with_token(dialect, record, arguments, parameters):
        parameters["password"] = token()

    metadata = MetaData()
    table = Table("waiter", metadata, Column("id", Integer, primary_key=True), Column("n", String))
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(table), [{"n": "Ada"}, {"n": "Bo"}])
        assert connection.execute(select(table.c.n).order_by(table.c.id)).all() == [("Ada",), ("Bo",)]
    assert "dish" in inspect(engine).get_table_names()
    metadata.drop_all(engine)
    engine.dispose()


def django():
    import django
    from django.conf import settings
    from django.core.management import call_command

    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": HOST,
                "PORT": PORT,
                "USER": USER,
                "NAME": DATABASE,
                "PASSWORD": token(),
                "OPTIONS": {"sslmode": "verify-full", "sslrootcert": CA},
            }
        },
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User

    User.objects.create_user("ada", password="not stored anywhere else")
    assert User.objects.filter(username__startswith="a").count() == 1


def node_pg():
    run("node", f"{HERE}/pg.cjs", TOKEN=token(), CA=CA)


grant()
for client in sys.argv[2:]:
    globals()[client]()
    print("ok", client, flush=True)
