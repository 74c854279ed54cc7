"""Starting the service on Ray, on this machine or a cluster, and the config file that has Ray Serve start it."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from viewfold.config import dump
from viewfold.errors import InvalidInput
from viewfold.jobs.data import PACK, SHIPPED
from viewfold.jobs.pair_folders import REGISTERED
from viewfold.jobs.serve import bound
from viewfold.jobs.serve_ray import DRAIN_S, SERVICE, RayServeConfig, application
from viewfold.jobs.serve_ray_open import locate
from viewfold.jobs.serve_ray_remote import ray, serve
from viewfold.pipeline.executor import VERBOSE, ray_session
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.auth import VARIABLE
from viewfold.retrieval.service.local import LocalBackend, Opened

APPLICATION = "viewfold"
PATIENCE = "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"


def serve_config(config: RayServeConfig) -> str:
    """A Serve config file (`serve deploy FILE`, or `serveConfigV2` of a KubeRay RayService) that serves the same."""
    args = dump(_absolute(config))
    source = args.pop("source")
    app = {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": "viewfold.jobs.serve_ray:application",
        "args": args,
        "deployments": [{"name": SERVICE, "user_config": {"source": source}}],
    }
    data = {"proxy_location": "EveryNode", "http_options": _http(config), "applications": [app]}
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text


def serve_on_ray(config: RayServeConfig) -> None:
    """Serve on the cluster of RAY_ADDRESS, else on a Ray of this machine; print one line with the address when requests
    are answered, and go on until SIGTERM or Ctrl-C, when requests that have begun are finished. Before that line they
    end it as they end any other command.

    Raises:
        InvalidInput: nothing to serve at the source, an address that cannot be listened on, keys that are missing.
    """
    if config.service.keys_file is None and os.environ.get(VARIABLE):
        raise InvalidInput(
            f"{VARIABLE} is not known to replicas on other machines, which would ask for no key; "
            "write the keys to a file that all machines reach, and name it (--keys FILE)"
        )
    config = _checked(_absolute(config))
    ticket = locate(config.source, config.home, config.encoder)
    os.environ.setdefault(PATIENCE, "60")  # in 5 s a busy machine starts no proxy, and Ray Serve takes it down
    what = f"{ticket.source} (index {ticket.bundle_id}, encoder {ticket.encoder_id})"
    if not os.environ.get(VERBOSE):
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ray_session(), _running(config):
        print(f"viewfold serves {what} on Ray at {_url(config)}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


@contextlib.contextmanager
def _running(config: RayServeConfig) -> Iterator[None]:
    logs = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(http_options=_http(config), logging_config=logs)
    try:
        _run(config, logs)
        yield
    finally:  # also after a start that was cut: on a cluster it would go on without us
        serve.delete(APPLICATION)


def _run(config: RayServeConfig, logs: dict[str, Any]) -> None:
    try:
        serve.run(application(dump(_for_this_machine(config))), name=APPLICATION, logging_config=logs)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise InvalidInput(f"{config.source}: Ray Serve could not start it: {last}") from None


def _checked(config: RayServeConfig) -> RayServeConfig:
    """`config` with the port that it gets, after all that can be refused before Ray starts."""
    with bound(config.service.host, config.service.port) as listener:
        port = listener.getsockname()[1]
    config = replace(config, service=replace(config.service, port=port))

    def never(_: str | None) -> Opened:
        raise AssertionError

    make_app(LocalBackend(never), config.service)  # refuses missing keys
    return config


def _for_this_machine(config: RayServeConfig) -> RayServeConfig:
    """On one machine all replicas must fit at once, or the first waits for the last; a cluster has what is asked."""
    if sum(node["Alive"] for node in ray.nodes()) > 1:  # type: ignore[no-untyped-call]
        return config
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = have.get("CPU", 0) / ((config.parts + 2) * config.max_replicas)
    gpus = min(1.0, have.get("GPU", 0) / config.max_replicas)
    return replace(
        config,
        replica_cpus=min(config.replica_cpus, int(1e4 * cpus) / 1e4),  # Ray counts in steps of 1e-4
        encoder_gpus=config.encoder_gpus or int(1e4 * gpus) / 1e4,
    )


def _http(config: RayServeConfig) -> dict[str, Any]:
    service = config.service
    return {"host": service.host, "port": service.port, "request_timeout_s": service.limits.timeout_s + DRAIN_S}


def _url(config: RayServeConfig) -> str:
    host, port = config.service.host, config.service.port
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _absolute(config: RayServeConfig) -> RayServeConfig:
    """Paths as replicas find them, which are started in other folders."""
    keys, encoder = config.service.keys_file, config.encoder
    return replace(
        config,
        source=_path(config.source),
        home=config.home.absolute(),
        encoder=None if encoder is None else _path(encoder),
        shards=tuple(_path(shard) for shard in config.shards),
        service=replace(config.service, keys_file=None if keys is None else _path(keys)),
    )


def _path(text: str) -> str:
    """A name that each machine looks up for itself stays as it is."""
    by_name = text.startswith((REGISTERED, PACK, SHIPPED)) or "://" in text
    return text if by_name else str(Path(text).absolute())
