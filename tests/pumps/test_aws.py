"""Who asks AWS, where, over which connection, and what an error means."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.servers.aws import KEY, REGION, SECRET, Aws, Wrong
from tests.servers.http import Answer, HttpServer, Request
from tests.servers.tls import Authority
from tyk_pump.config.load import load
from tyk_pump.config.options import Secret
from tyk_pump.errors import ConfigError, TransientError
from tyk_pump.transport.aws import Access, AwsOptions, FailedCall, RefusedCall, Service
from tyk_pump.transport.bulk import TooLarge

pytestmark = pytest.mark.usefixtures("no_aws")
DESCRIBE = {"StreamName": "tyk"}
ROLE = "arn:aws:iam::123456789012:role/tyk"
Make = Callable[..., Service]


@pytest.fixture
def service() -> Iterator[Make]:
    """Make services, and close them at last."""
    made: list[Service] = []

    def make(server: Aws | None = None, name: str = "kinesis", **given: Any) -> Service:
        options = {"aws_region": REGION, **given}
        if server is not None:
            options = {"aws_endpoint": server.url, **options}
        found = AwsOptions(**options)
        made.append(Access(found).service(name, found.aws_endpoint))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def server() -> Iterator[Aws]:
    """Kinesis, SQS and KMS."""
    with Aws() as made:
        yield made


def keys(key: str = KEY, secret: str = SECRET) -> dict[str, Any]:
    """Return the options of one who asks."""
    return {"aws_key": key, "aws_secret": Secret(secret)}


def keys_file(tmp_path: Path, secret: str, profile: str = "default") -> None:
    """Write the shared file of credentials."""
    text = f"[{profile}]\naws_access_key_id={KEY}\naws_secret_access_key={secret}\n"
    (tmp_path / "aws-keys").write_text(text)


# Who asks


def test_keys_of_the_options(server: Aws, service: Make) -> None:
    """With a token where there is one; the server computes each signature again."""
    assert service(server, **keys()).call("DescribeStream", DESCRIBE)
    server.token = "t0ken"
    token = Secret("t0ken")
    assert service(server, aws_token=token, **keys()).call("DescribeStream", DESCRIBE)


def test_keys_of_the_environment(
    server: Aws, service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the names that all of AWS's programs know."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken")
    server.token = "t0ken"
    assert service(server).call("DescribeStream", DESCRIBE)


def test_half_of_a_key_does_not_count(
    server: Aws,
    service: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As in the reference; it is told."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert service(server, aws_key="AKIDOTHER").call("DescribeStream", DESCRIBE)
    assert "count only together" in caplog.text


@pytest.mark.parametrize("named", [True, False])
def test_a_profile(
    server: Aws,
    service: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: bool,
) -> None:
    """Of the option, or of AWS's own variable."""
    keys_file(tmp_path, SECRET, "pump")
    if not named:
        monkeypatch.setenv("AWS_PROFILE", "pump")
    one = service(server, **({"aws_profile": "pump"} if named else {}))
    assert one.call("DescribeStream", DESCRIBE)


def test_new_keys_in_a_file_are_found(
    server: Aws, service: Make, tmp_path: Path
) -> None:
    """After the old ones were refused, without a restart."""
    keys_file(tmp_path, "0ld")
    one = service(server)
    with pytest.raises(TransientError, match="InvalidSignatureException"):
        one.call("DescribeStream", DESCRIBE)
    keys_file(tmp_path, SECRET)
    assert one.call("DescribeStream", DESCRIBE)


def test_nobody_asks(server: Aws, service: Make) -> None:
    """That can change, and no request is made."""
    one = service(server)
    with pytest.raises(TransientError, match="no credentials: none of the usual"):
        one.call("DescribeStream", DESCRIBE)
    assert server.http.requests == []


def test_a_profile_that_is_not_there(service: Make) -> None:
    """Is a fault."""
    with pytest.raises(ConfigError, match=r"^aws_profile: .*nobody"):
        service(aws_profile="nobody")


def test_a_file_that_cannot_be_read(service: Make, tmp_path: Path) -> None:
    """Is a fault."""
    (tmp_path / "aws-config").write_text("[default\nregion\n")
    with pytest.raises(ConfigError, match="the shared files of AWS: "):
        service()


class Sts:
    """Gives credentials of a role, one after the other."""

    def __init__(self, lasts: float = 3600) -> None:
        self.lasts = lasts
        self.refuses = False
        self.http = HttpServer(self._respond)

    def __enter__(self) -> Sts:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def asked(self) -> list[dict[str, str]]:
        """Return the parameters of each request."""
        found = [parse_qs(request.raw.decode()) for request in self.http.requests]
        return [{name: value[0] for name, value in one.items()} for one in found]

    def _respond(self, request: Request) -> Answer:
        if self.refuses:
            code = "<Code>AccessDenied</Code><Message>not you</Message>"
            text = f"<ErrorResponse><Error>{code}</Error></ErrorResponse>"
            return Answer(403, text.encode())
        now = datetime.datetime.now(datetime.UTC)
        end = (now + datetime.timedelta(seconds=self.lasts)).isoformat()
        text = (
            "<AssumeRoleResponse><AssumeRoleResult><Credentials>"
            f"<AccessKeyId>{KEY}</AccessKeyId><SecretAccessKey>{SECRET}"
            f"</SecretAccessKey><SessionToken>t0ken</SessionToken><Expiration>{end}"
            "</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
        )
        return Answer(200, text.encode(), {"Content-Type": "text/xml"})


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sts]:
    """The service that gives roles."""
    with Sts() as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", made.http.url)
        yield made


def test_a_role(server: Aws, service: Make, sts: Sts) -> None:
    """It is taken on once, with the keys, and with what its policy asks for."""
    server.token = "t0ken"
    one = service(
        server,
        aws_role_arn=ROLE,
        aws_role_external_id=Secret("ext3rnal"),
        aws_role_session_name="pump-7",
        **keys("AKIDSOURCE", "source"),
    )
    one.call("DescribeStream", DESCRIBE)
    one.call("DescribeStream", DESCRIBE)
    (asked,) = sts.asked()
    assert asked["RoleArn"] == ROLE and asked["Action"] == "AssumeRole"
    assert asked["ExternalId"] == "ext3rnal"
    assert asked["RoleSessionName"] == "pump-7"
    assert "AKIDSOURCE" in sts.http.requests[0].headers["authorization"]


def test_a_role_is_taken_on_again(server: Aws, service: Make, sts: Sts) -> None:
    """Before it ends."""
    server.token = "t0ken"
    sts.lasts = 60
    one = service(server, aws_role_arn=ROLE, **keys("AKIDSOURCE", "source"))
    one.call("DescribeStream", DESCRIBE)
    sts.lasts = 3600
    for _ in range(2):
        one.call("DescribeStream", DESCRIBE)
    assert len(sts.asked()) == 2


def test_a_role_that_is_refused(server: Aws, service: Make, sts: Sts) -> None:
    """Holds the records; a word of STS says why, and no second attempt is made."""
    sts.refuses = True
    secret = Secret("ext3rnal")
    one = service(
        server,
        aws_role_arn=ROLE,
        aws_role_external_id=secret,
        **keys("AKIDSOURCE", "source"),
    )
    with pytest.raises(TransientError, match=r"no credentials: .*AssumeRole.*not y"):
        one.call("DescribeStream", DESCRIBE)
    assert len(sts.asked()) == 1
    sts.http.close()
    with pytest.raises(TransientError, match="no credentials: ") as caught:
        one.call("DescribeStream", DESCRIBE)
    assert "ext3rnal" not in str(caught.value) and "\n" not in str(caught.value)


# Where


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_of_the_environment(
    tmp_path: Path, service: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Both names are in use."""
    monkeypatch.setenv(name, "eu-north-1")
    path = tmp_path / "pump.conf"
    meta = {"stream_name": "tyk"}
    path.write_text(json.dumps({"pumps": {"x": {"type": "kinesis", "meta": meta}}}))
    config = load(str(path), {name: "eu-north-1"})
    assert config.every_fault() == []
    region = config.pumps[0].options.aws_region
    one = service(aws_region=region)
    assert one.url == "https://kinesis.eu-north-1.amazonaws.com"


def test_the_region_of_a_profile(service: Make, tmp_path: Path) -> None:
    """As AWS's own programs take it."""
    (tmp_path / "aws-config").write_text("[profile p]\nregion = us-gov-west-1\n")
    one = service(aws_region="", aws_profile="p")
    assert one.url == "https://kinesis.us-gov-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("region", "fault"), [("", "missing"), ("a b", "Provided region_name 'a b'")]
)
def test_no_region(service: Make, region: str, fault: str) -> None:
    """Is a fault with the option's name."""
    with pytest.raises(ConfigError, match=f"^aws_region: {fault}"):
        service(aws_region=region)


def test_the_endpoint_of_the_environment(
    server: Aws, service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference's libraries ignore it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", server.url)
    assert service(**keys()).call("DescribeStream", DESCRIBE)


# Over which connection


def test_own_authority_and_certificate(authority: Authority, service: Make) -> None:
    """Each service has its own; one that skips the check changes no other."""
    cert, key = authority.client()
    own = {
        "ssl_ca_file": str(authority.ca_file),
        "ssl_cert_file": str(cert),
        "ssl_key_file": str(key),
        **keys(),
    }
    with Aws(authority, demand_certificate=True) as server:
        skipping = service(server, **{**own, "ssl_insecure_skip_verify": True})
        believing = service(server, **own)
        doubting = service(server, **keys())
        bare = service(server, ssl_ca_file=own["ssl_ca_file"], **keys())
        assert skipping.call("DescribeStream", DESCRIBE)
        assert believing.call("DescribeStream", DESCRIBE)
        for one in (doubting, bare):
            with pytest.raises(TransientError, match=r"https://127\.0\.0\.1"):
                one.call("DescribeStream", DESCRIBE)


@pytest.mark.parametrize("way", ["variable", "profile"])
def test_the_bundle_of_the_environment(
    authority: Authority,
    service: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """Counts where the option is absent."""
    if way == "variable":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.ca_file))
    else:
        text = f"[default]\nca_bundle = {authority.ca_file}\n"
        (tmp_path / "aws-config").write_text(text)
    with Aws(authority) as server:
        assert service(server, **keys()).call("DescribeStream", DESCRIBE)


def test_a_proxy_of_the_environment(
    authority: Authority, service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leads to the region's own address."""
    with Aws(authority, plain=True) as server:
        monkeypatch.setenv("https_proxy", server.url)
        one = service(ssl_ca_file=str(authority.ca_file), **keys())
        assert one.call("DescribeStream", DESCRIBE)
        assert server.http.tunnels == ["kinesis.eu-west-1.amazonaws.com:443"]


# What an error means


def test_a_refused_call(server: Aws, service: Make) -> None:
    """Has the code and all that was said."""
    server.before = lambda operation, asked: Wrong("ValidationException", "1 error")
    with pytest.raises(RefusedCall, match="DescribeStream: ValidationExc") as caught:
        service(server, **keys()).call("DescribeStream", DESCRIBE)
    assert caught.value.code == "ValidationException"
    assert caught.value.answer["message"] == "1 error"


@pytest.mark.parametrize(
    ("code", "status"), [("BatchRequestTooLong", 400), ("Whatever", 413)]
)
def test_a_call_that_is_too_large(
    server: Aws, service: Make, code: str, status: int
) -> None:
    """By its code or by its status."""
    server.before = lambda operation, asked: Wrong(code, "", status)
    with pytest.raises(TooLarge):
        service(server, **keys()).call("DescribeStream", DESCRIBE)


def test_an_error_of_somebody_between(service: Make) -> None:
    """A page without a code is nothing that AWS says of a record."""
    page = Answer(400, b"<html>Bad\nRequest</html>")
    with HttpServer(lambda request: page) as server:
        one = service(aws_endpoint=server.url, **keys())
        with pytest.raises(
            FailedCall, match="400 Bad Request: <html>Bad Req"
        ) as caught:
            one.call("DescribeStream", DESCRIBE)
        assert caught.value.code == ""


def test_the_code_of_a_header(service: Make) -> None:
    """Counts where the answer itself has none."""
    headers = {"x-amzn-ErrorType": "ThrottlingException:http://x/", "Retry-After": "7"}
    with HttpServer(lambda request: Answer(400, b"", headers)) as server:
        one = service(aws_endpoint=server.url, **keys())
        with pytest.raises(FailedCall, match="ThrottlingException") as caught:
            one.call("DescribeStream", DESCRIBE)
        assert caught.value.code == "ThrottlingException"
        assert caught.value.retry_after == 7


def test_no_secret_in_a_reason_or_a_log(
    server: Aws, service: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """AWS answers a wrong signature with what should have been signed."""
    caplog.set_level(logging.DEBUG)
    secret, token = "wr0ng/secret", "t0ken-" + "x" * 400
    server.token = token
    one = service(server, aws_token=Secret(token), **keys(secret=secret))
    with pytest.raises(TransientError, match="InvalidSignatureExc") as caught:
        one.call("DescribeStream", DESCRIBE)
    assert (
        token
        in json.loads(server.http.respond(server.http.requests[0]).body)["message"]
    )
    for text in (str(caught.value), caplog.text):
        assert "t0ken" not in text and secret not in text
