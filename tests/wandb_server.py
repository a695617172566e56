"""As much of W&B's server as runs need to be created, filled, resumed and ended, on localhost."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Run:
    """What the server has of a run."""

    told: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    files: list[str] = field(default_factory=list)


class Server(ThreadingHTTPServer):
    """The runs by id, and the kinds of requests (`graphql`, `stream`) that fail for now."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, Run] = {}
        self.failing: dict[str, int] = {}  # kind -> how many more requests fail
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none."""

    def fails(self, kind: str) -> bool:
        """Whether this request is to fail."""
        left = self.failing.get(kind, 0)
        self.failing[kind] = max(0, left - 1)
        return left > 0

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL request."""
        name, project = given.get("name") or given.get("run") or "", given.get("project")
        entity = {"id": "e", "name": "me"}
        if "upsertBucket" in query:
            run = self.runs.setdefault(name, Run())
            run.told |= {key: value for key, value in given.items() if value is not None}
            run.config |= json.loads(given.get("config") or "{}")
            bucket = {"id": name, "name": name, "displayName": given.get("displayName")}
            bucket |= {"project": {"id": "p", "name": project, "entity": entity}}
            bucket |= {"historyLineCount": len(run.rows)}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "RunResumeStatus" in query:
            return {"model": {"id": "m", "name": project, "entity": entity} | self._bucket(name)}
        if "createRunFiles" in query:
            self.runs[name].files += given["files"]
            files = [{"name": file, "uploadUrl": f"{self.url}/{file}"} for file in given["files"]]
            return {"createRunFiles": {"runID": name, "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}"}}
        return {}

    def _bucket(self, name: str) -> dict[str, Any]:
        if name not in self.runs:
            return {"bucket": None}
        run = self.runs[name]
        counts = {"historyLineCount": len(run.rows), "logLineCount": 0, "eventsLineCount": 0}
        last = [json.dumps(row) for row in run.rows[-1:]]
        tails = {"historyTail": json.dumps(last), "eventsTail": "[]", "tags": []}
        texts = {"summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config)}
        texts["wandbConfig"] = '{"t": 1}'
        return {"bucket": {"id": name, "name": name} | counts | tails | texts}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """Take what a run's file stream holds."""
        run = self.runs[name]
        for file, part in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if "history" in file:
                run.rows += lines
            elif "summary" in file:
                run.summary = lines[-1]
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


class Handler(BaseHTTPRequestHandler):
    """HTTP around it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        """A file's content."""
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        """GraphQL, or a run's stream."""
        body = self._body()
        kind = "graphql" if self.path.startswith("/graphql") else "stream"
        if self.server.fails(kind):
            self._reply({}, code=503)
        elif kind == "graphql":
            asked = json.loads(body)
            self._reply({"data": self.server.answer(asked["query"], asked.get("variables") or {})})
        else:
            if self.path.endswith("/file_stream"):
                self.server.stream(self.path.split("/")[-2], json.loads(body))
            self._reply({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, answer: dict[str, Any], code: int = 200) -> None:
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Server]:
    """A server for as long as the context lasts."""
    with Server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
