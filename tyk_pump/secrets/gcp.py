"""Google Cloud's Secret Manager."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Any

from tyk_pump.config.options import Secret, doc
from tyk_pump.errors import ConfigError, SecretError
from tyk_pump.secrets.protocol import TrimmedOptions, Variable, trimmed, versioned

_MAKERS = {
    "service_account": (
        "google.oauth2.service_account:Credentials.from_service_account_info"
    ),
    "authorized_user": (
        "google.oauth2.credentials:Credentials.from_authorized_user_info"
    ),
    "external_account": "google.auth.identity_pool:Credentials.from_info",
    "external_account/aws": "google.auth.aws:Credentials.from_info",
    "external_account/executable": "google.auth.pluggable:Credentials.from_info",
    "external_account_authorized_user": (
        "google.auth.external_account_authorized_user:Credentials.from_info"
    ),
    "impersonated_service_account": (
        "google.auth.impersonated_credentials:"
        "Credentials.from_impersonated_service_account_info"
    ),
    "gdch_service_account": (
        "google.oauth2.gdch_credentials:"
        "ServiceAccountCredentials.from_service_account_info"
    ),
}
"""Type of credentials -> what makes them of their JSON."""
_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


class GcpStoreOptions(TrimmedOptions, frozen=True, kw_only=True):
    """Which project's secrets, and who asks.

    A path is a secret's name, or `name/version`; else its latest version is meant.
    Without credentials those of the machine are taken.
    """

    project_id: Annotated[str, doc("Project of the secrets.", example="my-project")]
    quota_project_id: Annotated[str, doc("Project whose quota is used.")] = ""
    location: Annotated[
        str, doc("Region of the secrets, where they belong to one.")
    ] = ""
    endpoint: Annotated[
        str, doc("Host of the service in place of Google's own, with its port.")
    ] = ""
    credentials_type: Annotated[
        str,
        doc(
            "What the credentials have to be; empty means any of these.",
            choices=tuple(kind for kind in _MAKERS if "/" not in kind),
        ),
    ] = ""
    credentials_file: Annotated[str, doc("File of the credentials.")] = ""
    credentials_json: Annotated[Secret, doc("The credentials themselves.")] = Secret()
    impersonate_service_account: Annotated[
        str, doc("Service account to act as, with these credentials.")
    ] = ""
    impersonate_delegates: Annotated[
        list[str], doc("Service accounts on the way to that one.")
    ] = []
    transport: Annotated[
        str,
        doc("How to speak with it; `rest` knows proxies.", choices=("rest", "grpc")),
    ] = "rest"

    def faults(self) -> Iterator[tuple[str, str]]:
        """What does not go together."""
        if not self.project_id:
            yield "project_id", "missing"
        if self.credentials_file and self.credentials_json:
            yield "credentials_json", "cannot stand beside credentials_file"
        if self.impersonate_delegates and not self.impersonate_service_account:
            yield "impersonate_delegates", "needs impersonate_service_account"


class GcpStore:
    """Reads secrets with google-cloud-secret-manager."""

    options_type = GcpStoreOptions

    def __init__(self, options: GcpStoreOptions) -> None:
        self._options = options
        self._client: Any = None

    def open(self, variable: Variable) -> None:
        """Read the credentials; the client is made when it is needed."""
        from google.cloud import secretmanager_v1  # noqa: F401

        self._given = self._credentials_given()

    def read(self, path: str) -> str:
        """Return the text of one version."""
        import google.auth.exceptions
        import requests
        from google.api_core import exceptions

        options = self._options
        try:
            if self._client is None:
                self._client = self._made()
            answer = self._client.access_secret_version(
                name=self._name(path), timeout=options.timeout, retry=None
            )
            text: str = answer.payload.data.decode()
        except UnicodeDecodeError:
            raise SecretError("is no UTF-8 text") from None
        except exceptions.NotFound as exc:
            raise SecretError("is not there") from exc
        except exceptions.ClientError as exc:
            throttled = isinstance(exc, exceptions.TooManyRequests)
            reason = f"is refused: {_line(exc.message)}"
            raise SecretError(reason, passing=throttled) from exc
        except exceptions.GoogleAPIError as exc:
            reason = f"cannot be had now: {_line(getattr(exc, 'message', exc))}"
            raise SecretError(reason, passing=True) from exc
        except google.auth.exceptions.GoogleAuthError as exc:
            passing = isinstance(exc, google.auth.exceptions.TransportError)
            reason = f"cannot be asked for: {_line(exc.args[0] if exc.args else exc)}"
            raise SecretError(reason, passing=passing) from exc
        except requests.RequestException as exc:
            from tyk_pump.transport.http import cause

            raise SecretError(f"no answer: {cause(exc)}", passing=True) from exc
        except (LookupError, TypeError, ValueError) as exc:
            # Words of the credentials themselves may stand in it.
            raise SecretError("cannot be asked for: the credentials are bad") from exc
        return trimmed(text, options.trim_trailing_newline)

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.transport.close()

    def _name(self, path: str) -> str:
        options = self._options
        name, version = versioned(path)
        place = f"/locations/{options.location}" if options.location else ""
        version = version or "latest"
        return f"projects/{options.project_id}{place}/secrets/{name}/versions/{version}"

    def _credentials_given(self) -> dict[str, Any] | None:
        """Return the credentials that the options hold, if they hold any."""
        options = self._options
        if options.credentials_file:
            key = "credentials_file"
            try:
                with open(options.credentials_file, encoding="utf-8") as file:
                    text = file.read()
            except (OSError, ValueError) as exc:
                reason = getattr(exc, "strerror", None) or "is no text"
                raise ConfigError(
                    f"{key}: {options.credentials_file}: {reason}"
                ) from exc
        elif options.credentials_json:
            key, text = "credentials_json", options.credentials_json.reveal()
        else:
            return None
        try:
            found = json.loads(text)
        except ValueError:
            raise ConfigError(f"{key}: is no JSON") from None
        kind = found.get("type") if isinstance(found, dict) else None
        if kind not in _MAKERS:
            raise ConfigError(f"{key}: names no type of credentials that is known")
        if options.credentials_type not in ("", kind):
            raise ConfigError(f"{key}: is not of the type {options.credentials_type}")
        return dict(found)

    def _made(self) -> Any:
        from google.cloud import secretmanager_v1

        options = self._options
        quota = options.quota_project_id or None
        if self._given is not None:
            found = _credentials(self._given)
            if quota and hasattr(found, "with_quota_project"):
                found = found.with_quota_project(quota)
        else:
            auth: Any = import_module("google.auth")
            found, _ = auth.default(scopes=_SCOPES, quota_project_id=quota)
        if options.impersonate_service_account:
            impersonated: Any = import_module("google.auth.impersonated_credentials")
            found = impersonated.Credentials(
                found,
                options.impersonate_service_account,
                _SCOPES,
                delegates=options.impersonate_delegates or None,
                quota_project_id=quota,
            )
        host = options.endpoint
        if not host and options.location:
            host = f"secretmanager.{options.location}.rep.googleapis.com"
        return secretmanager_v1.SecretManagerServiceClient(
            credentials=found,
            transport=options.transport,
            client_options={"api_endpoint": host} if host else None,
        )


def _credentials(info: dict[str, Any]) -> Any:
    """Return the credentials that these words of the operator describe.

    Google's own way to do so without naming a type asks for the project, too, over
    the network.
    """
    kind = str(info.get("type"))
    if kind == "external_account":
        source = info.get("credential_source")
        if str(info.get("subject_token_type")).endswith(":aws4_request"):
            kind = "external_account/aws"
        elif isinstance(source, dict) and source.get("executable"):
            kind = "external_account/executable"
    module, _, maker = _MAKERS[kind].partition(":")
    make: Any = import_module(module)
    for name in maker.split("."):
        make = getattr(make, name)
    return make(info) if kind == "gdch_service_account" else make(info, scopes=_SCOPES)


def _line(said: object) -> str:
    """Return what is said in one line, without the request that it repeats."""
    line = " ".join(str(said).split())
    return re.sub(r"^(GET|POST) \S+: ", "", line)[:300]
