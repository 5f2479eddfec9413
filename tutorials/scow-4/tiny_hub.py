"""A hub on this machine that speaks what Hugging Face's and ModelScope's speak, for trying downloads without a network.

Large files lie on another path, as on a content delivery network; every file may be asked for from any byte on.
"""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 100_000  # bytes from which on a file is named by its SHA-256 and lies elsewhere, as with git-lfs
CHUNK = 1 << 16


def git_name(content: bytes) -> str:
    """How git names a file of that content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class TinyHub:
    """Attributes: ``asked`` every path, ``ranges`` every first byte but 0, ``tokens`` by host: what it was asked."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.asked: list[str] = []
        self.ranges: list[int] = []
        self.tokens: set[tuple[str, str | None]] = set()
        self.claimed: int | None = None  # a size that it claims for large files
        self.hold_after: int | None = None  # bytes of a large file after which the hub sends no more ...
        self.is_holding = threading.Event()  # ... and says so
        self.go_on = threading.Event()
        self.address = ""

    def commit(self, name: str) -> str:
        named = "\n".join(f"{path} {git_name(data)}" for path, data in sorted(self.repositories[name].items()))
        return hashlib.sha1(named.encode(), usedforsecurity=False).hexdigest()

    @contextmanager
    def running(self) -> Iterator["TinyHub"]:
        hub = self

        class Handler(_Handler):
            served = hub

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            self.address = f"http://127.0.0.1:{server.server_port}"
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            try:
                yield self
            finally:
                self.go_on.set()
                server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    served: TinyHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.served.asked.append(self.path)
        self.served.tokens.add((self.headers["Host"].partition(":")[0], self.headers["Authorization"]))
        words = unquote(url.path).strip("/").split("/")
        question = {key: values[0] for key, values in parse_qs(url.query).items()}
        if words[:2] == ["api", "v1"]:
            self.modelscope(words[2], "/".join(words[3:5]), words[5:], question)
        elif words[0] == "api":
            self.huggingface("/".join(words[2:4]), words[4:], question)
        elif words[0] == "large":
            self.send_file(self.find(words[1]))
        elif "resolve" in words:
            at = words.index("resolve")
            self.resolve("/".join(words[at - 2 : at]), "/".join(words[at + 2 :]))
        else:
            self.send_json({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def huggingface(self, name: str, what: list[str], question: dict[str, str]) -> None:
        files = self.served.repositories.get(name)
        if files is None:
            self.send_json({"error": "not found"}, HTTPStatus.UNAUTHORIZED, {"X-Error-Code": "RepoNotFound"})
        elif what[:1] == ["tree"]:  # two files a page, so that there are pages
            entries = [self.entry(path, files[path]) for path in sorted(files)]
            start = int(question.get("cursor", 0))
            more = f'<{self.served.address}{urlsplit(self.path).path}?recursive=true&cursor={start + 2}>; rel="next"'
            self.send_json(entries[start : start + 2], headers={"Link": more} if start + 2 < len(entries) else {})
        elif what[:1] == ["revision"] and what[1] not in ("main", self.served.commit(name)):
            self.send_json({"error": "no revision"}, HTTPStatus.NOT_FOUND, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [{"rfilename": path} for path in sorted(files)]
            self.send_json({"id": name, "sha": self.served.commit(name), "siblings": siblings})

    def entry(self, path: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git_name(data)}
        if len(data) >= LARGE:
            size = self.served.claimed or len(data)
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
        return entry

    def resolve(self, name: str, path: str) -> None:
        data = self.served.repositories.get(name, {}).get(path)
        if data is None:
            self.send_json({}, HTTPStatus.NOT_FOUND, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"X-Repo-Commit": self.served.commit(name)}
        if len(data) < LARGE:
            self.send_file(data, {**headers, "ETag": f'"{git_name(data)}"'})
            return
        checksum = hashlib.sha256(data).hexdigest()
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{checksum}"'}
        # To another host, as far as a client can tell.
        elsewhere = self.served.address.replace("127.0.0.1", "localhost")
        self.send_json({}, HTTPStatus.FOUND, {**headers, "Location": f"{elsewhere}/large/{checksum}"})

    def modelscope(self, kind: str, name: str, what: list[str], question: dict[str, str]) -> None:
        files = self.served.repositories.get(name)
        if files is None:
            refusal = {"Code": 10010205001, "Message": f"{kind} {name} not exists", "Success": False}
            self.send_json(refusal, HTTPStatus.NOT_FOUND)
        elif what in (["repo", "files"], ["repo", "tree"]):
            entries = [self.scope_entry(path, files[path]) for path in sorted(files)]
            if question.get("PageNumber", "1") != "1":
                entries = []
            self.send_json({"Code": 200, "Success": True, "Message": "", "Data": {"Files": entries}})
        elif what == ["repo"] and question.get("FilePath") in files:
            data = files[question["FilePath"]]
            self.send_file(data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})
        elif what == ["revisions"]:
            tags = {"RevisionMap": {"Branches": [{"Revision": "master"}], "Tags": []}}
            self.send_json({"Code": 200, "Success": True, "Data": tags})
        else:
            self.send_json({"Code": 200, "Success": True, "Data": {"Name": name}})

    def scope_entry(self, path: str, data: bytes) -> dict[str, object]:
        checksum = hashlib.sha256(data).hexdigest()
        return {"Path": path, "Name": path.rpartition("/")[2], "Type": "blob", "Size": len(data), "Sha256": checksum}

    def find(self, checksum: str) -> bytes:
        every = (data for files in self.served.repositories.values() for data in files.values())
        return next(data for data in every if hashlib.sha256(data).hexdigest() == checksum)

    def send_file(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
        first, _, last = asked.partition("-")
        start, end = int(first or 0), int(last) + 1 if last else len(data)
        if start:
            self.served.ranges.append(start)
        if start >= len(data) > 0:
            self.send_json({}, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        is_part = "Range" in self.headers
        self.send_response(HTTPStatus.PARTIAL_CONTENT if is_part else HTTPStatus.OK)
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        for key, value in {"Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.send_body(data[start:end])
        except ConnectionError:
            self.close_connection = True  # the client was killed

    def send_body(self, body: bytes) -> None:
        for at in range(0, len(body), CHUNK):
            hold = self.served.hold_after
            if hold is not None and len(body) >= LARGE and at >= hold and not self.served.go_on.is_set():
                self.wfile.flush()
                self.served.is_holding.set()
                self.served.go_on.wait()
            self.wfile.write(body[at : at + CHUNK])

    def send_json(
        self, content: object, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: ``asked`` keeps what was asked for."""
