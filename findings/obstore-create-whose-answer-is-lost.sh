#!/usr/bin/env bash
# obstore 0.12.1: a conditional create whose answer is lost raises AlreadyExistsError, although its own write is there.
#
# `put(..., mode="create")` sends `If-None-Match: *`, as a lock or a claim on S3 needs it. If the server stores the object
# and the connection breaks before the answer arrives, obstore sends the same request again without a word. The second one
# meets the object that the first one wrote, the server answers 412, and obstore raises AlreadyExistsError. So the winner
# of a claim is told that another process has it, nobody holds it, and no network error is ever seen. With
# `retry_config={"max_retries": 0}` the lost answer is what it is: a GenericError.
#
# Why this is surprising: mode="create" reads as "at most one writer succeeds, and it knows". A request that is not
# idempotent is expected not to be repeated, or to raise an error that leaves open what happened. Remedy: write a token of
# one's own, and after AlreadyExistsError read the object and compare.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check obstore==0.12.1
"$place/venv/bin/python" - >"$place/output" <<'PYTHON'
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
from obstore.store import S3Store

objects, requests = {}, []


class Handler(BaseHTTPRequestHandler):
    """Stores objects; closes the connection before the answer to the first write of each."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        requests.append(self.headers.get("If-None-Match"))
        first = self.path not in objects
        if first:
            objects[self.path] = content
            self.close_connection = True
            return
        self.send_response(412)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        content = objects[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 12:00:00 GMT")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()


def create(name, **retries):
    requests.clear()
    store = S3Store(
        "bucket",
        endpoint=f"http://127.0.0.1:{server.server_port}/bucket",
        virtual_hosted_style_request=True,
        region="eu-central-1",
        skip_signature=True,
        client_options={"allow_http": True},
        **retries,
    )
    try:
        obstore.put(store, name, b"mine", mode="create")
        result = "written"
    except Exception as error:
        result = type(error).__name__
    content = bytes(obstore.get(store, name).bytes()).decode()
    print(f"{name}: {result} after {len(requests)} requests, If-None-Match {requests[0]}; the object holds: {content}")


create("by-default")
create("without-retries", retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=5)})
PYTHON
cat "$place/output"
diff "$place/output" - <<'EXPECTED'
by-default: AlreadyExistsError after 2 requests, If-None-Match *; the object holds: mine
without-retries: GenericError after 1 requests, If-None-Match *; the object holds: mine
EXPECTED
echo "As described: obstore 0.12.1 repeats a conditional create."
