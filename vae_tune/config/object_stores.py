"""Object stores, Amazon S3 and Google Cloud Storage: read, list, write and delete objects, on a condition if asked.

Every object has a version, a text that changes with its content: the ETag on S3, the generation on Google. A write or
a delete can name the version that it expects to replace, and the store refuses it if the object has another version.
Each call sends one request and does not retry: :mod:`vae_tune.config.storage` does that.

Credentials and endpoints come from the environment, as in the vendors' own tools: ``AWS_*`` and ``~/.aws``,
``GOOGLE_APPLICATION_CREDENTIALS``, or the machine's role. ``AWS_ENDPOINT_URL`` and ``STORAGE_EMULATOR_HOST`` select
another server than the vendor's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from vae_tune.config.files import SCHEMES

ANY = "*"
"""The expected version for a write or delete that applies to whatever is there."""
_TIMEOUT = 5.0, 20.0  # seconds to connect, and for an answer
_TRANSIENT = (408, 429)
"""HTTP client errors worth a retry; so are server errors, from 500 on, except 501."""
_TRANSIENT_CODES = ("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete")
"""S3 error codes worth a retry although their HTTP status is 400."""


class Changed(OSError):
    """The object does not have the expected version: someone else wrote or deleted it."""


class Refused(OSError):
    """An error that a retry does not fix: no such bucket, no permission, no credentials."""


class Stat(NamedTuple):
    """The state of an object."""

    version: str
    age: float
    """Seconds since it was written, by the store's own clock."""


class Listing(NamedTuple):
    """The objects below a folder."""

    versions: dict[str, str]
    """The version of each object by its full name."""
    folders: set[str]
    """Full names of the folders directly in it; empty for a deep listing."""


class Store(Protocol):
    """One bucket. Each call raises OSError if the store fails, Refused if a retry would fail too."""

    def read(self, name: str) -> bytes:
        """Return an object's content; raise FileNotFoundError if there is none."""

    def stat(self, name: str) -> Stat | None:
        """Return an object's version and age, None if there is no such object."""

    def write(self, name: str, content: bytes, expected: str | None = ANY) -> str:
        """Write an object and return its version; raise Changed unless it replaces ``expected`` (None: no object)."""

    def delete(self, name: str, expected: str = ANY) -> None:
        """Delete an object, if it exists; raise Changed if its version is not ``expected``."""

    def list(self, folder: str, *, deep: bool) -> Listing:
        """List the objects directly in a folder, or everything below it if ``deep``."""


def open_store(scheme: str, bucket: str) -> Store:
    """Return the bucket of the store that a path's first part names.

    Raises Refused if the package for it is not installed, or there are no credentials.
    """
    is_s3 = scheme == SCHEMES[0]
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if is_s3 else ("STORAGE_EMULATOR_HOST",)
    try:
        return _open(is_s3, bucket, next((os.environ[name] for name in names if os.environ.get(name)), ""))
    except ImportError as error:
        package = "boto3" if is_s3 else "google-auth"
        raise Refused(f"{scheme}// needs the package {package}: pip install 'vae-tune[cluster]'") from error


@cache
def _open(is_s3: bool, bucket: str, endpoint: str) -> Store:
    return _S3(bucket) if is_s3 else _Google(bucket, endpoint)


class _S3:
    """A bucket on Amazon S3, or on a server with the same API; through boto3, which reads the endpoint itself."""

    def __init__(self, bucket: str):
        import boto3
        from botocore.config import Config

        connect, answer = _TIMEOUT
        config = Config(connect_timeout=connect, read_timeout=answer, retries={"total_max_attempts": 1})
        with _translated_s3_errors():
            self._client = boto3.client("s3", region_name=os.environ.get("AWS_REGION") or None, config=config)
        self._bucket = bucket

    def read(self, name: str) -> bytes:
        with _translated_s3_errors():
            return bytes(self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read())

    def stat(self, name: str) -> Stat | None:
        try:
            with _translated_s3_errors():
                head = self._client.head_object(Bucket=self._bucket, Key=name)
        except FileNotFoundError:
            return None
        return _stat(head["ETag"], head["LastModified"], head["ResponseMetadata"]["HTTPHeaders"]["date"])

    def write(self, name: str, content: bytes, expected: str | None = ANY) -> str:
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected} if expected != ANY else {}
        try:
            with _translated_s3_errors():
                answer = self._client.put_object(Bucket=self._bucket, Key=name, Body=content, **condition)
        except FileNotFoundError as error:  # of the object that was to be replaced
            raise Changed(str(error)) from error
        return str(answer["ETag"])

    def delete(self, name: str, expected: str = ANY) -> None:
        condition = {"IfMatch": expected} if expected != ANY else {}
        with suppress(FileNotFoundError), _translated_s3_errors():
            self._client.delete_object(Bucket=self._bucket, Key=name, **condition)

    def list(self, folder: str, *, deep: bool) -> Listing:
        scope = {"Prefix": f"{folder}/" if folder else ""} | ({} if deep else {"Delimiter": "/"})
        found = Listing({}, set())
        with _translated_s3_errors():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **scope):
                found.versions.update({entry["Key"]: entry["ETag"] for entry in page.get("Contents", ())})
                found.folders.update(entry["Prefix"].rstrip("/") for entry in page.get("CommonPrefixes", ()))
        return found


@contextmanager
def _translated_s3_errors() -> Iterator[None]:
    """Turn boto3's exceptions into those of a :class:`Store`."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(str(error)) from error
        raise OSError(str(error)) if code in _TRANSIENT_CODES else _error(int(status), str(error)) from error
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.UnauthorizedSSOTokenError,
        exceptions.ProfileNotFound,
        exceptions.ParamValidationError,  # of a bucket's name
    ) as error:
        raise Refused(str(error)) from error
    except exceptions.BotoCoreError as error:  # of the network, or of the credentials' server
        raise OSError(str(error)) from error


class _Google:
    """A bucket on Google Cloud Storage; through its JSON API."""

    def __init__(self, bucket: str, endpoint: str):
        import requests
        from google.auth import default, exceptions
        from google.auth.transport.requests import AuthorizedSession

        if endpoint:  # an emulator, which needs no credentials
            self._session = requests.Session()
        else:
            try:
                credentials, _ = default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"])
            except exceptions.GoogleAuthError as error:
                raise Refused(str(error)) from error
            self._session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
        self._endpoint = endpoint.rstrip("/") or "https://storage.googleapis.com"
        self._objects = f"/storage/v1/b/{quote(bucket, safe='')}/o"

    def read(self, name: str) -> bytes:
        return bytes(self._request("GET", self._path(name), {"alt": "media"}).content)

    def stat(self, name: str) -> Stat | None:
        try:
            answer = self._request("GET", self._path(name), {"fields": "generation,updated"})
        except FileNotFoundError:
            return None
        state = answer.json()
        return _stat(state["generation"], datetime.fromisoformat(state["updated"]), answer.headers["Date"])

    def write(self, name: str, content: bytes, expected: str | None = ANY) -> str:
        params = {"uploadType": "media", "name": name}
        if expected != ANY:
            params["ifGenerationMatch"] = expected or "0"
        return str(self._request("POST", f"/upload{self._objects}", params, content).json()["generation"])

    def delete(self, name: str, expected: str = ANY) -> None:
        with suppress(FileNotFoundError):
            self._request("DELETE", self._path(name), {} if expected == ANY else {"ifGenerationMatch": expected})

    def list(self, folder: str, *, deep: bool) -> Listing:
        found = Listing({}, set())
        params = {"prefix": f"{folder}/" if folder else ""} | ({} if deep else {"delimiter": "/"})
        while True:
            page = self._request("GET", self._objects, params).json()
            found.versions.update({entry["name"]: str(entry["generation"]) for entry in page.get("items", ())})
            found.folders.update(name.rstrip("/") for name in page.get("prefixes", ()))
            if not page.get("nextPageToken"):
                return found
            params["pageToken"] = page["nextPageToken"]

    def _path(self, name: str) -> str:
        return f"{self._objects}/{quote(name, safe='')}"

    def _request(self, method: str, path: str, params: dict[str, str], content: bytes | None = None) -> Any:
        """Return the answer to a request; raise the exceptions of a :class:`Store`."""
        from google.auth import exceptions
        from requests import RequestException

        try:
            url = f"{self._endpoint}{path}"
            answer = self._session.request(method, url, params=params, data=content, timeout=_TIMEOUT)
        except exceptions.GoogleAuthError as error:
            transient = error.retryable or isinstance(error, exceptions.TransportError)
            raise (OSError if transient else Refused)(str(error)) from error
        except RequestException as error:
            raise OSError(str(error)) from error
        if answer.ok:
            return answer
        try:
            reason = answer.json()["error"]["message"]
        except (ValueError, LookupError, TypeError):
            reason = answer.reason
        message = f"{method} {path}: {answer.status_code} {reason}"
        if answer.status_code == 404 and not path.endswith(self._objects):  # else the bucket is missing
            raise FileNotFoundError(message)
        raise _error(answer.status_code, message)


def _stat(version: Any, written: datetime, date: str) -> Stat:
    """Return an object's state; ``date`` is that of the store's answer."""
    return Stat(str(version), (parsedate_to_datetime(date) - written).total_seconds())


def _error(status: int, message: str) -> OSError:
    """Return the error for an HTTP status."""
    if status in (409, 412):  # 409 on S3: another write of the same object was under way
        return Changed(message)
    transient = status in _TRANSIENT or (status >= 500 and status != 501)
    return OSError(message) if transient else Refused(message)
