"""Google's token endpoints: a service account's key -> access tokens for Redis."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.servers.http import Answer, HttpServer, Request, of

ACCOUNT = "pump@project.iam.gserviceaccount.com"


class Google(HttpServer):
    """Gives `token` to whoever signs with the account's key, for `seconds`."""

    def __init__(self, **how: Any) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.token = "ya29.first-token-of-the-account"
        self.seconds = 3600
        self.scopes: list[str] = []
        """What the tokens were asked for, one after the other."""
        self.fault: Answer | None = None
        super().__init__(self._respond, **how)

    def write_key(self, folder: Path) -> Path:
        """Write what GOOGLE_APPLICATION_CREDENTIALS names."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        about = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": ACCOUNT,
            "token_uri": f"{self.url}/token",
        }
        path = folder / "account.json"
        path.write_text(json.dumps(about))
        return path

    def _respond(self, request: Request) -> Answer:
        if self.fault is not None:
            return self.fault
        if request.path != "/token":
            return self._impersonated(request)
        (assertion,) = parse_qs(request.body.decode())["assertion"]
        signed, _, signature = assertion.rpartition(".")
        self._key.public_key().verify(
            _raw(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        claims = json.loads(_raw(signed.partition(".")[2]))
        assert claims["iss"] == ACCOUNT
        self.scopes.append(claims["scope"])
        kind = {"expires_in": self.seconds, "token_type": "Bearer"}
        return of({"access_token": self.token, **kind})

    def _impersonated(self, request: Request) -> Answer:
        if request.headers["authorization"] != f"Bearer {self.token}":
            return of({"error": {"code": 401, "status": "UNAUTHENTICATED"}}, 401)
        name = request.path.rpartition("/")[2].partition(":")[0]
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0, tzinfo=None)
        end = now + datetime.timedelta(seconds=self.seconds)
        token = f"{self.token}-as-{name}"
        return of({"accessToken": token, "expireTime": f"{end.isoformat()}Z"})


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
