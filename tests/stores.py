"""Object stores of the tests: real servers on loopback, whose bad days can be ordered."""

import contextlib
import socket
import threading
import time
from http.server import ThreadingHTTPServer

from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"
_TESTS = "the-tests"
"""Key of the tests' own client, which no bad day concerns."""


class _Quiet(WSGIRequestHandler):
    def log(self, *_, **__):
        pass


class S3:
    """moto's S3 server in this process; it keeps its objects while nothing listens."""

    def __init__(self):
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.every = 0
        """Fail each so-manieth request, 0 for none."""
        self.requests = self.failures = 0
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
        return self._app(environ, start_response)

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


@contextlib.contextmanager
def gcs():
    """An emulator of Google Cloud Storage; yields what the environment has to say of it."""
    from gcp_storage_emulator.server import create_server
    from gcp_storage_emulator.server import server as http

    http.HTTPServer = ThreadingHTTPServer  # its own takes one connection at a time, and clients keep theirs open
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    try:
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    finally:
        server.stop()
