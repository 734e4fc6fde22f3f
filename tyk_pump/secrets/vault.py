"""HashiCorp Vault, and OpenBao: key-value engines of versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from tyk_pump.config.options import Secret, TlsOptions, doc
from tyk_pump.errors import SecretError
from tyk_pump.secrets.protocol import Limit, Variable


class VaultStoreOptions(TlsOptions, frozen=True, kw_only=True):
    """Where Vault is and who asks.

    A path begins with the engine's mount: `secret/tyk/redis#password`. The text is all
    of the secret as JSON, so a pointer says which field is meant.
    """

    address: Annotated[
        str,
        doc(
            "Address of Vault.",
            variable="VAULT_ADDR",
            example="https://vault.example.com:8200",
        ),
    ] = "https://127.0.0.1:8200"
    agent_address: Annotated[
        str,
        doc(
            "Address of a Vault agent, which is asked in Vault's place; it may know "
            "the token.",
            variable="VAULT_AGENT_ADDR",
        ),
    ] = ""
    token: Annotated[
        Secret,
        doc("Token to ask with; needed without an agent.", variable="VAULT_TOKEN"),
    ] = Secret()
    timeout: Limit = 5.0
    max_retries: Annotated[
        int, doc("How often a read is tried again within its time.", ge=0, le=100)
    ] = 2
    kv_version: Annotated[
        int,
        doc("Version of the key-value engine: 1, or else 2 is meant.", numeral=True),
    ] = 2
    mount_path: Annotated[
        str,
        doc(
            "Mount of the engine, where it is more than the first part of the path; "
            "the path may begin with it or with what follows it.",
            example="team/kv",
        ),
    ] = ""
    namespace: Annotated[
        str, doc("Namespace that the mount is in.", variable="VAULT_NAMESPACE")
    ] = ""
    ssl_ca_file: Annotated[
        str,
        doc(
            "PEM file of the authorities to believe instead of the system's.",
            variable="VAULT_CACERT",
        ),
    ] = ""
    ssl_cert_file: Annotated[
        str,
        doc(
            "PEM file of the client certificate; needs `ssl_key_file`.",
            variable="VAULT_CLIENT_CERT",
        ),
    ] = ""
    ssl_key_file: Annotated[
        str,
        doc("PEM file of the client certificate's key.", variable="VAULT_CLIENT_KEY"),
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Addresses that are none, and nobody who asks."""
        from tyk_pump.transport.http import fault_of

        yield from super().faults()
        for key, url in (
            ("address", self.address),
            ("agent_address", self.agent_address),
        ):
            if url and (fault := fault_of(url)):
                yield key, fault
        if not self.token and not self.agent_address:
            yield "token", "missing, here and in VAULT_TOKEN"


class VaultStore:
    """Reads secrets with hvac."""

    options_type = VaultStoreOptions

    def __init__(self, options: VaultStoreOptions) -> None:
        self._options = options
        self._client: Any = None

    def open(self, variable: Variable) -> None:
        """Make the client; nothing is asked yet."""
        import hvac

        from tyk_pump.transport.http import driver_session

        options = self._options
        url = options.agent_address or options.address
        self._client = hvac.Client(
            url=url,
            token=options.token.reveal(),
            timeout=options.timeout,
            session=driver_session(url, options, retries=options.max_retries),
            namespace=options.namespace or None,
        )

    def read(self, path: str) -> str:
        """Return all fields of a secret as JSON."""
        import hvac.exceptions
        import requests

        mount, rest = self._split(path)
        try:
            if self._options.kv_version == 1:
                engine = self._client.secrets.kv.v1
                fields = engine.read_secret(rest, mount_point=mount)["data"]
            else:
                engine = self._client.secrets.kv.v2
                answer = engine.read_secret_version(
                    rest, mount_point=mount, raise_on_deleted_version=True
                )
                fields = answer["data"]["data"]
        except hvac.exceptions.InvalidPath:
            raise SecretError("is not there") from None
        except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as exc:
            raise SecretError("is refused: permission denied") from exc
        except (
            hvac.exceptions.VaultDown,
            hvac.exceptions.VaultNotInitialized,
            hvac.exceptions.InternalServerError,
            hvac.exceptions.BadGateway,
            hvac.exceptions.RateLimitExceeded,
        ) as exc:
            reason = f"cannot be had now: {_said(exc)}"
            raise SecretError(reason, passing=True) from exc
        except hvac.exceptions.VaultError as exc:
            raise SecretError(f"is refused: {_said(exc)}") from exc
        except requests.RequestException as exc:
            from tyk_pump.transport.http import cause

            raise SecretError(f"no answer: {cause(exc)}", passing=True) from exc
        except (LookupError, TypeError, ValueError) as exc:
            raise SecretError("the answer is not Vault's") from exc
        if not isinstance(fields, dict):
            raise SecretError("the answer is not Vault's")
        return msgspec.json.encode(fields).decode()

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.adapter.close()

    def _split(self, path: str) -> tuple[str, str]:
        mount = self._options.mount_path.strip("/")
        if mount:
            rest = path.removeprefix(f"{mount}/")
        else:
            mount, _, rest = path.partition("/")
        if not mount or not rest:
            raise SecretError("names a mount and no secret in it")
        return mount, rest


def _said(exc: Any) -> str:
    said = exc.errors if isinstance(exc.errors, list) else [exc.text or exc]
    return "; ".join(map(str, said))[:300] or type(exc).__name__
