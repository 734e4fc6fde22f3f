"""Every pump that speaks HTTP, before a back end that fails in every way.

A case of the contract takes part when its pump has the options that all HTTP pumps
have; its server is an `HttpServer`, or has one as `http`. The fault lasts until the
worker pauses for the first time; afterwards every record has to be there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.contract.cases import CASES, Case, Seen
from tests.contract.test_all import AtFirstPause, Rig, frame, numbered
from tests.servers.http import Answer, HttpServer, Request, Respond
from tests.worker.bench import End
from tests.worker.bench import run as run_worker
from tyk_pump import pumps
from tyk_pump.config.options import HttpOptions, Secret
from tyk_pump.worker.outcome import Recovered, Trouble

HTML = b"<html><head><title>Login</title></head><body>\nWelcome\n</body></html>"
Change = Callable[[Respond], Respond]
"""Makes the failing answers of the usual ones."""
RETRY_AFTER = 7


class Fault(msgspec.Struct, frozen=True):
    """A way to fail."""

    name: str
    while_it_lasts: Callable[[HttpServer], AbstractContextManager[Any]]
    taken: bool = False
    """The records are taken and only the answer is lost: they may come twice."""
    timeout: float | None = None


def instead(answer: Answer) -> Callable[[HttpServer], AbstractContextManager[Any]]:
    """Answer so, and take nothing."""
    return lambda server: server.answering(lambda request: answer)


def afterwards(
    change: Callable[[Answer], Answer],
) -> Callable[[HttpServer], AbstractContextManager[Any]]:
    """Take what comes and spoil the answer."""

    def changed(server: HttpServer) -> AbstractContextManager[Any]:
        usual = server.respond

        def respond(request: Request) -> Answer:
            return change(usual(request))

        return server.answering(respond)

    return changed


@contextlib.contextmanager
def away(server: HttpServer) -> Iterator[None]:
    """Nobody listens."""
    server.close()
    try:
        yield
    finally:
        server.restart()


@contextlib.contextmanager
def half_a_request(server: HttpServer) -> Iterator[None]:
    """Reset the connection before all of a request is read."""
    server.reads = 100
    try:
        yield
    finally:
        server.reads = None


def status(code: int, **headers: str) -> Fault:
    """Fail with a status."""
    return Fault(str(code), instead(Answer(code, HTML, headers)))


def body(name: str, content: bytes) -> Fault:
    """Fail with status 200 and something else than the usual answer."""
    return Fault(f"200-{name}", instead(Answer(200, content)))


def cut(answer: Answer) -> Answer:
    """Return an answer of which half is lost, whatever its body."""
    whole = answer.body or b"{}" * 20
    return msgspec.structs.replace(
        answer, status=answer.status if answer.body else 200, body=whole, cut=1
    )


FAULTS = [
    *(status(code) for code in (500, 502, 504, 408, 401, 403, 404)),
    *(status(code, **{"Retry-After": str(RETRY_AFTER)}) for code in (429, 503)),
    status(302, Location="http://elsewhere.example.com/login?secret=1"),
    Fault("away", away),
    Fault("hang", instead(Answer(delay=60)), timeout=1.0),
    Fault("drip", instead(Answer(200, b"x" * 200, drip=0.2)), timeout=1.0),
    Fault("hang-up", instead(Answer(hang_up=True))),
    Fault("garbage", instead(Answer(garbage=b"\x16\x03\x01 SSH-2.0-x\r\n\r\n"))),
    Fault("half-a-request", half_a_request),
    Fault("half-an-answer", afterwards(cut), taken=True),
    Fault("no-answer", afterwards(lambda answer: Answer(hang_up=True)), taken=True),
    body("nothing", b""),
    body("page", HTML),
    body("garbage", b"\x00\xff\xfe{{{"),
    body("half-json", b'{"took":1,"errors":fal'),
    body("null", b"null"),
    body("list", b"[]"),
]


def speaks_http(case: Case) -> bool:
    """Say whether a pump has the options that all HTTP pumps have."""
    known = case.type in pumps.REGISTRY
    return known and issubclass(pumps.load(case.type).options_type, HttpOptions)


HTTP = [case for case in CASES if speaks_http(case)]


@pytest.fixture(params=HTTP, ids=lambda case: case.type)
def case(request: pytest.FixtureRequest) -> Case:
    """Each pump that speaks HTTP."""
    found: Case = request.param
    return found


@pytest.fixture
def rig(
    case: Case,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Rig]:
    """The pump with its server."""
    logging.getLogger("tyk_pump").setLevel(logging.DEBUG)
    folder = tmp_path / "out"
    folder.mkdir()
    seen = Seen(folder, capfd, caplog)
    assert case.server is not None
    with case.server(request) as seen.server:
        yield Rig(case, seen, tmp_path)


def server_of(seen: Seen) -> HttpServer:
    """Return the part of a case's server that answers."""
    found = getattr(seen.server, "http", seen.server)
    assert isinstance(found, HttpServer)
    return found


def secrets_of(options: Any) -> list[str]:
    """Return all secrets of a pump's options, inner ones too."""
    found = []
    for value in msgspec.structs.asdict(options).values():
        if isinstance(value, Secret) and value:
            found.append(value.reveal())
        elif isinstance(value, msgspec.Struct):
            found += secrets_of(value)
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost_or_blamed(rig: Rig, fault: Fault) -> None:
    """The trouble is told in a line, and when it ends all records arrive."""
    if fault.name == "200-nothing" and rig.case.empty_answer:
        pytest.skip("that is how this back end says yes")
    if fault.timeout is not None:
        rig.config = rig.load(request_timeout=fault.timeout)
    server = server_of(rig.seen)
    pump = rig.pump()
    names = numbered(0, 90)
    run_worker(pump, [frame(names[:10])], settings=rig.config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(fault.while_it_lasts(server))
        end = End([frame(names[10:60], 10), frame(names[60:], 60)])
        clock = AtFirstPause(stack.close, then=end.stop)
        began = clock.time
        run_worker(pump, [], settings=rig.config, clock=clock, end=end)
    pump.close()
    troubles = [answer for answer in end.answers if isinstance(answer, Trouble)]
    assert troubles and any(isinstance(answer, Recovered) for answer in end.answers)
    for trouble in troubles:
        assert "127.0.0.1" in trouble.reason
        assert "\n" not in trouble.reason and len(trouble.reason) < 500
        assert "secret=1" not in trouble.reason
        for secret in secrets_of(rig.config.options):
            assert secret not in trouble.reason
    assert [done.dead for done in end.outcomes] == [[], []]
    assert [done.delivered for done in end.outcomes] == [50, 30]
    if fault.taken and not rig.case.once:
        assert set(rig.arrived()) == set(rig.known(names))
    else:
        rig.assert_arrived(names, after_failure=True)
    if fault.name in ("429", "503"):
        assert clock.time - began >= RETRY_AFTER
