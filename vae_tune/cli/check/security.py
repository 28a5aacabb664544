"""Rules for who can reach the cluster and run code on it: tokens, ssh keys, open ports, secrets in the file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from vae_tune.cli.check.document import Document, Keys, Problem
from vae_tune.cli.check.rules import places
from vae_tune.cli.check.shell_commands import CLOUDS, SETUP, START, is_token
from vae_tune.config import message_hints

_WORLD = ("0.0.0.0/0", "::/0")
_SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|(AWS_SECRET_ACCESS_KEY|RAY_AUTH_TOKEN|PASSWORD|PGPASSWORD)"
    r"\s*=\s*[\"']?(?!\$)[^\s\"'$]{4,}",
    re.IGNORECASE,
)
_SECRET_KEYS = ("aws_secret_access_key", "aws_session_token", "access_key_secret", "password")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def ssh_key(document: Document) -> Iterator[Problem]:
    """Find an ssh key that is missing or that ssh refuses."""
    given = document.get("auth", "ssh_private_key")
    keys: Keys = ("auth", "ssh_private_key")
    if not isinstance(given, str):
        return
    path = Path(os.path.expanduser(given))
    if path.suffix == ".pub":
        yield document.error(keys, f"{given} is a public key.", f"Write {given.removesuffix('.pub')}.")
    elif not path.is_file():
        advice = "Name an existing key, or create one with ssh-keygen."
        yield document.error(keys, f"The key {given} does not exist.", advice)
    elif path.stat().st_mode & _OTHERS:
        what = f"Other users may read the key {given}, so ssh refuses it."
        yield document.error(keys, what, f"Run: chmod 600 {given}")


def token(document: Document) -> Iterator[Problem]:
    """Find a cluster without a token, or with a token that others can read: they could run code on it."""
    mounts = document.mapping("file_mounts")
    commands = [text for keys, text in document.texts if keys[0] in (*SETUP, *START)]
    paths = {path for text in commands for path in re.findall(r"RAY_AUTH_TOKEN_PATH=[\"']?([^\s\"';]+)", text)}
    shipped = [target for target in mounts if is_token(target) or target in paths]
    if not shipped:
        what = "No token is copied to the nodes: whoever reaches the cluster can run code on it."
        yield document.error(("file_mounts",), what, "Add ~/.ray/auth_token: ~/.ray/auth_token to file_mounts.")
        return
    for name in START:
        texts = [text for text in document.items(name) if isinstance(text, str)]
        if any("ray start" in text for text in texts) and not any("RAY_AUTH_MODE=" in text for text in texts):
            what = f"{name} start Ray even if the token is missing."
            yield document.warning((name,), what, "Write `export RAY_AUTH_MODE=token; ray start ...`.")
    for target in shipped:
        yield from _token_file(document, ("file_mounts", target), str(mounts[target]))


def _token_file(document: Document, keys: Keys, given: str) -> Iterator[Problem]:
    path = Path(os.path.expanduser(given))
    if not path.is_file():
        advice = f"Create one: {message_hints.command('check', document.path, '--make-token')}"
        yield document.error(keys, f"The token {given} does not exist, and Ray creates none for a cluster.", advice)
    elif not path.read_text(errors="replace").strip():
        yield document.error(keys, f"The token {given} is empty.", "Remove the file, then --make-token.")
    elif path.stat().st_mode & _OTHERS:
        yield document.error(keys, f"Other users may read the token {given}.", f"Run: chmod 600 {given}")


def token_source(document: Document) -> Path | None:
    """Return the file on this machine that is copied to the nodes as their token."""
    for target, source in document.mapping("file_mounts").items():
        if is_token(target) and isinstance(source, str):
            return Path(os.path.expanduser(source))
    return None


def secrets(document: Document) -> Iterator[Problem]:
    """Find secrets in the file, which is shared and copied to the head."""
    for keys, text in document.texts:
        if _SECRET.search(text) or (str(keys[-1]).lower() in _SECRET_KEYS and not text.startswith("$")):
            what = f"There is a secret in {'.'.join(map(str, keys))}."
            yield document.error(keys, what, "Use an instance profile, the token file or ~/.pgpass instead.")


def open_ports(document: Document) -> Iterator[Problem]:
    """Find security groups that admit the world, also the one that Ray creates silently."""
    group: Keys = ("provider", "security_group", "IpPermissions")
    for index, rule in enumerate(document.items(*group)):
        ranges = [entry for key in ("IpRanges", "Ipv6Ranges") for entry in rule.get(key) or []]
        world = [cidr for cidr in (entry.get("CidrIp") or entry.get("CidrIpv6") for entry in ranges) if cidr in _WORLD]
        if world:
            low, high = rule.get("FromPort"), rule.get("ToPort")
            ports = f"Port {low}" if low == high else f"Port {low} to {high}"
            ports = "Every port" if rule.get("IpProtocol") in (-1, "-1") else ports
            what = f"{ports} is open to the world ({world[0]})."
            find = document.warning if low == high == 22 else document.error
            yield find((*group, index), what, "Write your own address, such as 203.0.113.7/32.")
    if document.get("provider", "type") == "aws":
        own = document.get("provider", "security_group", "GroupName")
        nodes = [document.mapping(*keys) for keys in places(document, "available_node_types.*.node_config")]
        if not own and not (nodes and all("SecurityGroupIds" in node for node in nodes)):
            what = "Ray creates a security group whose ssh port is open to the world."
            yield document.warning(("provider",), what, "Create one yourself and name it in security_group.GroupName.")


def results_folder(document: Document, results_dir: str | None) -> Iterator[Problem]:
    """Find results on the disk of one machine, to which the other nodes cannot write."""
    if results_dir is None or "://" in results_dir:
        return
    if document.get("provider", "type") in CLOUDS or document.items("provider", "worker_ips"):
        what = f"--results-dir {results_dir} is on the disk of one machine; its checkpoints go with that machine."
        advice = "Use object storage, --results-dir s3://BUCKET/vae, or a shared folder."
        yield document.error(("provider",), what, advice)


RULES = (ssh_key, token, secrets, open_ports)
