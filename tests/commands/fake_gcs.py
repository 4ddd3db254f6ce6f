"""A bucket of Google Cloud Storage in this process, for the real clients: gcsfs and tensorstore.

It guarantees only what a real store does: an object appears complete, cannot grow, and every
write gives it a new generation; there are no folders.
"""

import base64
import email
import hashlib
import json
import re
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OBJECTS = "/storage/v1/b/([^/]+)/o"


class Bucket:
    """The objects of all buckets: (bucket, name) -> (bytes, generation). `log`: the requests."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], tuple[bytes, int]] = {}
        self.log: list[str] = []
        self.pending: dict[str, tuple[tuple[str, str], bytearray]] = {}
        self.lock = threading.Lock()
        self.generation = 1000

    def names(self, bucket: str = "bucket") -> list[str]:
        """Returns the names of all objects of a bucket."""
        return sorted(name for place, name in self.objects if place == bucket)

    def write(self, key: tuple[str, str], data: bytes) -> dict[str, Any]:
        """Stores an object and returns its metadata."""
        with self.lock:
            self.generation += 1
            self.objects[key] = (bytes(data), self.generation)
        return self.about(key)

    def about(self, key: tuple[str, str]) -> dict[str, Any]:
        """Returns the metadata of an object, as the JSON interface does."""
        data, generation = self.objects[key]
        return {
            "kind": "storage#object",
            "bucket": key[0],
            "name": key[1],
            "size": str(len(data)),
            "generation": str(generation),
            "metageneration": "1",
            "etag": f"e{generation}",
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def listing(self, bucket: str, prefix: str, delimiter: str) -> dict[str, Any]:
        """Returns the objects below a prefix, and what looks like a folder."""
        items, folders = [], set()
        for name in self.names(bucket):
            if not name.startswith(prefix):
                continue
            inside, cut, _ = name[len(prefix) :].partition(delimiter or "\0")
            if delimiter and cut:
                folders.add(prefix + inside + delimiter)
            else:
                items.append(self.about((bucket, name)))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}


class Handler(BaseHTTPRequestHandler):
    """One request of the JSON interface; `bucket` is set by `serve`."""

    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *parts: Any) -> None:
        """Logs nothing."""

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        """Sends bytes, or anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        given = {"Content-Type": kind, "Content-Length": str(len(data)), **headers}
        for name, value in given.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def asked(self) -> tuple[str, dict[str, str], bytes]:
        """Returns path, options and body of the request."""
        url = urllib.parse.urlsplit(self.path)
        options = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.bucket.log.append(f"{self.command} {self.path}")
        return url.path, options, body

    def missing(self) -> None:
        """Answers that there is no such object."""
        self.answer(404, {"error": {"code": 404, "message": "No such object"}})

    def do_GET(self) -> None:
        """Lists, describes or sends objects."""
        path, options, _ = self.asked()
        store = self.bucket
        if found := re.fullmatch(f"{OBJECTS}/?", path):
            prefix, delimiter = options.get("prefix", ""), options.get("delimiter", "")
            return self.answer(200, store.listing(found[1], prefix, delimiter))
        if found := re.fullmatch(f"(?:/download)?{OBJECTS}/(.+)", path):
            key = found[1], urllib.parse.unquote(found[2])
            if key not in store.objects:
                return self.missing()
            if options.get("alt") != "media":
                return self.answer(200, store.about(key))
            return self.send_object(*store.objects[key])
        if found := re.fullmatch("/storage/v1/b/([^/]+)", path):
            name = {"kind": "storage#bucket", "name": found[1], "location": "X"}
            return self.answer(200, {**name, "storageClass": "STANDARD"})
        self.missing()

    def send_object(self, data: bytes, generation: int) -> None:
        """Sends an object, or the part of it that was asked for."""
        tags = {"x_goog_generation": str(generation), "ETag": f"e{generation}"}
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not part:
            return self.answer(200, data, **tags)
        if not part[1]:
            start, stop = max(0, len(data) - int(part[2])), len(data)
        else:
            start, stop = int(part[1]), min(len(data), int(part[2] or len(data)) + 1)
        if start >= len(data):
            return self.answer(416, b"", Content_Range=f"bytes */{len(data)}")
        tags["Content_Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.answer(206, data[start:stop], **tags)

    def do_POST(self) -> None:
        """Writes or copies an object, or handles a batch request."""
        path, options, body = self.asked()
        store = self.bucket
        if "upload_id" in options:
            return self.take(options, body)
        if found := re.fullmatch(f"/upload{OBJECTS}", path):
            kind, name = options["uploadType"], options.get("name", "")
            if kind == "multipart":
                head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                about, data = email.message_from_bytes(head + body).get_payload()
                name = name or json.loads(about.get_payload())["name"]
                body = data.get_payload(decode=True)
            if kind == "resumable":
                name = name or json.loads(body)["name"]
                store.pending[str(len(store.log))] = ((found[1], name), bytearray())
                host = f"http://{self.headers['Host']}{path}"
                return self.answer(200, {}, Location=f"{host}?upload_id={len(store.log)}")
            key = found[1], name
            wanted = options.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != store.objects.get(key, (b"", 0))[1]:
                return self.answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
            return self.answer(200, store.write(key, body))
        if re.match("/batch/", path):
            return self.do_batch(body.decode())
        if found := re.fullmatch(f"{OBJECTS}/(.+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)", path):
            source, target = ((found[i], urllib.parse.unquote(found[i + 1])) for i in (1, 3))
            made = store.write(target, store.objects[source][0])
            size = made["size"]
            told = {"done": True, "resource": made, "objectSize": size}
            return self.answer(200, {**told, "totalBytesRewritten": size})
        self.missing()

    def do_PUT(self) -> None:
        """Accepts a part of an object uploaded in parts."""
        _, options, body = self.asked()
        self.take(options, body)

    def take(self, options: dict[str, str], body: bytes) -> None:
        """Adds a part; the object appears with the last."""
        key, data = self.bucket.pending[options["upload_id"]]
        data += body
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total in ("*", "") or len(data) < int(total):
            last = {"Range": f"bytes=0-{len(data) - 1}"} if data else {}
            return self.answer(308, b"", **last)
        self.answer(200, self.bucket.write(key, data))

    def do_DELETE(self) -> None:
        """Removes an object."""
        path, _, _ = self.asked()
        found = re.fullmatch(f"{OBJECTS}/(.+)", path)
        key = (found[1], urllib.parse.unquote(found[2])) if found else ("", "")
        if self.bucket.objects.pop(key, None) is None:
            return self.missing()
        self.answer(204)

    def do_batch(self, body: str) -> None:
        """Removes many objects."""
        parts = []
        for path in re.findall(r"^DELETE (\S+)", body, re.MULTILINE):
            found = re.search(f"{OBJECTS}/(.+)", path.partition("?")[0])
            key = (found[1], urllib.parse.unquote(found[2])) if found else ("", "")
            gone = self.bucket.objects.pop(key, None)
            status = "404 Not Found" if gone is None else "204 No Content"
            parts.append(
                "--batch\r\nContent-Type: application/http\r\nContent-ID: <response-"
                f"{len(parts) + 1}>\r\n\r\nHTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n\r\n"
            )
        text = "".join(parts) + "--batch--\r\n"
        self.answer(200, text.encode(), Content_Type="multipart/mixed; boundary=batch")


class Server(ThreadingHTTPServer):
    """A server whose clients may disconnect before they receive the answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Shows errors of this server, but not that a client disconnected."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve() -> tuple[Bucket, Server]:
    """Starts a server; its address is `http://localhost:<server_port>`."""
    store = Bucket()
    handler = type("OwnHandler", (Handler,), {"bucket": store})
    server = Server(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return store, server
