"""A cloud identity in the place of the Redis password: access tokens, renewed in time.

A token is fetched by a thread of its own, so that the coordinator, which has a lease to
keep, never waits for the cloud longer than for Redis itself. With a new token all
connections are opened anew: none outlives the token that let it in.
"""

from __future__ import annotations

import functools
import importlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC
from typing import Any

import msgspec
import redis.exceptions
from redis.credentials import CredentialProvider

from tyk_pump import backoff, log
from tyk_pump.config.root import IamAuthOptions
from tyk_pump.errors import ConfigError, SourceError

logger = logging.getLogger(__name__)

USER = "default"
"""The user that tokens belong to; whose they are stands in the token."""
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
FETCH_SECONDS = 30.0
"""The longest that one request for a token may take."""
SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


class Token(msgspec.Struct, frozen=True):
    """What Redis takes as a password, and until when (seconds since the epoch)."""

    value: str
    expires: float

    def __repr__(self) -> str:
        return f"Token(expires={self.expires})"


Fetch = Callable[[], Token]
"""Gets a new token, or raises SourceError."""


class Identity(CredentialProvider):
    """Lets new connections in with the newest token; for one thread."""

    def __init__(self, fetch: Fetch, *, before: float, patience: float) -> None:
        self._fetch = fetch
        self._before = before
        self._patience = patience
        self._lock = threading.Condition()
        self._token: Token | None = None
        self._shown: Token | None = None  # the one that connections are opened with
        self._useless = True  # what we have opens no connection
        self._fetching = False
        self._renew_at = 0.0
        self._not_before = 0.0  # monotonic
        self._failures = 0
        self._error = "no answer yet"

    def get_credentials(self) -> tuple[str, str]:
        """Return user and token for a connection that is being opened."""
        with self._lock:
            token = self._shown
            if token is None or token.expires <= time.time():
                self._useless = True
                # Only redis-py's own errors make it take the connection down again.
                raise redis.exceptions.ConnectionError(
                    f"no token of the identity: {self._error}"
                )
            return USER, token.value

    def renewed(self) -> bool:
        """Say whether there is a newer token than the open connections came with.

        Where a token is due it is asked for. It is waited for where there is none that
        opens a connection, as long as Redis itself would be.
        """
        with self._lock:
            if time.time() >= self._renew_at:
                self._ask()
            if self._useless and self._fetching:
                self._lock.wait(self._patience)
            before, self._shown = self._shown, self._token
            return before is not None and _value(before) != _value(self._shown)

    def refused(self) -> None:
        """Redis does not take the token: ask for another, whatever its time."""
        with self._lock:
            self._renew_at, self._useless = 0.0, True

    def _ask(self) -> None:
        if self._fetching or time.monotonic() < self._not_before:
            return
        self._fetching = True
        # A daemon: a cloud that hangs must not hold up our end.
        threading.Thread(target=self._run, name="identity", daemon=True).start()

    def _run(self) -> None:
        token, error = None, ""
        try:
            token = self._fetch()
        except Exception as exc:
            # The outermost loop of this thread. A client stumbles in all ways over an
            # answer that is none of its cloud's.
            error = str(exc) or type(exc).__name__
        with self._lock:
            self._fetching = False
            if token is None:
                self._failed(error)
            else:
                self._take(token)
            self._lock.notify_all()

    def _take(self, token: Token) -> None:
        now = time.time()
        # Never sooner than half of its time: some clouds give out the same token again
        # until shortly before its end.
        left = max(0.0, token.expires - now)
        self._renew_at = now + max(left / 2, left - self._before)
        self._not_before = time.monotonic() + SHORTEST_PAUSE
        if self._failures:
            logger.info("identity has a token again", extra={"prefix": "main"})
        self._failures = 0
        if self._token is not None:
            log.show([self._token.value])
        log.hide([token.value])
        self._token, self._useless = token, False

    def _failed(self, reason: str) -> None:
        self._failures += 1
        self._error = reason
        pause = backoff.delay(
            self._failures, initial=SHORTEST_PAUSE, ceiling=LONGEST_PAUSE
        )
        self._not_before = time.monotonic() + pause
        if self._failures == 1:
            logger.error(
                "identity gets no token",
                extra={"prefix": "main", "reason": reason},
            )


def _value(token: Token | None) -> str:
    return "" if token is None else token.value


def identity(options: IamAuthOptions, patience: float) -> Identity | None:
    """Return the identity that the operator wants, if one; nothing is fetched yet."""
    if not options.enabled:
        return None
    return Identity(
        google(options.service_account),
        before=options.token_refresh_before_expiry,
        patience=patience,
    )


def google(service_account: str) -> Fetch:
    """Return what fetches access tokens of the ambient Google identity.

    With a service account the tokens are of that one, which the ambient identity has to
    be allowed to impersonate.
    """
    try:
        auth: Any = importlib.import_module("google.auth")
        impersonated: Any = importlib.import_module(
            "google.auth.impersonated_credentials"
        )
        requests: Any = importlib.import_module("google.auth.transport.requests")
    except ImportError as exc:
        raise ConfigError(
            f"iam_auth needs {exc.name or exc}: install tyk-pump[gcp]"
        ) from exc
    known: list[Any] = []

    def credentials(request: Any) -> Any:
        if not known:
            found, _ = auth.default(scopes=[SCOPE], request=request)
            if service_account:
                found = impersonated.Credentials(found, service_account, [SCOPE])
            known.append(found)
        return known[0]

    def fetch() -> Token:
        request = requests.Request()
        try:
            mine = credentials(functools.partial(request, timeout=FETCH_SECONDS))
            mine.refresh(functools.partial(request, timeout=FETCH_SECONDS))
            # It does not say that its time is UTC.
            expires = mine.expiry.replace(tzinfo=UTC).timestamp()
        except (auth.exceptions.GoogleAuthError, OSError, ValueError) as exc:
            # The first argument is its words, the second may be a whole answer.
            raise SourceError(f"Google: {exc.args[0] if exc.args else exc}") from exc
        finally:
            request.session.close()
        return Token(mine.token, expires)

    return fetch
