"""AWS Secrets Manager."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from tyk_pump.config.options import Secret, doc
from tyk_pump.errors import ConfigError, SecretError, TransientError
from tyk_pump.secrets.protocol import TrimmedOptions, Variable, trimmed

_NAMES = {
    "aws_region": "region",
    "aws_endpoint": "endpoint",
    "aws_profile": "profile",
}


class AwsStoreOptions(TrimmedOptions, frozen=True, kw_only=True):
    """Which account's secrets, and who asks. A path is a secret's name or its ARN.

    Without keys credentials are looked for where all of AWS's programs do.
    """

    region: Annotated[str, doc("Region.", example="eu-west-1")]
    endpoint: Annotated[
        str, doc("Address of the service in place of the region's own.")
    ] = ""
    access_key_id: Annotated[str, doc("Access key; needs `secret_access_key`.")] = ""
    secret_access_key: Annotated[Secret, doc("Secret of the access key.")] = Secret()
    session_token: Annotated[Secret, doc("Session token, for temporary keys.")] = (
        Secret()
    )
    profile: Annotated[str, doc("Profile of the shared files.")] = ""
    role_arn: Annotated[str, doc("Role to take on with these credentials.")] = ""
    external_id: Annotated[
        Secret, doc("External id that the role's trust policy asks for.")
    ] = Secret()
    role_session_name: Annotated[
        str, doc("Name of the role's session in AWS's logs.")
    ] = "tyk-pump"
    version_stage: Annotated[
        str, doc("Stage of the version that is read; empty means `AWSCURRENT`.")
    ] = ""
    version_id: Annotated[
        str, doc("Id of the version that is read, in place of a stage.")
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What does not go together."""
        if not self.region:
            yield "region", "missing"
        if bool(self.access_key_id) != bool(self.secret_access_key):
            yield "access_key_id", "comes together with secret_access_key"
        if self.version_stage and self.version_id:
            yield "version_id", "cannot stand beside version_stage"


class AwsStore:
    """Reads secrets with botocore."""

    options_type = AwsStoreOptions

    def __init__(self, options: AwsStoreOptions) -> None:
        self._options = options
        self._service: Any = None

    def open(self, variable: Variable) -> None:
        """Make the client; nothing is asked yet."""
        from tyk_pump.transport import aws

        options = self._options
        try:
            access = aws.Access(
                aws.AwsOptions(
                    aws_region=options.region,
                    aws_key=options.access_key_id,
                    aws_secret=options.secret_access_key,
                    aws_token=options.session_token,
                    aws_profile=options.profile,
                    aws_role_arn=options.role_arn,
                    aws_role_external_id=options.external_id,
                    aws_role_session_name=options.role_session_name or "tyk-pump",
                    aws_endpoint=options.endpoint,
                    request_timeout=options.timeout,
                )
            )
            self._service = access.service("secretsmanager", options.endpoint)
        except ConfigError as exc:
            told = str(exc)
            for theirs, ours in _NAMES.items():
                told = told.replace(theirs, ours)
            raise ConfigError(told) from exc

    def read(self, path: str) -> str:
        """Return a secret's text, also of one that is kept as bytes."""
        import base64

        from tyk_pump.transport.aws import FailedCall
        from tyk_pump.transport.bulk import Refused

        asked = {"SecretId": path}
        if self._options.version_stage:
            asked["VersionStage"] = self._options.version_stage
        if self._options.version_id:
            asked["VersionId"] = self._options.version_id
        try:
            answer = self._service.call("GetSecretValue", asked)
        except FailedCall as exc:
            if exc.code == "ResourceNotFoundException":
                raise SecretError("is not there") from exc
            raise SecretError(str(exc), passing=exc.code in _PASSING) from exc
        except Refused as exc:
            raise SecretError(f"is refused: {exc}") from exc
        except TransientError as exc:
            raise SecretError(str(exc), passing=True) from exc
        text = answer.get("SecretString")
        if text is None:
            try:
                text = base64.b64decode(answer.get("SecretBinary") or "").decode()
            except ValueError:
                raise SecretError("is no UTF-8 text") from None
        return trimmed(str(text), self._options.trim_trailing_newline)

    def close(self) -> None:
        """Close the connections."""
        if self._service is not None:
            self._service.close()


_PASSING = frozenset(
    {
        "",
        "InternalServiceError",
        "InternalFailure",
        "RequestTimeout",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
    }
)
"""What AWS calls that which may be otherwise in a moment."""
