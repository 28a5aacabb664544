"""Object stores of the tests: real servers on loopback, whose bad days can be ordered."""

import contextlib
import json
import re
import socket
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"
_TESTS = "the-tests"
"""Key of the tests' own client, which no bad day concerns."""


class _Quiet(WSGIRequestHandler):
    def log(self, *_, **__):
        pass


class S3:
    """moto's S3 server in this process, empty at first; it keeps its objects while nothing listens."""

    def __init__(self):
        from moto.backends import get_backend
        from moto.server import DomainDispatcherApplication, create_backend_app

        get_backend("s3").reset()  # all servers of a process have one content
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.every = 0
        """Fail each so-manieth request, 0 for none."""
        self.requests = self.failures = 0
        self.before = self.after = no_event
        """Are called with method and name of an object, before and after a request is carried out.

        What the second returns true for was carried out, and yet the answer is an error.
        """
        self._port = 0
        self._server = None
        self.come_back()
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _answer(self, environ, start_response):
        if f"Credential={_TESTS}/" in environ.get("HTTP_AUTHORIZATION", ""):
            return self._app(environ, start_response)
        with self._lock:
            self.requests += 1
            fails = self.every and self.requests % self.every == 0
            self.failures += bool(fails)
        if fails:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        what = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
        self.before(*what)
        content = b"".join(self._app(environ, start_response))
        if self.after(*what):
            start_response("500 Internal Error", [("Content-Type", "application/xml")], ())
            return [b"<Error><Code>InternalError</Code><Message>We encountered an error.</Message></Error>"]
        return [content]

    def go_away(self):
        """Take no connection any more."""
        self._server.shutdown()
        self._server.server_close()

    def come_back(self):
        deadline = time.monotonic() + 30
        while True:
            try:
                self._server = make_server(
                    "127.0.0.1", self._port, self._answer, threaded=True, request_handler=_Quiet
                )
                break
            except (OSError, SystemExit):  # the port is still being given back
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def make_bucket(self):
        self.client().create_bucket(Bucket=BUCKET)

    def client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=_TESTS,
            aws_secret_access_key="test",
        )

    def put(self, name, content):
        """Write an object as another program does, whatever bad days there are."""
        self.client().put_object(Bucket=BUCKET, Key=name, Body=content)

    def objects(self):
        """Content of each object by its name, folders left out."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        names = [
            entry["Key"] for page in pages for entry in page.get("Contents", ()) if not entry["Key"].endswith("/")
        ]
        found = {}
        for name in names:
            with contextlib.suppress(client.exceptions.NoSuchKey):  # deleted meanwhile
                found[name] = client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        return found


@contextlib.contextmanager
def s3():
    store = S3()
    try:
        store.make_bucket()
        yield store
    finally:
        with contextlib.suppress(OSError):
            store.go_away()


def no_event(method, name):
    """Let a request pass."""


class Google:
    """A server of the part of Google's JSON API that is used, which heeds ``ifGenerationMatch`` as Google does."""

    def __init__(self):
        self.before = self.after = no_event
        """As of :class:`S3`."""
        self.fail = lambda method, name: 0
        """Returns the HTTP status of a failure instead, or 0."""
        self._objects = {}
        self._generation = 1000
        self._lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            do_GET = do_POST = do_DELETE = lambda request: self._answer(request)  # noqa: N815

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.environment = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self._server.server_port}"}

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def objects(self):
        """Content of each object by its name."""
        return {name: content for name, (_, content, _) in self._objects.items()}

    def put(self, name, content):
        """Write an object as another program does."""
        with self._lock:
            self._generation += 1
            self._objects[name] = str(self._generation), content, _now()

    def _answer(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        url = urlsplit(request.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        match = re.fullmatch(rf"(?:/upload)?/storage/v1/b/{BUCKET}/o(?:/(?P<name>[^/]+))?", url.path)
        if not match:
            return self._reply(request, 404, {"error": {"message": "The specified bucket does not exist."}})
        name = unquote(match["name"] or asked.get("name", ""))
        self.before(request.command, name)
        if status := self.fail(request.command, name):
            return self._reply(request, status, {"error": {"message": "A bad day."}})
        with self._lock:
            status, answer = self._carry_out(request.command, name, body, asked)
        if self.after(request.command, name):
            status, answer = 503, {"error": {"message": "We encountered an error."}}
        return self._reply(request, status, answer)

    def _carry_out(self, method, name, content, asked):
        generation, held, updated = self._objects.get(name, ("0", None, ""))
        wanted = asked.get("ifGenerationMatch", generation)
        if method == "GET" and not name:
            return 200, self._listed(asked)
        if method != "POST" and held is None:
            return 404, {"error": {"message": f"No such object: {BUCKET}/{name}"}}
        if method == "GET":
            told = {"name": name, "generation": generation, "updated": updated}
            return 200, held if asked.get("alt") == "media" else told
        if wanted != generation:
            return 412, {"error": {"message": "At least one of the pre-conditions you specified did not hold."}}
        if method == "DELETE":
            del self._objects[name]
            return 204, b""
        self._generation += 1
        self._objects[name] = str(self._generation), content, _now()
        return 200, {"name": name, "generation": str(self._generation)}

    def _listed(self, asked):
        """One object a page, so that pages are tried too."""
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        entries = {}
        for name in sorted(self._objects):
            rest = name.removeprefix(prefix)
            if name.startswith(prefix):
                folder = delimiter and delimiter in rest
                entries[prefix + rest.partition("/")[0] + "/" if folder else name] = bool(folder)
        number = int(asked.get("pageToken", 0))
        page = [*entries.items()][number : number + 1]
        answer = {
            "items": [
                {"name": name, "generation": self._objects[name][0]} for name, is_folder in page if not is_folder
            ]
        }
        answer["prefixes"] = [name for name, is_folder in page if is_folder]
        return answer | ({"nextPageToken": str(number + 1)} if number + 1 < len(entries) else {})

    @staticmethod
    def _reply(request, status, answer):
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


def _now():
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


@contextlib.contextmanager
def google():
    store = Google()
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def gcs():
    """An emulator of Google Cloud Storage; yields what the environment has to say of it."""
    from gcp_storage_emulator import server as emulator

    emulator.server.HTTPServer = ThreadingHTTPServer  # its own takes one connection at a time; clients keep theirs
    read_data = emulator._read_data
    emulator._read_data = lambda *request: read_data(*request) or b""  # it fails on the upload of an empty object
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    try:
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    finally:
        server.stop()
