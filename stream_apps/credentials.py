"""How a stream worker proves to Kafka who it is, in Faust's words."""

import ssl

import faust
from faust.types.auth import CredentialsT

from infra.settings import Settings


def credentials(settings: Settings) -> CredentialsT | None:
    """TLS and SASL, from the same settings that the relay has."""
    protocol = settings.kafka_security_protocol.upper()
    context = _tls(settings) if protocol in {"SSL", "SASL_SSL"} else None
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password,
            mechanism=settings.kafka_sasl_mechanism or "PLAIN",
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.kafka_ssl_ca or None)
    if settings.kafka_ssl_certificate:
        context.load_cert_chain(
            settings.kafka_ssl_certificate, settings.kafka_ssl_key or None, settings.kafka_ssl_key_password or None
        )
    return context
