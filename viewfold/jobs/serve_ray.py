"""The retrieval service on Ray Serve: HTTP and selection, the encoder, and the parts of the index as deployments.

`Service` replicas run the same application as one process does, over a bundle whose encoder and index are calls to
other deployments.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from viewfold.config import Config, check_ranges, parse
from viewfold.errors import InvalidInput, ViewfoldError
from viewfold.jobs.pool_images import PoolImages
from viewfold.jobs.serve import ServeConfig, watching
from viewfold.jobs.serve_ray_open import locate
from viewfold.jobs.serve_ray_remote import (
    EncoderReplica,
    PartReplica,
    RemoteEncode,
    RemotePart,
    hold_everywhere,
    serve,
)
from viewfold.retrieval import BundleInfo
from viewfold.retrieval.index.shards import open_sharded, part_rows
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.backend import NotReady, PairInfo, ServedPair
from viewfold.retrieval.service.local import LocalBackend, Opened

SERVICE = "Service"
DRAIN_S = 5
"""What is added to a request's time limit when the last ones of a replica are waited for."""

_LOG = logging.getLogger("ray.serve")


@dataclass(frozen=True, kw_only=True)
class RayServeConfig(ServeConfig):
    """What is served, and how it is spread over a cluster."""

    parts: int = 1
    """Deployments that share the rows of the index: 2 or more for exact and inverted-list indexes, not for graphs."""
    max_replicas: int = 4
    """Each deployment has between 1 and so many replicas, by the requests that it has."""
    replica_cpus: float = 1.0
    """Logical CPUs that Ray sets aside for each replica."""
    encoder_gpus: float = 0.0
    """GPUs for each replica of the encoder; a fraction lets several share one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, parts=(1, 1000), max_replicas=(1, 1000), replica_cpus=(0, 1000), encoder_gpus=(0, 64))
        if self.service.reload_sources:
            raise ValueError(
                "service.reload_sources has no effect on Ray, where a reload opens the deployed source alone; to serve "
                f"another, set user_config.source of {SERVICE} and deploy again"
            )


@dataclass(frozen=True, kw_only=True)
class Served(Config):
    """The user configuration of the deployment `Service`; a change of it takes effect in place."""

    source: str
    """As `ServeConfig.source`."""


class RayBackend:
    """`Backend` of one `Service` replica."""

    def __init__(self, config: RayServeConfig, encoder: Any, parts: Sequence[Any]) -> None:
        """`encoder` and `parts` are the handles of their deployments."""
        self._config, self._encoder, self._parts = config, encoder, parts
        self._local = LocalBackend(self._opened, config.service.batching)
        self._watch = contextlib.ExitStack()

    async def start(self, source: str) -> None:
        """Serve `source` from now on, and what its alias comes to mean; what cannot be used is refused and logged
        where something else is served already.

        Raises:
            InvalidInput: it cannot be used, and nothing else is served.
        """
        try:
            info = await self._local.reload(source)
        except ViewfoldError as error:
            with contextlib.suppress(NotReady):
                self._local.pair()
                # To fail here would have Serve take down a replica that answers.
                _LOG.error("%s is refused, %s stays: %s", source, self._config.source, error)
                return
            raise
        self._config = replace(self._config, source=source)
        self._watch.close()
        self._watch.enter_context(watching(self._config, self._local.load, info.version))

    def pair(self) -> ServedPair:
        """See `Backend`."""
        return self._local.pair()

    async def reload(self, source: str | None) -> PairInfo:
        """See `Backend`; all replicas look again at the source that they were deployed with. No other is named, which
        replicas that are started later would not know of: the configuration has no `reload_sources`."""
        assert source is None
        service = serve.get_deployment_handle(SERVICE)
        answers = await service.broadcast("look_again").results_async(return_exceptions=True)
        info = await self.look_again()
        # Any other error is of a replica that went, and whose successor looks for itself.
        refusals = [answer for answer in answers if isinstance(answer, ViewfoldError)]
        if refusals:
            why = str(refusals[0]).strip().rpartition("\n")[2]
            raise InvalidInput(f"{len(refusals)} of {len(answers)} replicas go on with the pair before: {why}")
        return info

    async def look_again(self) -> PairInfo:
        """Open what the source means now, in this replica; the pair that answers stays if it is the same."""
        config = self._config
        ticket = await asyncio.to_thread(locate, config.source, config.home, config.encoder)
        with contextlib.suppress(NotReady):
            info = self._local.pair().info
            if (info.id, info.version, info.base) == (ticket.id, ticket.version, ticket.base is not None):
                return info
        return await self._local.reload(None)

    async def close(self) -> None:
        """See `Backend`."""
        self._watch.close()
        await self._local.close()

    def _opened(self, source: str | None) -> Opened:
        config, timeout_s = self._config, self._config.service.limits.timeout_s
        ticket = locate(source or config.source, config.home, config.encoder)
        # All replicas at once, before the first request: nobody waits for a file to be read.
        encoders, *_ = hold_everywhere([self._encoder, *self._parts], ticket)

        def parts(info: BundleInfo) -> list[RemotePart]:
            bounds = [part_rows(info.n, number, len(self._parts)) for number in range(len(self._parts))]
            return [
                RemotePart(handle, ticket, *rows, timeout_s) for handle, rows in zip(self._parts, bounds, strict=True)
            ]

        bundle = open_sharded(Path(ticket.bundle), parts, bundle_id=ticket.bundle_id)
        remote = {
            name: RemoteEncode(self._encoder, ticket, name, encoder_id, size, timeout_s)
            for name, (encoder_id, size) in encoders.items()
        }
        images = PoolImages(bundle, config.shards or None)
        return Opened(bundle, remote["own"], remote.get("base"), images.image_of, ticket.source, ticket.version)


class Service:
    """The ingress: the application, over the other deployments."""

    def __init__(self, settings: Mapping[str, Any], encoder: Any, *parts: Any) -> None:
        """`settings` are those of `RayServeConfig` but for the source, which comes as user configuration."""
        self._config = parse(RayServeConfig, {**settings, "source": ""}, where="args")
        self._backend = RayBackend(self._config, encoder, parts)

    def __serve_build_asgi_app__(self) -> Any:
        """The application; called by Ray Serve, once."""
        return make_app(self._backend, self._config.service)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Called by Ray Serve with the user configuration, first and whenever it changes."""
        await self._backend.start(parse(Served, user_config, where="user_config").source)

    async def look_again(self) -> None:
        """For the other replicas; see `RayBackend.reload`."""
        await self._backend.look_again()


def application(args: dict[str, Any]) -> Any:
    """The Serve application, for `import_path: viewfold.jobs.serve_ray:application`; `args` are the fields of
    `RayServeConfig`. The source is given as one of them or as user configuration of `Service`, which goes first."""
    settings = dict(args)
    source = settings.pop("source", None)
    config = parse(RayServeConfig, {**settings, "source": source or ""}, where="args")
    limits = config.service.limits
    common = {
        "graceful_shutdown_timeout_s": limits.timeout_s + DRAIN_S,
        "ray_actor_options": {"num_cpus": config.replica_cpus},
    }

    def deployed(cls: type, name: str, target: float, most: int, **options: Any) -> Any:
        scaling = {"min_replicas": 1, "max_replicas": config.max_replicas, "target_ongoing_requests": target}
        options = {**common, "autoscaling_config": scaling, "max_ongoing_requests": most, **options}
        return serve.deployment(name=name, **options)(cls)

    gpu = {"num_cpus": config.replica_cpus, "num_gpus": config.encoder_gpus}
    # A replica of the service sends one batch at a time, so that 2 is a batch at work and one that waits.
    encoder = deployed(EncoderReplica, "Encoder", 2, 16, ray_actor_options=gpu).bind()
    parts = [
        deployed(PartReplica, f"Index-{number}", 2, 16).bind(number, config.parts) for number in range(config.parts)
    ]
    ingress = deployed(
        serve.ingress()(Service),
        SERVICE,
        limits.max_in_flight / 4,
        limits.max_in_flight,
        max_queued_requests=limits.max_in_flight,
        **({} if source is None else {"user_config": {"source": source}}),
    )
    return ingress.bind(settings, encoder, *parts)
