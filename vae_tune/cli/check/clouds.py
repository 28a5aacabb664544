"""Rules for ``provider`` and ``node_config`` of each provider, which the schema of Ray does not check."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import cache
from typing import Any

from vae_tune.cli.check.document import Document, Keys, Problem, advise, nearest
from vae_tune.cli.check.rules import declared, places

_SMALLEST_DISK = 40  # GB: PyTorch with CUDA takes 6 installed, and as much while it is


def provider(document: Document) -> Iterator[Problem]:
    """Find what the rules for any provider and for this one forbid, and zones outside of the region."""
    yield from declared(document, "any")
    yield from declared(document, document.get("provider", "type"))
    zones, region = document.get("provider", "availability_zone"), document.get("provider", "region")
    if isinstance(zones, str) and isinstance(region, str):
        for zone in map(str.strip, zones.split(",")):
            if not zone.startswith(region):
                what = f"The zone {zone!r} is not in the region {region!r}."
                yield document.error(("provider", "availability_zone"), what, "Change one of them.")


def local_hosts(document: Document) -> Iterator[Problem]:
    """Find repeated and public addresses of own machines, and more workers than machines."""
    if document.get("provider", "type") != "local" or document.get("provider", "coordinator_address"):
        return
    head, workers = document.get("provider", "head_ip"), document.items("provider", "worker_ips")
    for keys, host in addresses(document):
        if _is_public(host):
            what = f"{host} is a public address, and Ray listens on it."
            yield document.warning(keys, what, "Use a private address, or a firewall that only admits ssh.")
    for index, worker in enumerate(workers):
        if worker == head or worker in workers[:index]:
            keys = ("provider", "worker_ips", index)
            yield document.error(keys, f"{worker} is in the cluster twice.", "Remove one.")
    for key in ("min_workers", "max_workers"):
        count = document.get(key)
        if isinstance(count, int) and workers and count > len(workers):
            yield document.error((key,), f"{key} is {count}, but there are {len(workers)} worker_ips.", "Lower it.")
    if document.mapping("available_node_types"):
        what = "The local provider has no available_node_types."
        yield document.error(("available_node_types",), what, "Remove them: Ray finds what each machine has.")


def addresses(document: Document) -> list[tuple[Keys, Any]]:
    """Return the addresses of the machines of a local provider, with their places."""
    hosts = [("provider", "head_ip"), *places(document, "provider.worker_ips.*")]
    return [(keys, document.get(*keys)) for keys in hosts]


def _is_public(host: object) -> bool:
    try:
        return ipaddress.ip_address(str(host)).is_global
    except ValueError:  # a name
        return False


@cache
def _run_instances() -> Any:
    """Return the model of the input of RunInstances of EC2 from botocore; None without botocore."""
    try:
        from botocore.loaders import Loader
        from botocore.model import ServiceModel
    except ImportError:
        return None
    model = ServiceModel(Loader().load_service_model("ec2", "service-2"))
    return model.operation_model("RunInstances").input_shape


def aws_nodes(document: Document) -> Iterator[Problem]:
    """Find what EC2 would refuse in a node_config."""
    if document.get("provider", "type") != "aws":
        return
    shape = _run_instances()
    if shape is None:
        what = "node_config was not checked: the package botocore is missing."
        yield document.warning(("available_node_types",), what, "Run: pip install 'vae-tune[cluster]'")
        return
    for name in document.mapping("available_node_types"):
        keys: Keys = ("available_node_types", name, "node_config")
        config = {key: value for key, value in document.mapping(*keys).items() if key != "SubnetIds"}  # Ray's own key
        yield from _against_shape(document, keys, config, shape)


def _against_shape(document: Document, keys: Keys, value: Any, shape: Any) -> Iterator[Problem]:
    name = ".".join(map(str, keys[3:])) or "node_config"
    kinds = {"structure": dict, "map": dict, "list": list, "integer": int, "boolean": bool, "string": str}
    kind = kinds.get(shape.type_name)
    if kind and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        what = f"{name} must be of type {shape.type_name}, but is {str(value)[:40]!r}."
        yield document.error(keys, what, "Change it.")
    elif shape.type_name == "structure":
        for key, inner in value.items():
            if key in shape.members:
                yield from _against_shape(document, (*keys, key), inner, shape.members[key])
            else:
                what = f"EC2 knows no {key!r} in {name}."
                yield document.error((*keys, key), what, advise(key, shape.members))
    elif shape.type_name == "list":
        for index, inner in enumerate(value):
            yield from _against_shape(document, (*keys, index), inner, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        find = document.warning if name == "InstanceType" else document.error  # there are new ones every month
        guess = nearest(value, shape.enum, 0.8)
        yield find(keys, f"botocore knows no {name} {value!r}.", f"Did you mean {guess!r}?" if guess else "Is it new?")


def aws_access(document: Document) -> Iterator[Problem]:
    """Find nodes without ssh access, or with a disk too small for PyTorch."""
    if document.get("provider", "type") != "aws":
        return
    own_key = document.get("auth", "ssh_private_key")
    for name in document.mapping("available_node_types"):
        keys: Keys = ("available_node_types", name, "node_config")
        config = document.mapping(*keys)
        if own_key and not {"KeyName", "UserData"} & set(config):
            what = f"auth has a key of your own, but node type {name!r} no KeyName."
            yield document.error(keys, what, "Add the name that EC2 knows the key by.")
        if not own_key and "KeyName" in config:
            what = "Ray makes a key pair of its own and replaces this KeyName."
            yield document.warning((*keys, "KeyName"), what, "Name the file in auth.ssh_private_key.")
        sizes = [disk.get("Ebs", {}).get("VolumeSize") for disk in config.get("BlockDeviceMappings") or []]
        size = max((size for size in sizes if isinstance(size, int)), default=8)
        if size < _SMALLEST_DISK:
            what = f"Node type {name!r} has a disk of {size} GB; PyTorch with CUDA needs more."
            yield document.error(keys, what, f"Set BlockDeviceMappings' VolumeSize to {_SMALLEST_DISK} or more.")


RULES = (provider, local_hosts, aws_nodes, aws_access)
