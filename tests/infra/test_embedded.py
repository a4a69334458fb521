import psycopg
import redis


def test_a_database_of_the_tests_is_empty_and_its_own(empty_database):
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("select count(*) from pg_stat_user_tables").fetchone() == (0,)
        assert connection.execute("show server_version").fetchone()[0].startswith("18")


def test_another(database):
    with psycopg.connect(database) as connection:
        connection.execute("select 1")


def test_valkey_answers(valkey):
    with redis.Redis.from_url(valkey) as client:
        assert client.dbsize() == 0
