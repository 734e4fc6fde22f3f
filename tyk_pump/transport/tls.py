"""TlsOptions become an SSL context; one per pump, shared with nobody."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import certifi

from tyk_pump.config.options import TlsOptions
from tyk_pump.errors import ConfigError
from tyk_pump.log import ONCE

log = logging.getLogger(__name__)


def context(options: TlsOptions) -> ssl.SSLContext:
    """Return what a connection is made with; ConfigError names the option at fault.

    A file of authorities stands in place of the system's, not beside them.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.ssl_ca_file:
        _believe(made, options.ssl_ca_file)
    else:
        _believe_the_system(made)
    if options.ssl_cert_file:
        _present(made, options.ssl_cert_file, options.ssl_key_file)
    if options.ssl_insecure_skip_verify:
        log.warning("the server's certificate is not checked", extra=ONCE)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _believe(made: ssl.SSLContext, path: str) -> None:
    try:
        made.load_verify_locations(cafile=path)
    except ssl.SSLError as exc:
        raise ConfigError(f"ssl_ca_file: {path} holds no PEM certificate") from exc
    except OSError as exc:
        raise ConfigError(f"ssl_ca_file: {path}: {exc.strerror}") from exc


def _believe_the_system(made: ssl.SSLContext) -> None:
    made.load_default_certs()
    found = ssl.get_default_verify_paths()
    if not made.cert_store_stats()["x509_ca"] and not _holds_any(found.capath):
        # A slim image has no authorities of its own.
        made.load_verify_locations(cafile=certifi.where())


def _holds_any(folder: str | None) -> bool:
    return folder is not None and any(Path(folder).iterdir())


def _present(made: ssl.SSLContext, cert: str, key: str) -> None:
    for option, path in (("ssl_cert_file", cert), ("ssl_key_file", key)):
        try:
            Path(path).read_bytes()
        except OSError as exc:
            raise ConfigError(f"{option}: {path}: {exc.strerror}") from exc
    try:
        # Without this a key with a pass phrase asks the terminal for it.
        made.load_cert_chain(cert, key, password=_refuse)
    except (ssl.SSLError, ValueError) as exc:
        reason = f"{cert} and {key} are not a certificate and its plain key"
        raise ConfigError(f"ssl_cert_file: {reason}") from exc


def _refuse() -> str:
    raise ValueError("the key has a pass phrase")
