"""Azure Key Vault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from tyk_pump.config.options import Secret, doc
from tyk_pump.errors import ConfigError, SecretError
from tyk_pump.secrets.protocol import TrimmedOptions, Variable, trimmed, versioned

_NEEDS = {
    "managed_identity": (),
    "workload_identity": (),
    "client_secret": ("tenant_id", "client_id", "client_secret"),
    "client_certificate": ("tenant_id", "client_id", "client_certificate_file"),
}


class AzureStoreOptions(TrimmedOptions, frozen=True, kw_only=True):
    """Which vault's secrets, and who asks.

    A path is a secret's name, or `name/version`; else its current version is meant.
    """

    vault_url: Annotated[
        str, doc("Address of the vault.", example="https://my-vault.vault.azure.net")
    ]
    credential_type: Annotated[str, doc("Who asks.", choices=tuple(_NEEDS))] = (
        "managed_identity"
    )
    tenant_id: Annotated[
        str,
        doc(
            "Tenant; for `workload_identity` `AZURE_TENANT_ID` may say it.",
            variable="AZURE_TENANT_ID",
        ),
    ] = ""
    client_id: Annotated[
        str, doc("Client, or the managed identity that is meant of several.")
    ] = ""
    client_secret: Annotated[Secret, doc("Secret of the client.")] = Secret()
    client_certificate_file: Annotated[
        str, doc("File with the client's certificate and key, PEM or PKCS 12.")
    ] = ""
    client_certificate_password: Annotated[Secret, doc("Password of that file.")] = (
        Secret()
    )
    federated_token_file: Annotated[
        str,
        doc(
            "File of the token that `workload_identity` shows.",
            variable="AZURE_FEDERATED_TOKEN_FILE",
        ),
    ] = ""
    authority_host: Annotated[
        str,
        doc(
            "Who gives out tokens, in a cloud of its own.",
            variable="AZURE_AUTHORITY_HOST",
            example="https://login.microsoftonline.us",
        ),
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """An address that is none, and half a log-in."""
        from tyk_pump.transport.http import fault_of

        if not self.vault_url:
            yield "vault_url", "missing"
        elif fault := fault_of(self.vault_url):
            yield "vault_url", fault
        elif urlsplit(self.vault_url).scheme != "https":
            yield "vault_url", "is no https address"
        for key in _NEEDS.get(self.credential_type, ()):
            if not getattr(self, key):
                yield key, f"missing for {self.credential_type}"


class AzureStore:
    """Reads secrets with azure-keyvault-secrets."""

    options_type = AzureStoreOptions

    def __init__(self, options: AzureStoreOptions) -> None:
        self._options = options
        self._client: Any = None
        self._credential: Any = None

    def open(self, variable: Variable) -> None:
        """Make the client; nothing is asked yet."""
        import logging

        from azure.keyvault.secrets import SecretClient

        # They tell at length what the error says, too.
        logging.getLogger("azure").setLevel(logging.ERROR)
        limits = {
            "connection_timeout": self._options.timeout,
            "read_timeout": self._options.timeout,
            "retry_total": 2,
        }
        self._credential = self._who(variable, limits)
        self._client = SecretClient(self._options.vault_url, self._credential, **limits)

    def read(self, path: str) -> str:
        """Return the text of one version."""
        from azure.core import exceptions

        name, version = versioned(path)
        try:
            text = self._client.get_secret(name, version or None).value
        except exceptions.ResourceNotFoundError as exc:
            raise SecretError("is not there") from exc
        except exceptions.ClientAuthenticationError as exc:
            raise SecretError(f"is refused: {_line(exc)}") from exc
        except exceptions.HttpResponseError as exc:
            status = exc.status_code or 0
            passing = status in (408, 429) or status >= 500
            raise SecretError(f"is refused: {_line(exc)}", passing=passing) from exc
        except exceptions.AzureError as exc:
            raise SecretError(f"no answer: {_line(exc)}", passing=True) from exc
        except ValueError as exc:
            raise SecretError(f"is refused: {_line(exc)}") from exc
        return trimmed(text or "", self._options.trim_trailing_newline)

    def close(self) -> None:
        """Close the connections."""
        for each in (self._client, self._credential):
            if each is not None:
                each.close()

    def _who(self, variable: Variable, limits: dict[str, Any]) -> Any:
        from azure import identity

        options = self._options
        how = dict(limits)
        if options.authority_host:
            how["authority"] = options.authority_host
            # Such an authority is not in Microsoft's list; the operator names it.
            how["disable_instance_discovery"] = True
        client = options.client_id
        try:
            match options.credential_type:
                case "client_secret":
                    secret = options.client_secret.reveal()
                    return identity.ClientSecretCredential(
                        options.tenant_id, client, secret, **how
                    )
                case "client_certificate":
                    path = Path(options.client_certificate_file)
                    return identity.CertificateCredential(
                        options.tenant_id,
                        client,
                        certificate_data=path.read_bytes(),
                        password=options.client_certificate_password.reveal() or None,
                        **how,
                    )
                case "workload_identity":
                    return identity.WorkloadIdentityCredential(
                        tenant_id=options.tenant_id or None,
                        client_id=client or variable("AZURE_CLIENT_ID"),
                        token_file_path=options.federated_token_file or None,
                        **how,
                    )
                case _:
                    return identity.ManagedIdentityCredential(
                        client_id=client or None, **limits
                    )
        except OSError as exc:
            where = f"client_certificate_file: {options.client_certificate_file}"
            raise ConfigError(f"{where}: {exc.strerror}") from exc
        except ValueError as exc:
            raise ConfigError(f"credential_type: {_line(exc)}") from exc


def _line(exc: Exception) -> str:
    """Return the first line: what follows is advice, and what was sent."""
    return (str(getattr(exc, "message", "") or exc).splitlines() or [""])[0][:300]
