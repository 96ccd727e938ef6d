"""What every cluster of this project has beside Argo: names (CoreDNS, where the cluster brings none) and an S3 store."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import string
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.cluster.images import SERVICE_IMAGES
from infra.cluster.kube import Kube
from infra.cluster.process import answers_http
from infra.cluster.progress import Phase, wait_for
from infra.cluster.settings import BUCKET, DNS_ADDRESS, IMAGE_USER, REGION, SERVICES_FOLDER, STORE_NAMESPACE, STORE_SECRET, Places
from workflows.errors import BadInput, Temporary

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

STORE_PORT = 7070
# A pod's first start waits for its images' unpacking and, on a busy machine, for its turn.
READY_SECONDS = 180


def rendered(file: str, places: Places) -> str:
    """One of the manifests with its places filled in; every place must be known."""
    values = {
        **{i.name.replace("-", "_"): i.reference for i in SERVICE_IMAGES},
        "dns": DNS_ADDRESS,
        "namespace": STORE_NAMESPACE,
        "secret": STORE_SECRET,
        "region": REGION,
        "user": IMAGE_USER,
        "store": places.store,
        "bus": places.bus,
    }
    return string.Template((SERVICES_FOLDER / file).read_text(encoding="utf-8")).substitute(values)


def names_phase(places: Places, kube: Kube) -> Phase:
    def make() -> None:
        kube.apply(rendered("coredns.yaml", places))
        wait_for_deployment(kube, "kube-system/coredns")

    return Phase(name="CoreDNS", holds=lambda: is_available(kube, "kube-system/coredns"), make=make, done="answers")


def store_phase(places: Places, kube: Kube, *, local: bool) -> Phase:
    def make() -> None:
        if local:
            make_folders(places)
            kube.apply(rendered("s3-volume.yaml", places))
        kube.apply(rendered("s3.yaml", places))
        keep_or_make_secret(kube)
        wait_for_deployment(kube, f"{STORE_NAMESPACE}/s3")
        with endpoint(kube, local=local) as url:
            make_bucket(kube, url)

    def holds() -> bool:
        if not is_available(kube, f"{STORE_NAMESPACE}/s3") or store_keys(kube) is None:
            return False
        with endpoint(kube, local=local) as url:
            return has_bucket(kube, url)

    return Phase(name="S3", holds=holds, make=make, done="answers")


def bus_volume_phase(places: Places, kube: Kube) -> Phase:
    """The disk of the event bus: without one, what it holds and knows goes with its pod."""

    def make() -> None:
        places.bus.mkdir(parents=True, exist_ok=True)
        os.chown(places.bus, IMAGE_USER, IMAGE_USER)
        kube.apply(rendered("bus-volume.yaml", places))

    return Phase(
        name="disk of the event bus",
        holds=lambda: places.bus.exists() and kube.get("persistentvolume", "countersign-events-bus") is not None,
        make=make,
        done="made",
    )


def make_folders(places: Places) -> None:
    places.store.mkdir(parents=True, exist_ok=True)
    for name in ("data", "meta", "versions"):
        folder = places.store / name
        folder.mkdir(exist_ok=True)
        os.chown(folder, IMAGE_USER, IMAGE_USER)


def wait_for_deployment(kube: Kube, name: str) -> None:
    try:
        wait_for(f"deployment {name} is available", lambda: is_available(kube, name), seconds=READY_SECONDS)
    except TimeoutError as e:
        namespace = namespace_of(name)
        raise Temporary(
            f"{e}\n{kube.attempt('get', 'pods', '-n', namespace).stdout}", hint=f"kubectl describe pods -n {namespace}"
        ) from None


def is_available(kube: Kube, name: str) -> bool:
    available, wanted = kube.deployments(namespace_of(name)).get(name, (0, 1))
    return available >= wanted


def namespace_of(name: str) -> str:
    return name.partition("/")[0]


def keep_or_make_secret(kube: Kube) -> None:
    """The store's root keys are made once, here, and live in the cluster alone."""
    if store_keys(kube) is not None:
        return
    made = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": STORE_SECRET, "namespace": STORE_NAMESPACE},
        "stringData": {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30)},
    }
    kube.apply(json.dumps(made))


def store_keys(kube: Kube) -> Mapping[str, str] | None:
    """The root keys by their usual names; None before there are any."""
    found = kube.get("secret", STORE_SECRET, "--namespace", STORE_NAMESPACE)
    return None if found is None else {k: base64.b64decode(v).decode() for k, v in found["data"].items()}


@contextmanager
def endpoint(kube: Kube, *, local: bool) -> Iterator[str]:
    """An address of the store that works from here: the service's own, or a forwarded port for as long as it is used."""
    if local:
        yield store_url(kube) or ""
        return
    words = [str(kube.kubectl), "-n", STORE_NAMESPACE, "port-forward", "svc/s3", f":{STORE_PORT}"]
    with subprocess.Popen(words, env={**os.environ, **kube.env}, stdout=subprocess.PIPE, text=True) as forward:
        try:
            first = forward.stdout.readline() if forward.stdout else ""
            found = re.search(r"127\.0\.0\.1:(\d+)", first)
            if found is None:
                raise Temporary("the port of the S3 server could not be forwarded", hint=f"kubectl describe pods -n {STORE_NAMESPACE}")
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            forward.terminate()


def store_url(kube: Kube) -> str | None:
    """The store's address as this machine reaches it, on the local cluster."""
    found = kube.get("service", "s3", "--namespace", STORE_NAMESPACE)
    return f"http://{found['spec']['clusterIP']}:{STORE_PORT}" if found else None


def answers(url: str | None) -> bool:
    return url is not None and answers_http(f"{url}/health")


def client(kube: Kube, url: str) -> S3Client:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise BadInput("boto3 is not importable", hint="run it through make (make cluster-up), or from the project's environment") from None
    keys = store_keys(kube) or {}
    quick = Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 5})
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=keys.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=keys.get("AWS_SECRET_ACCESS_KEY"),
        config=quick,
    )


def has_bucket(kube: Kube, url: str) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client(kube, url).head_bucket(Bucket=BUCKET)
    except (BotoCoreError, ClientError):
        return False
    return True


def make_bucket(kube: Kube, url: str) -> None:
    wait_for("the S3 server answers", lambda: answers(url), seconds=60)
    if not has_bucket(kube, url):
        client(kube, url).create_bucket(Bucket=BUCKET)
