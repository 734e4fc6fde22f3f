"""AWS services that speak JSON: who asks, where, with which signature, and what the
answer means.

botocore knows the credentials' sources, the addresses and the signature. Requests go
over our own HTTP client: TLS, proxies, time limits and verdicts are those of the other
pumps, and the worker alone tries again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import botocore.session
import msgspec
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    Credentials,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoRegionError,
    ProfileNotFound,
)

from tyk_pump.config.options import HttpOptions, Seconds, Secret, doc
from tyk_pump.errors import ConfigError, TransientError
from tyk_pump.log import ONCE
from tyk_pump.transport.bulk import Refused, TooLarge
from tyk_pump.transport.http import (
    CONNECT_SECONDS,
    HttpClient,
    Reply,
    excerpt,
    fault_of,
    place,
)

log = logging.getLogger(__name__)
# It shows what it signs, a session's token included.
logging.getLogger("botocore").setLevel(logging.WARNING)

RECORDS_FAULT: Final = frozenset(
    {
        "InvalidArgumentException",
        "InvalidAttributeValue",
        "InvalidMessageContents",
        "InvalidParameterValue",
        "InvalidParameterValueException",
        "RejectedRecordsException",
        "SerializationException",
        "ValidationException",
    }
)
"""Codes with which a service refuses what it is given; all others may pass later."""
TOO_LARGE: Final = frozenset(
    {"BatchRequestTooLong", "RequestEntityTooLargeException", "RequestTooLarge"}
)
WHO_ASKS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Codes after which credentials are looked for anew: a file may have others by now."""
DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException"})
_JUDGED: Final = frozenset(range(400, 600))
"""Statuses whose meaning stands in the answer."""


class AwsOptions(HttpOptions, frozen=True, kw_only=True):
    """Where a service is, and who asks."""

    aws_region: Annotated[
        str,
        doc(
            "Region. When absent, the variables `AWS_REGION` and `AWS_DEFAULT_REGION` "
            "say it, or the shared configuration file.",
            aliases=("region",),
            env_aliases=("REGION",),
            variable="AWS_REGION",
            example="eu-west-1",
        ),
    ] = ""
    aws_key: Annotated[
        str,
        doc(
            "Access key id. Without it and `aws_secret`, credentials are looked for "
            "where all of AWS's programs do: environment, shared files, web identity, "
            "the container's or the machine's role."
        ),
    ] = ""
    aws_secret: Annotated[Secret, doc("Secret access key.")] = Secret()
    aws_token: Annotated[Secret, doc("Session token, for temporary keys.")] = Secret()
    aws_profile: Annotated[
        str, doc("Profile of the shared files; when absent, `AWS_PROFILE` says it.")
    ] = ""
    aws_role_arn: Annotated[
        str,
        doc(
            "Role to take on with these credentials; taken on again before it ends.",
            example="arn:aws:iam::123456789012:role/tyk-pump",
        ),
    ] = ""
    aws_role_external_id: Annotated[
        Secret, doc("External id that the role's trust policy asks for.")
    ] = Secret()
    aws_role_session_name: Annotated[
        str, doc("Name of the role's session in AWS's logs.")
    ] = "tyk-pump"
    aws_endpoint: Annotated[
        str,
        doc(
            "Address of the service in place of the region's own; other services that "
            "are asked (STS, KMS) have variables of AWS, such as "
            "`AWS_ENDPOINT_URL_STS`.",
            example="https://vpce-0123.kinesis.eu-west-1.vpce.amazonaws.com",
        ),
    ] = ""
    request_timeout: Annotated[
        Seconds,
        doc("Time without an answer after which a request is sent again.", gt=0),
    ] = 30.0
    ssl_ca_file: Annotated[
        str,
        doc(
            "PEM file of the authorities to believe instead of the system's. When "
            "absent, `AWS_CA_BUNDLE` or `ca_bundle` of the profile says it."
        ),
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """An address that is none."""
        yield from super().faults()
        if self.aws_endpoint and (fault := fault_of(self.aws_endpoint)):
            yield "aws_endpoint", fault


class RefusedCall(Refused):
    """A service refuses what a call holds."""

    def __init__(self, reason: str, code: str, answer: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.code = code
        self.answer = answer
        """All that the service says."""


class FailedCall(TransientError):
    """A service does not do what a call asks, for a reason outside the records."""

    def __init__(self, reason: str, code: str = "", **how: Any) -> None:
        super().__init__(reason, **how)
        self.code = code
        """AWS's name of the reason; empty where it gave none."""


def bare(code: str) -> str:
    """Return a code without what stands around it in some answers.

    `com.amazonaws.sqs#QueueDoesNotExist:https://...`, `AWS.SimpleQueueService.X`.
    """
    return code.partition(":")[0].rpartition("#")[2].rpartition(".")[2]


def records_fault(code: str) -> bool:
    """Say whether a code, of a call or of an entry in it, blames the record."""
    return bare(code) in RECORDS_FAULT or bare(code) in TOO_LARGE


def denied(code: str) -> bool:
    """Say whether a code means that we are known, but may not do this."""
    return bare(code) in DENIED


class Access:
    """Who asks: credentials of one pump, from wherever they come."""

    def __init__(self, options: AwsOptions) -> None:
        """Read the shared files; ConfigError says what does not fit."""
        self._lock = threading.Lock()
        self._found: Any = None
        self._session = self._new_session(options)
        bundle = options.ssl_ca_file or self._setting("ca_bundle")
        self.options = msgspec.structs.replace(options, ssl_ca_file=bundle)
        self.region = options.aws_region or self._setting("region")
        if bool(options.aws_key) != bool(options.aws_secret):
            log.warning("aws_key and aws_secret count only together", extra=ONCE)

    def credentials(self) -> Any:
        """Return key, secret and token of now; TransientError where there are none."""
        with self._lock:
            if self._found is None:
                self._found = self._look()
            found = self._found
        try:
            return found.get_frozen_credentials()
        except (BotoCoreError, ClientError) as exc:
            self.forget()
            raise TransientError(f"no credentials: {excerpt(str(exc))}") from exc

    def forget(self) -> None:
        """Look for credentials anew when they are needed next."""
        with self._lock:
            self._found = None

    def service(self, name: str, endpoint: str = "") -> Service:
        """Return a service of the region, by botocore's name of it."""
        return Service(self, name, endpoint)

    def model(self, name: str, endpoint: str) -> Any:
        """Return what botocore knows of a service: `endpoint_url`, `service_model`."""
        try:
            client = self._session.create_client(
                name,
                region_name=self.region or None,
                endpoint_url=endpoint or None,
                # It sends nothing, and is not to look for any.
                aws_access_key_id="none",
                aws_secret_access_key="none",
            )
        except NoRegionError:
            raise ConfigError("aws_region: missing") from None
        except (BotoCoreError, ValueError) as exc:
            raise ConfigError(f"aws_region: {excerpt(str(exc))}") from exc
        client.close()
        return client.meta

    def _new_session(self, options: AwsOptions) -> botocore.session.Session:
        made = botocore.session.Session(profile=options.aws_profile or None)
        try:
            made.get_scoped_config()
        except ProfileNotFound as exc:
            raise ConfigError(f"aws_profile: {exc}") from exc
        except BotoCoreError as exc:
            raise ConfigError(f"the shared files of AWS: {excerpt(str(exc))}") from exc
        return made

    def _setting(self, name: str) -> str:
        return str(self._session.get_config_variable(name) or "")

    def _look(self) -> Any:
        options = self.options
        found: Any
        if options.aws_key and options.aws_secret:
            token = options.aws_token.reveal() or None
            found = Credentials(options.aws_key, options.aws_secret.reveal(), token)
        else:
            try:
                # A session of its own: one keeps what it has read once.
                found = self._new_session(options).get_credentials()
            except (BotoCoreError, ConfigError) as exc:
                raise TransientError(f"no credentials: {excerpt(str(exc))}") from exc
            if found is None:
                raise TransientError("no credentials: none of the usual places has any")
        return self._role(found) if options.aws_role_arn else found

    def _role(self, source: Any) -> Any:
        options = self.options
        asked = {"RoleSessionName": options.aws_role_session_name}
        if options.aws_role_external_id:
            asked["ExternalId"] = options.aws_role_external_id.reveal()
        fetcher = AssumeRoleCredentialFetcher(
            self._sts, source, options.aws_role_arn, extra_args=asked
        )
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")

    def _sts(self, name: str, **keys: Any) -> Any:
        options = self.options
        verify: bool | str = options.ssl_ca_file or True
        if options.ssl_insecure_skip_verify:
            verify = False
        limit = options.request_timeout
        certificate = options.ssl_cert_file and (
            options.ssl_cert_file,
            options.ssl_key_file,
        )
        config = Config(
            connect_timeout=min(CONNECT_SECONDS, limit),
            read_timeout=limit,
            retries={"total_max_attempts": 1},
            client_cert=certificate or None,
        )
        return self._session.create_client(
            name,
            region_name=self.region or None,
            verify=verify,
            config=config,
            **keys,
        )


class Service:
    """Calls of one service; from several threads side by side, if need be."""

    def __init__(self, access: Access, name: str, endpoint: str = "") -> None:
        known = access.model(name, endpoint)
        model = known.service_model
        self.region: str = known.region_name
        self.url: str = known.endpoint_url
        self._access = access
        self._signing_name: str = model.signing_name
        self._target = f"{model.metadata['targetPrefix']}."
        self._content_type = f"application/x-amz-json-{model.metadata['jsonVersion']}"
        options = access.options
        self._http = HttpClient(options, timeout=options.request_timeout)
        # An address that the operator gives is the one.
        own = ".amazonaws.com" in (urlsplit(self.url).hostname or "")
        self._discovers = own and model.endpoint_discovery_required
        self._discovered: tuple[str, float] | None = None

    def call(self, operation: str, content: Mapping[str, Any] | bytes) -> Any:
        """Return the answer, an object.

        Bytes are sent as they are. FailedCall and other TransientErrors are not the
        records' fault; RefusedCall and TooLarge may be.
        """
        body = content if isinstance(content, bytes) else msgspec.json.encode(content)
        return self._post(self._address(), operation, body)

    def failure(self, reason: str) -> TransientError:
        """Return the error for an answer that is none."""
        return FailedCall(f"{place(self.url)}: {reason}")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _address(self) -> str:
        """Return where to send; some services tell it themselves."""
        if not self._discovers:
            return self.url
        now = time.monotonic()
        if self._discovered is None or self._discovered[1] <= now:
            answer = self._post(self.url, "DescribeEndpoints", b"{}")
            try:
                first = answer["Endpoints"][0]
                address, minutes = (
                    first["Address"],
                    float(first["CachePeriodInMinutes"]),
                )
            except (LookupError, TypeError, ValueError) as exc:
                raise self.failure("DescribeEndpoints names no address") from exc
            self._discovered = f"https://{address}", now + minutes * 60
        return self._discovered[0]

    def _post(self, url: str, operation: str, body: bytes) -> Any:
        who = self._access.credentials()
        headers = self._signed(who, url, operation, body)
        reply = self._http.post(url, body, headers=headers, accept=_JUDGED)
        if reply.status != 200:
            raise self._verdict(who, operation, reply)
        answer = reply.json() if reply.body else {}
        if not isinstance(answer, dict):
            raise reply.failure(f"the answer to {operation} is no object")
        return answer

    def _signed(
        self, who: Any, url: str, operation: str, body: bytes
    ) -> dict[str, str]:
        request = AWSRequest(
            "POST",
            url,
            {
                "Content-Type": self._content_type,
                "X-Amz-Target": self._target + operation,
            },
            body,
        )
        SigV4Auth(who, self._signing_name, self.region).add_auth(request)
        return dict(request.headers.items())

    def _verdict(self, who: Any, operation: str, reply: Reply) -> Exception:
        answer = _object(reply)
        code = _code(reply, answer)
        message = _text(answer.get("message")) or _text(answer.get("Message"))
        if code in WHO_ASKS:
            self._access.forget()
        if code == "InvalidEndpointException":
            self._discovered = None
        for secret in (who.secret_key, who.token):
            # One of a few letters, such as a test's, stands in every word.
            if secret and len(secret) > 4:
                # A wrong signature is answered with what should have been signed.
                message = message.replace(secret, "***")
        told = excerpt(f"{code}: {message}" if message else code) if code else ""
        reason = f"{operation}: {told or reply.reason}"
        if code in TOO_LARGE or reply.status == 413:
            return TooLarge(reason)
        if code in RECORDS_FAULT:
            return RefusedCall(reason, code, answer)
        reason = f"{reply.place}: {reason}"
        return FailedCall(reason, code, retry_after=reply.retry_after)


def _object(reply: Reply) -> Mapping[str, Any]:
    """Return what an error's answer holds; a proxy's page holds nothing."""
    try:
        answer = reply.json()
    except TransientError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _code(reply: Reply, answer: Mapping[str, Any]) -> str:
    """Return the bare name of an error."""
    return bare(
        _text(answer.get("__type")) or reply.headers.get("x-amzn-ErrorType", "")
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
