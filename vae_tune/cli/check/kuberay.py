"""Rules for a RayJob or RayCluster of KubeRay. No package ships the schema of its v1 API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vae_tune.cli.check.commands import wanted_versions
from vae_tune.cli.check.document import Document, Finding, Keys, advise, nearest

_JOB = (
    "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus "
    "entrypointNumGpus entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec "
    "runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend "
    "ttlSecondsAfterFinished"
)
_CLUSTER = (
    "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec "
    "headServiceAnnotations managedBy rayVersion suspend upgradeStrategy workerGroupSpecs"
)
_HEAD = "enableIngress headService labels rayStartParams resources serviceType template"
_WORKERS = (
    "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts rayStartParams replicas resources "
    "scaleStrategy suspend template"
)
_AUTOSCALER = (
    "command args env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext upscalingMode "
    "version volumeMounts"
)
_CONTAINER = "args command env envFrom image imagePullPolicy lifecycle name ports resources volumeMounts workingDir"
_KINDS = ("RayCluster", "RayJob")


def is_kuberay(document: Document) -> bool:
    """Whether the file is for Kubernetes rather than for `ray up`."""
    return "apiVersion" in document.data or "kind" in document.data


def _cluster(document: Document) -> Keys:
    return ("spec", "rayClusterSpec") if document.get("kind") == "RayJob" else ("spec",)


def _groups(document: Document) -> list[Keys]:
    """Return the places of the head group and of each worker group."""
    cluster = _cluster(document)
    workers = (*cluster, "workerGroupSpecs")
    return [(*cluster, "headGroupSpec"), *((*workers, index) for index in range(len(document.items(*workers))))]


def kind(document: Document) -> Iterator[Finding]:
    """Find an unknown kind of file, or one without a name."""
    if document.get("apiVersion") != "ray.io/v1":
        yield document.error(("apiVersion",), f"apiVersion is {document.get('apiVersion')!r}.", "Write ray.io/v1.")
    if document.get("kind") not in _KINDS:
        what = f"kind is {document.get('kind')!r}, which starts no search."
        yield document.error(("kind",), what, advise(document.get("kind"), _KINDS))
    if not document.get("metadata", "name") and not document.get("metadata", "generateName"):
        yield document.error(("metadata",), "The metadata have no name.", "Add one.")


def keys_known(document: Document) -> Iterator[Finding]:
    """Find misspelt keys. A key unlike all known keys may be newer than this list."""
    cluster = _cluster(document)
    places: list[tuple[Keys, str]] = [(cluster, _CLUSTER), ((*cluster, "autoscalerOptions"), _AUTOSCALER)]
    if document.get("kind") == "RayJob":
        places.append((("spec",), _JOB))
    for index, group in enumerate(_groups(document)):
        places.append((group, _WORKERS if index else _HEAD))
        containers = (*group, "template", "spec", "containers")
        places += [((*containers, place), _CONTAINER) for place in range(len(document.items(*containers)))]
    for keys, words in places:
        known = words.split()
        for key in document.mapping(*keys):
            guess = nearest(key, known, 0.8)
            if guess and key != guess and key not in known:
                yield document.error((*keys, key), f"KubeRay knows no {key!r} here.", f"Did you mean {guess!r}?")


def parts(document: Document) -> Iterator[Finding]:
    """Find a missing head, workers, image or entrypoint."""
    cluster = _cluster(document)
    if document.get("kind") == "RayJob" and not document.get("spec", "entrypoint"):
        yield document.error(("spec",), "The RayJob has no entrypoint.", "Add: vae-tune search --address auto ...")
    if document.get("kind") == "RayJob" and document.get("spec", "shutdownAfterJobFinishes") is not True:
        what = "The cluster stays up after the search, and costs money."
        yield document.warning(("spec",), what, "Add shutdownAfterJobFinishes: true.")
    for key in ("headGroupSpec", "workerGroupSpecs"):
        if not document.get(*cluster, key):
            yield document.error(cluster, f"There is no {key}.", "Add it.")
    for group in _groups(document):
        containers = document.items(*group, "template", "spec", "containers")
        if document.get(*group) and not any(isinstance(one, Mapping) and one.get("image") for one in containers):
            yield document.error(group, "The group's template has no container with an image.", "Add one.")
        low, high = document.get(*group, "minReplicas") or 0, document.get(*group, "maxReplicas")
        if isinstance(low, int) and isinstance(high, int) and low > high:
            what = f"minReplicas {low} > maxReplicas {high}."
            yield document.error((*group, "minReplicas"), what, "Raise maxReplicas or lower minReplicas.")


def versions(document: Document) -> Iterator[Finding]:
    """Find a rayVersion, which the operator relies on, that differs from the constraints."""
    keys = (*_cluster(document), "rayVersion")
    version = document.get(*keys)
    wanted = wanted_versions("ray", document.path)
    if version is None:
        yield document.warning(keys, "There is no rayVersion.", f"Add rayVersion: {wanted[-1]}.")
    elif wanted and str(version) not in wanted:
        what = f"rayVersion is {version}, but constraints.txt has {wanted[-1]}."
        yield document.error(keys, what, f"Write {wanted[-1]}.")


def safety(document: Document) -> Iterator[Finding]:
    """Find a cluster without a token, or with a service that the world reaches."""
    cluster = _cluster(document)
    environments = [
        entry.get("name")
        for group in _groups(document)[:1]
        for container in document.items(*group, "template", "spec", "containers")
        for entry in container.get("env") or []
    ]
    if document.get(*cluster, "authOptions", "mode") != "token" and "RAY_AUTH_MODE" not in environments:
        what = "There is no token: whoever reaches the cluster can run code on it."
        yield document.error(cluster, what, "Add authOptions: {mode: token}.")
    head = (*cluster, "headGroupSpec")
    service = document.get(*head, "serviceType")
    if service in ("LoadBalancer", "NodePort"):
        what = f"serviceType {service} opens the dashboard and the jobs API beyond the Kubernetes cluster."
        yield document.error((*head, "serviceType"), what, "Write ClusterIP, and use kubectl port-forward.")
    if document.get(*head, "enableIngress"):
        what = "enableIngress opens the dashboard and the jobs API beyond the Kubernetes cluster."
        yield document.error((*head, "enableIngress"), what, "Remove it, and use kubectl port-forward.")


def results(document: Document) -> Iterator[Finding]:
    """Find results on the disk of a pod, which goes with the pod, and a search on the head alone."""
    entrypoint = str(document.get("spec", "entrypoint"))
    if "vae-tune" in entrypoint or "search.py" in entrypoint:
        _, given, rest = entrypoint.partition("--results-dir")
        folder = rest.lstrip(" =").split(" ")[0].strip() if given else "results"
        if "://" not in folder and "--resume" not in entrypoint:
            what = f"The results go to {folder}, on the disk of a pod, and are lost with it."
            yield document.error(("spec", "entrypoint"), what, "Add --results-dir s3://BUCKET/vae.")
        if "--address" not in entrypoint:
            what = "The search would run on the head alone."
            yield document.error(("spec", "entrypoint"), what, "Add --address auto.")


RULES = (kind, keys_known, parts, versions, safety, results)
