"""Object stores, Amazon's and Google's: read, list, write and delete objects, each on a condition where one is given.

Every object has a version, a text that changes with its content: the ETag on S3, the generation on Google Cloud
Storage. A write or a delete can name the version that it expects to replace; the store then refuses any other. Each
call is one request that is not retried here: :mod:`vae_tune.config.storage` does that.

Where a store is and who may use it is asked of the environment, as its own tools do: ``AWS_*`` and ``~/.aws``,
``GOOGLE_APPLICATION_CREDENTIALS``, or the machine's role. ``AWS_ENDPOINT_URL`` and ``STORAGE_EMULATOR_HOST`` name
another store than Amazon's and Google's.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from vae_tune.config.files import SCHEMES

ANY = "*"
"""The version that a write expects which replaces whatever there is."""
_TIMEOUT = 5.0, 20.0  # seconds for a connection, and for an answer
_PASSING = (408, 429)
"""HTTP errors of the client that waiting mends; so it does with those of a server, from 500 on but for 501."""
_PASSING_CODES = ("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete")
"""Words of S3 for errors that waiting mends, though their HTTP status is 400."""


class Changed(OSError):
    """The object does not have the version that was expected: somebody else wrote or deleted it."""


class Refused(OSError):
    """An error that trying again does not mend: there is no such bucket, no permission, no login."""


class Listing(NamedTuple):
    """What is below a folder."""

    versions: dict[str, str]
    """The version of each object by its full name."""
    folders: set[str]
    """Full names of the folders in it, where it was listed alone and not all that is below."""


class Store(Protocol):
    """One bucket. Each call raises OSError where the store fails: Refused where it will go on to do so."""

    def read(self, name: str) -> bytes:
        """Return an object's content; raises FileNotFoundError where there is none."""

    def version(self, name: str) -> str | None:
        """Return an object's version, None where there is no such object."""

    def age(self, name: str) -> float | None:
        """Return the seconds since an object was written, by the store's own clock; None where there is none."""

    def write(self, name: str, content: bytes, expected: str | None = ANY) -> str:
        """Write an object and return its version; ``expected`` is the one that it replaces, None for no object.

        Raises:
            Changed: it has another one.
        """

    def delete(self, name: str, expected: str | None = ANY) -> None:
        """Delete an object, if it is there.

        Raises:
            Changed: it has another version than ``expected``.
        """

    def list(self, folder: str, *, deep: bool) -> Listing:
        """List the objects in a folder, or all below it where ``deep``."""


@cache
def open_store(scheme: str, bucket: str, endpoint: str) -> Store:
    """Return a bucket of the store that a path's first part names; ``endpoint`` is that of a store of another kind.

    Raises:
        Refused: the package for it is not installed, or there is no login.
    """
    try:
        return S3(bucket) if scheme == SCHEMES[0] else Google(bucket, endpoint)
    except ImportError as error:
        package = "boto3" if scheme == SCHEMES[0] else "google-auth"
        raise Refused(f"{scheme}// needs the package {package}: pip install 'vae-tune[cluster]'") from error


def endpoint(scheme: str) -> str:
    """Return the URL of a store other than Amazon's or Google's own, as their own tools find it."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if scheme == SCHEMES[0] else ("STORAGE_EMULATOR_HOST",)
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


class S3:
    """A bucket of Amazon's, or of another store that speaks its language; through boto3."""

    def __init__(self, bucket: str):
        import boto3
        from botocore.config import Config

        connect, answer = _TIMEOUT
        config = Config(connect_timeout=connect, read_timeout=answer, retries={"total_max_attempts": 1})
        with _errors_of_amazon():
            self._client = boto3.client("s3", region_name=os.environ.get("AWS_REGION") or None, config=config)
        self._bucket = bucket

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        with _errors_of_amazon():
            return bytes(self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read())

    def version(self, name: str) -> str | None:
        """See :class:`Store`."""
        head = self._head(name)
        return None if head is None else str(head["ETag"])

    def age(self, name: str) -> float | None:
        """See :class:`Store`."""
        head = self._head(name)
        if head is None:
            return None
        return _seconds_until(head["ResponseMetadata"]["HTTPHeaders"]["date"], head["LastModified"])

    def write(self, name: str, content: bytes, expected: str | None = ANY) -> str:
        """See :class:`Store`."""
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected} if expected != ANY else {}
        try:
            with _errors_of_amazon():
                answer = self._client.put_object(Bucket=self._bucket, Key=name, Body=content, **condition)
        except FileNotFoundError as error:  # of the object that was to be replaced
            raise Changed(str(error)) from error
        return str(answer["ETag"])

    def delete(self, name: str, expected: str | None = ANY) -> None:
        """See :class:`Store`."""
        if expected is None:
            return
        condition = {"IfMatch": expected} if expected != ANY else {}
        try:
            with _errors_of_amazon():
                self._client.delete_object(Bucket=self._bucket, Key=name, **condition)
        except FileNotFoundError:
            return

    def _head(self, name: str) -> dict[str, Any] | None:
        """Return what the store says of an object, None where there is none."""
        try:
            with _errors_of_amazon():
                return dict(self._client.head_object(Bucket=self._bucket, Key=name))
        except FileNotFoundError:
            return None

    def list(self, folder: str, *, deep: bool) -> Listing:
        """See :class:`Store`."""
        prefix = f"{folder}/" if folder else ""
        flat = {} if deep else {"Delimiter": "/"}
        found = Listing({}, set())
        with _errors_of_amazon():
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, **flat
            ):
                found.versions.update({entry["Key"]: entry["ETag"] for entry in page.get("Contents", ())})
                found.folders.update(entry["Prefix"].rstrip("/") for entry in page.get("CommonPrefixes", ()))
        return found


@contextmanager
def _errors_of_amazon() -> Iterator[None]:
    """Raise what boto3 raises as the errors of a :class:`Store`."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(str(error)) from error
        raise OSError(str(error)) if code in _PASSING_CODES else _error(int(status), str(error)) from error
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.UnauthorizedSSOTokenError,
        exceptions.ProfileNotFound,
        exceptions.ParamValidationError,  # of a bucket's name
    ) as error:
        raise Refused(str(error)) from error
    except exceptions.BotoCoreError as error:  # of the network, or of who hands out logins
        raise OSError(str(error)) from error


class Google:
    """A bucket of Google's; through the JSON API of Google Cloud Storage."""

    def __init__(self, bucket: str, url: str):
        import requests
        from google.auth import default, exceptions
        from google.auth.transport.requests import AuthorizedSession

        if url:  # an emulator, which asks for no login
            self._session = requests.Session()
        else:
            try:
                login, _ = default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"])
            except exceptions.GoogleAuthError as error:
                raise Refused(str(error)) from error
            self._session = AuthorizedSession(login)  # type: ignore[no-untyped-call]
        self._url = url.rstrip("/") or "https://storage.googleapis.com"
        self._objects = f"/storage/v1/b/{quote(bucket, safe='')}/o"

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        return bytes(self._ask("GET", f"{self._objects}/{quote(name, safe='')}", {"alt": "media"}).content)

    def version(self, name: str) -> str | None:
        """See :class:`Store`."""
        answer = self._ask_for(name, "generation")
        return None if answer is None else str(answer.json()["generation"])

    def age(self, name: str) -> float | None:
        """See :class:`Store`."""
        answer = self._ask_for(name, "updated")
        if answer is None:
            return None
        return _seconds_until(answer.headers["Date"], datetime.fromisoformat(answer.json()["updated"]))

    def write(self, name: str, content: bytes, expected: str | None = ANY) -> str:
        """See :class:`Store`."""
        asked = {"uploadType": "multipart"}
        if expected != ANY:
            asked["ifGenerationMatch"] = expected or "0"
        try:
            answer = self._ask("POST", f"/upload{self._objects}", asked, *_multipart(name, content))
        except FileNotFoundError as error:  # of the bucket
            raise Refused(str(error)) from error
        return str(answer.json()["generation"])

    def delete(self, name: str, expected: str | None = ANY) -> None:
        """See :class:`Store`."""
        if expected is None:
            return
        condition = {} if expected == ANY else {"ifGenerationMatch": expected}
        try:
            self._ask("DELETE", f"{self._objects}/{quote(name, safe='')}", condition)
        except FileNotFoundError:
            return

    def list(self, folder: str, *, deep: bool) -> Listing:
        """See :class:`Store`."""
        found = Listing({}, set())
        asked = {"prefix": f"{folder}/" if folder else ""} | ({} if deep else {"delimiter": "/"})
        while True:
            try:
                page = self._ask("GET", self._objects, asked).json()
            except FileNotFoundError as error:  # of the bucket
                raise Refused(str(error)) from error
            found.versions.update({entry["name"]: str(entry["generation"]) for entry in page.get("items", ())})
            found.folders.update(name.rstrip("/") for name in page.get("prefixes", ()))
            if not page.get("nextPageToken"):
                return found
            asked["pageToken"] = page["nextPageToken"]

    def _ask_for(self, name: str, field: str) -> Any:
        """Return the answer with a field of what the store says of an object, None where there is none."""
        try:
            return self._ask("GET", f"{self._objects}/{quote(name, safe='')}", {"fields": field})
        except FileNotFoundError:
            return None

    def _ask(
        self, method: str, where: str, asked: Mapping[str, str], content: bytes | None = None, kind: str = ""
    ) -> Any:
        """Return the answer to a request; raise the errors of a :class:`Store`."""
        from google.auth import exceptions
        from requests import RequestException

        head = {"Content-Type": kind} if kind else {}
        try:
            answer = self._session.request(
                method, f"{self._url}{where}", params=asked, data=content, headers=head, timeout=_TIMEOUT
            )
        except exceptions.GoogleAuthError as error:
            passing = error.retryable or isinstance(error, exceptions.TransportError)
            raise (OSError if passing else Refused)(str(error)) from error
        except RequestException as error:
            raise OSError(str(error)) from error
        if answer.ok:
            return answer
        told = f"{method} {where}: {answer.status_code} {_message(answer)}"
        if answer.status_code == 404:
            raise FileNotFoundError(told)
        raise _error(answer.status_code, told)


def _multipart(name: str, content: bytes) -> tuple[bytes, str]:
    """Return the body of an upload, and its type: the object's name, then its content."""
    mark = uuid.uuid4().hex
    head = f"--{mark}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'name': name})}\r\n"
    head += f"--{mark}\r\nContent-Type: application/octet-stream\r\n\r\n"
    return b"%b%b\r\n--%b--\r\n" % (head.encode(), content, mark.encode()), f"multipart/related; boundary={mark}"


def _seconds_until(date: str, moment: datetime) -> float:
    """Return the seconds from ``moment`` to the date of a store's answer."""
    return (parsedate_to_datetime(date) - moment).total_seconds()


def _message(answer: Any) -> str:
    """Return what Google's answer says of an error."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return str(answer.reason)


def _error(status: int, told: str) -> OSError:
    """Return the error that an HTTP status other than 404 stands for."""
    if status in (409, 412):  # 409 on S3: another write of the same object was under way
        return Changed(told)
    passing = status in _PASSING or (status >= 500 and status != 501)
    return OSError(told) if passing else Refused(told)
