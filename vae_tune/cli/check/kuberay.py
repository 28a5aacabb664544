"""Rules for a RayJob or RayCluster of KubeRay that compare two places, or a place with the constraints."""

from __future__ import annotations

from collections.abc import Iterator

from vae_tune.cli.check.document import Document, Keys, Problem
from vae_tune.cli.check.rules import declared, places
from vae_tune.cli.check.shell_commands import wanted_versions


def is_kuberay(document: Document) -> bool:
    """Whether the file is for Kubernetes rather than for `ray up`."""
    return "apiVersion" in document.data or "kind" in document.data


def _cluster(document: Document) -> Keys:
    return ("spec", "rayClusterSpec") if document.get("kind") == "RayJob" else ("spec",)


def parts(document: Document) -> Iterator[Problem]:
    """Find what the declared rules forbid, groups without an image, and minima above maxima."""
    cluster = _cluster(document)
    yield from declared(document, "RayJob" if document.get("kind") == "RayJob" else "RayCluster")
    yield from declared(document, "cluster", cluster)
    for group in [(*cluster, "headGroupSpec"), *places(document, "workerGroupSpecs.*", cluster)]:
        images = places(document, "template.spec.containers.*.image", group)
        if document.get(*group) and not any(document.get(*keys) for keys in images):
            yield document.error(group, "The group's template has no container with an image.", "Add one.")
        low, high = document.get(*group, "minReplicas") or 0, document.get(*group, "maxReplicas")
        if isinstance(low, int) and isinstance(high, int) and low > high:
            what = f"minReplicas {low} > maxReplicas {high}."
            yield document.error((*group, "minReplicas"), what, "Raise maxReplicas or lower minReplicas.")


def versions(document: Document) -> Iterator[Problem]:
    """Find a rayVersion, which the operator relies on, that differs from the constraints."""
    keys = (*_cluster(document), "rayVersion")
    version = document.get(*keys)
    wanted = wanted_versions("ray", document.path)
    if version is None:
        yield document.warning(keys, "There is no rayVersion.", f"Add rayVersion: {wanted[-1]}.")
    elif wanted and str(version) not in wanted:
        what = f"rayVersion is {version}, but constraints.txt has {wanted[-1]}."
        yield document.error(keys, what, f"Write {wanted[-1]}.")


def token(document: Document) -> Iterator[Problem]:
    """Find a cluster without a token."""
    cluster = _cluster(document)
    variables = places(document, "headGroupSpec.template.spec.containers.*.env.*.name", cluster)
    is_set = "RAY_AUTH_MODE" in [document.get(*keys) for keys in variables]
    if document.get(*cluster, "authOptions", "mode") != "token" and not is_set:
        what = "There is no token: whoever reaches the cluster can run code on it."
        yield document.error(cluster, what, "Add authOptions: {mode: token}.")


RULES = (parts, versions, token)
