"""How Kafka's clients are told where and how to connect."""

from infra.kafka import client_config
from infra.settings import Settings


def test_plain_brokers_need_nothing_more():
    assert client_config(Settings(kafka="one:9092,two:9092")) == {
        "bootstrap.servers": "one:9092,two:9092",
        "client.id": "muniment",
    }


def test_tls_and_sasl_are_passed_through():
    environment = {
        "MUNIMENT_KAFKA": "kafka:9093",
        "MUNIMENT_KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
        "MUNIMENT_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "MUNIMENT_KAFKA_SASL_USERNAME": "muniment",
        "MUNIMENT_KAFKA_SASL_PASSWORD": "keemun",
        "MUNIMENT_KAFKA_SSL_CA": "/etc/ssl/kafka.pem",
    }
    assert client_config(Settings.from_env(environment)) == {
        "bootstrap.servers": "kafka:9093",
        "client.id": "muniment",
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "muniment",
        "sasl.password": "keemun",
        "ssl.ca.location": "/etc/ssl/kafka.pem",
    }
