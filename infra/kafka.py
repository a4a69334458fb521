"""How clients reach Kafka: the settings, as librdkafka names them."""

from typing import Any

from infra.settings import Settings

CLIENT_ID = "muniment"

_SECURITY = {
    "kafka_security_protocol": "security.protocol",
    "kafka_sasl_mechanism": "sasl.mechanism",
    "kafka_sasl_username": "sasl.username",
    "kafka_sasl_password": "sasl.password",
    "kafka_ssl_ca": "ssl.ca.location",
    "kafka_ssl_certificate": "ssl.certificate.location",
    "kafka_ssl_key": "ssl.key.location",
    "kafka_ssl_key_password": "ssl.key.password",
}


def client_config(settings: Settings) -> dict[str, Any]:
    """What every client of librdkafka is given: addresses, TLS and SASL."""
    given = {name: value for field, name in _SECURITY.items() if (value := getattr(settings, field))}
    return {"bootstrap.servers": settings.kafka, "client.id": CLIENT_ID, **given}
