"""TLS of gRPC's port: the certificate of the HTTP port, and HTTP/2 by ALPN, which gRPC's clients insist on."""

import ssl

from serving.settings import ServiceSettings


def server_context(settings: ServiceSettings) -> ssl.SSLContext | None:
    """Return a context with the certificate and the key of the settings; None without a certificate."""
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    context.set_alpn_protocols(["h2"])
    return context
