"""An imitation of Elasticsearch and OpenSearch: indices, bulk, single documents.

It answers what the real servers answer to what our pump sends, in every version, and
keeps the documents. The real ones are in `elastic.py`; tests of faults and of forms
that no server here speaks use this one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec

from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority

OLD = ("", "1", "2", "5", "6")


class Document(msgspec.Struct):
    """What has been laid down."""

    index: str
    type: str
    id: str
    line: str
    """The source as it was sent."""

    @property
    def source(self) -> dict[str, Any]:
        """Return what the source means."""
        found: dict[str, Any] = json.loads(self.line)
        return found


Judge = Callable[[Document], dict[str, Any] | None]
"""Says how an item fails: `status` and `error`; None: it is taken."""


class ClusterServer:
    """One node that listens; `documents` has what was taken, in order."""

    def __init__(
        self,
        number: str = "7.17.28",
        *,
        distribution: str = "",
        authorization: str = "",
        authority: Authority | None = None,
        demand_certificate: bool = False,
        largest: int = 100 * 1024 * 1024,
    ) -> None:
        """`number` "" is a server that does not say what it is."""
        self.number = number
        self.distribution = distribution
        self.authorization = authorization
        self.largest = largest
        self.judge: Judge = lambda document: None
        self.documents: list[Document] = []
        self.templates: dict[str, Any] = {}
        self.nodes: dict[str, Any] = {}
        self.http = HttpServer(
            self.respond, authority=authority, demand_certificate=demand_certificate
        )

    def __enter__(self) -> ClusterServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    @property
    def url(self) -> str:
        """Return the address of the node."""
        return self.http.url

    @property
    def bulks(self) -> list[Request]:
        """Return the bulk requests that came."""
        return [one for one in self.http.requests if one.path.endswith("/_bulk")]

    def respond(self, request: Request) -> Answer:
        """Answer as such a server does."""
        given = request.headers.get("authorization", "")
        if self.authorization and given != self.authorization:
            return self._error(401, "security_exception", "missing authentication")
        if len(request.raw) > self.largest:
            return Answer(413)
        path = re.sub(r"^/(a|b|es/base)(?=/|$)", "", request.path) or "/"
        if path == "/":
            return self._greeting()
        if path == "/_nodes/http":
            return of({"nodes": self.nodes})
        if path.startswith(("/_template/", "/_index_template/")):
            return self._template(path, request)
        if path == "/_bulk" and request.method == "POST":
            return self._bulk(request)
        if request.method == "PUT":
            return self._single(path, request)
        return self._error(405, "method_not_allowed", request.method)

    @property
    def _typed(self) -> bool:
        return not self.distribution and self.number.partition(".")[0] in OLD

    def _greeting(self) -> Answer:
        if not self.number:
            return Answer(200)
        version = {"number": self.number}
        if self.distribution:
            version["distribution"] = self.distribution
        return of({"name": "n1", "cluster_name": "t", "version": version})

    def _template(self, path: str, request: Request) -> Answer:
        if path in self.templates:
            name = path.rpartition("/")[2]
            reason = f"index template [{name}] already exists"
            return self._error(400, "illegal_argument_exception", reason)
        self.templates[path] = request.json
        return of({"acknowledged": True})

    def _error(self, status: int, kind: str, reason: str, **how: Any) -> Answer:
        error = {"type": kind, "reason": reason, "root_cause": []}
        return of({"error": error, "status": status}, status, **how)

    def _bulk(self, request: Request) -> Answer:
        if not request.body.endswith(b"\n"):
            reason = "The bulk request must be terminated by a newline [\\n]"
            return self._error(400, "illegal_argument_exception", reason)
        lines = request.body.decode().split("\n")[:-1]
        items = []
        for at in range(0, len(lines), 2):
            ((action, where),) = json.loads(lines[at]).items()
            if "_type" in where and not self._typed:
                reason = (
                    f"Action/metadata line [{at + 1}] contains an unknown parameter "
                    "[_type]"
                )
                return self._error(400, "illegal_argument_exception", reason)
            if "_type" not in where and self._typed and self.number:
                reason = "Validation Failed: 1: type is missing;"
                return self._error(400, "action_request_validation_exception", reason)
            document = Document(
                where["_index"],
                where.get("_type", ""),
                where.get("_id", ""),
                lines[at + 1],
            )
            items.append({action: self._take(document, action)})
        failed = any(item["status"] >= 300 for one in items for item in one.values())
        return of({"took": 1, "errors": failed, "items": items})

    def _single(self, path: str, request: Request) -> Answer:
        parts = [unquote(part) for part in path.split("/")[1:]]
        create = "_create" in parts
        kept = [part for part in parts if part not in ("_create", "_doc")]
        type_ = kept[1] if len(kept) == 3 else ""
        document = Document(kept[0], type_, kept[-1], request.body.decode())
        item = self._take(document, "create" if create else "index")
        status = item["status"]
        headers = {"Retry-After": "7"} if status == 429 else {}
        return of(item, status, headers=headers)

    def _take(self, document: Document, action: str) -> dict[str, Any]:
        named = {"_index": document.index, "_id": document.id}
        fault = self.judge(document)
        if fault is not None:
            return {**named, **fault}
        same = [
            one
            for one in self.documents
            if (one.index, one.id) == (document.index, document.id)
        ]
        if same and action == "create":
            reason = f"[{document.id}]: version conflict, document already exists"
            error = {"type": "version_conflict_engine_exception", "reason": reason}
            return {**named, "status": 409, "error": error}
        for one in same:
            self.documents.remove(one)
        self.documents.append(document)
        return {**named, "status": 201, "result": "created"}


def refused(status: int, kind: str = "mapper_parsing_exception") -> dict[str, Any]:
    """Return an item that fails."""
    reason = f"failed with {status}"
    return {"status": status, "error": {"type": kind, "reason": reason}}
