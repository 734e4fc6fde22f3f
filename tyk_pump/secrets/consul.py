"""HashiCorp Consul: the texts of its key-value store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import urlsplit

from tyk_pump.config.options import Options, Seconds, Secret, TlsOptions, doc
from tyk_pump.errors import ConfigError, SecretError
from tyk_pump.secrets.protocol import RemoteOptions, Variable


class ConsulLogin(Options, frozen=True, kw_only=True):
    """Basic authentication, for a proxy before Consul."""

    username: Annotated[str, doc("User.")] = ""
    password: Annotated[Secret, doc("Password.")] = Secret()


class ConsulTls(Options, frozen=True, kw_only=True):
    """How Consul is believed, and who asks."""

    address: Annotated[str, doc("Name to expect in the server's certificate.")] = ""
    ca_file: Annotated[
        str, doc("PEM file of the authorities to believe instead of the system's.")
    ] = ""
    ca_path: Annotated[str, doc("Folder of such files, all of which are believed.")] = (
        ""
    )
    cert_file: Annotated[str, doc("PEM file of the client certificate.")] = ""
    key_file: Annotated[str, doc("PEM file of the client certificate's key.")] = ""
    insecure_skip_verify: Annotated[
        bool, doc("Do not check the server's certificate.")
    ] = False


class ConsulStoreOptions(RemoteOptions, frozen=True, kw_only=True):
    """Where Consul is and who asks. A path is the key."""

    address: Annotated[
        str,
        doc(
            "Host and port of Consul; may begin with the scheme.",
            variable="CONSUL_HTTP_ADDR",
        ),
    ] = "127.0.0.1:8500"
    scheme: Annotated[str, doc("How to speak with it.", choices=("http", "https"))] = (
        "http"
    )
    datacenter: Annotated[str, doc("Whose keys; empty means the agent's own.")] = ""
    http_auth: Annotated[ConsulLogin, doc("Log-in at a proxy before Consul.")] = (
        ConsulLogin()
    )
    wait_time: Annotated[
        Seconds, doc("Accepted and without effect: nothing is watched.", ge=0)
    ] = 0.0
    token: Annotated[Secret, doc("Token of the ACL.", variable="CONSUL_HTTP_TOKEN")] = (
        Secret()
    )
    tls_config: Annotated[ConsulTls, doc("TLS, for the scheme `https`.")] = ConsulTls()

    def url(self) -> str:
        """Return the whole address."""
        address = self.address.rstrip("/")
        return address if "://" in address else f"{self.scheme}://{address}"

    def faults(self) -> Iterator[tuple[str, str]]:
        """An address that is none, and half a certificate."""
        from tyk_pump.transport.http import fault_of

        if fault := fault_of(self.url()):
            yield "address", fault
        if bool(self.tls_config.cert_file) != bool(self.tls_config.key_file):
            yield "tls_config", "cert_file and key_file come together"


class ConsulStore:
    """Reads keys with py-consul."""

    options_type = ConsulStoreOptions

    def __init__(self, options: ConsulStoreOptions) -> None:
        self._options = options
        self._client: Any = None

    def open(self, variable: Variable) -> None:
        """Make the client; nothing is asked yet."""
        import consul

        from tyk_pump.transport.http import driver_session

        options, tls = self._options, self._options.tls_config
        parts = urlsplit(options.url())
        try:
            session = driver_session(
                options.url(),
                TlsOptions(
                    ssl_ca_file=tls.ca_file,
                    ssl_cert_file=tls.cert_file,
                    ssl_key_file=tls.key_file,
                    ssl_insecure_skip_verify=tls.insecure_skip_verify,
                    ssl_server_name=tls.address,
                ),
                ca_folder=tls.ca_path,
            )
        except ConfigError as exc:
            faults = [fault.replace("ssl_", "tls_config.", 1) for fault in exc.faults]
            raise ConfigError(faults) from exc
        login = options.http_auth
        if login.username:
            session.auth = (login.username, login.password.reveal())
        self._client = consul.Consul(
            host=parts.hostname,
            port=parts.port or (443 if parts.scheme == "https" else 80),
            scheme=parts.scheme,
            connections_timeout=options.timeout,
        )
        self._client.http.session = session

    def read(self, path: str) -> str:
        """Return the text of a key."""
        import requests
        from consul import exceptions

        try:
            _, found = self._client.kv.get(
                path,
                # Else a variable of Consul's own programs would win.
                token=self._options.token.reveal() or None,
                dc=self._options.datacenter or None,
            )
        except (exceptions.ACLPermissionDenied, exceptions.ACLDisabled) as exc:
            raise SecretError("is refused: permission denied") from exc
        except (exceptions.BadRequest, exceptions.ClientError) as exc:
            said = str(exc)[:300]
            raise SecretError(
                f"is refused: {said}", passing=said.startswith(("408", "429"))
            ) from exc
        except exceptions.ConsulException as exc:
            if exc.__cause__ is not None:
                # An answer in a form that is not Consul's; the driver quotes it.
                raise SecretError("the answer is not Consul's", passing=True) from exc
            reason = f"cannot be had now: {str(exc)[:300]}"
            raise SecretError(reason, passing=True) from exc
        except requests.RequestException as exc:
            from tyk_pump.transport.http import cause

            raise SecretError(f"no answer: {cause(exc)}", passing=True) from exc
        if found is None:
            raise SecretError("is not there")
        try:
            return (found["Value"] or b"").decode()
        except UnicodeDecodeError:
            raise SecretError("is no UTF-8 text") from None

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.http.session.close()
