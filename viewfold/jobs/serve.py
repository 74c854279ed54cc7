"""The retrieval service in one process: a pair of encoder and index behind HTTP, exchanged while it answers."""

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from viewfold.config import Config, check_ranges
from viewfold.errors import InvalidInput, MissingDependency
from viewfold.jobs.serve_watch import Watched, follow, is_alias, registry_version
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.backend import PairInfo
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.local import LocalBackend, Opened
from viewfold.retrieval.service.log import write_line

try:
    import uvicorn

    from viewfold.jobs.serve_heads import BoundedHeads
except ModuleNotFoundError as error:
    raise MissingDependency("the service needs uvicorn and httptools: pip install 'viewfold[serve]'") from error

KEEP_ALIVE_S = 75
"""Longer than the minute after which proxies let go of an idle connection, or they would send to a closed one."""
DRAIN_S = 5
"""What is added to a request's time limit when the last ones are waited for."""
SPARE_CONNECTIONS = 1000
"""Beside one for each request in flight: of clients that keep theirs open."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Config):
    """What is served, and how."""

    source: str
    """A run folder with an index, a bundle, or `models:/name@alias`; what a reload opens that names nothing else."""
    home: Path = Path("runs")
    """Folder of the local registry (mlflow.db)."""
    encoder: str | None = None
    """The encoder of bundles that lie in no run folder: its folder, a run folder or `models:/name@alias`. Where it is
    given it is the encoder of whatever is opened."""
    shards: tuple[str, ...] = ()
    """Where the images of the index lie, if they were moved; named as for `viewfold data index`."""
    watch_s: float = 10.0
    """Seconds between two looks at where the alias of `models:/name@alias` points; 0 looks never, and other sources
    are opened again by a reload alone."""
    service: ServiceConfig = field(default_factory=ServiceConfig)

    def __post_init__(self) -> None:
        check_ranges(self, watch_s=(0, 86_400))


def serve(config: ServeConfig) -> None:
    """Open the pair, print one line with the address when requests are answered, and answer until SIGTERM or Ctrl-C.

    Then no new connection is taken, requests that have begun are finished, and it returns. While the pair is being
    opened they end it as they end any other command.

    Raises:
        InvalidInput: nothing to serve at the source, an address that cannot be listened on, keys that are missing.
        ArtifactMismatch: index and encoder that were not made for each other.
    """
    service = config.service
    with bound(service.host, service.port) as listener:
        backend = LocalBackend(partial(opened, config), service.batching)
        app = make_app(backend, service)  # first: it refuses missing keys, and opening takes seconds
        info = backend.load()
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,  # a line for each request is written by the application
                access_log=False,
                server_header=False,
                proxy_headers=False,
                http=BoundedHeads,
                ws="none",
                limit_concurrency=service.limits.max_in_flight + SPARE_CONNECTIONS,
                lifespan="on",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=round(service.limits.timeout_s) + DRAIN_S,
            )
        )
        line = f"viewfold serves {described(info)} at {address(listener)}"
        loop = asyncio.Runner(loop_factory=server.config.get_loop_factory())
        # uvicorn, once it has ended, sends again the signal that ended it.
        with watching(config, backend.load, info.version), loop, contextlib.suppress(KeyboardInterrupt):
            loop.run(_serve(server, listener, line))


def opened(config: ServeConfig, source: str | None) -> Opened:
    """`open_source` with what the configuration says of it; None is the configuration's own source."""
    from viewfold.jobs.serve_open import open_source  # torch, which takes seconds: what is refused before does without

    return open_source(source or config.source, config.home, encoder=config.encoder, shards=config.shards or None)


@contextlib.contextmanager
def watching(config: ServeConfig, load: Callable[[], PairInfo], seen: str | None) -> Iterator[None]:
    """While the block runs, `follow` the alias that the source names, if it names one, and write what happens."""
    if not is_alias(config.source) or not config.watch_s:
        yield
        return
    stop = threading.Event()
    current = registry_version(config.source, config.home)
    say = partial(log_watched, config.source)
    settings = {"seen": seen, "every_s": config.watch_s, "stop": stop, "report": say}
    # A daemon: a registry that does not answer must not hold up the end of the process.
    threading.Thread(target=follow, args=(current, load), kwargs=settings, name="watch", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def log_watched(source: str, watched: Watched) -> None:
    """One line of JSON to stderr, beside those of the requests."""
    told = {"outcome": watched.outcome, "version": watched.version, "message": watched.message}
    write_line(event="watch", source=source, **told)


def described(info: PairInfo) -> str:
    """What is served, in words."""
    version = f" version {info.version}" if info.version is not None else ""
    images = info.bundle.n - info.bundle.num_deleted
    return f"{info.source}{version} ({images} images, index {info.bundle.id}, encoder {info.encoder_id})"


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket on this address, which takes no connection yet; closed when the block ends.

    Raises:
        InvalidInput: the address cannot be had; says why.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise InvalidInput(f"--host {host}: no such address; 127.0.0.1 is this machine alone") from None
    # `localhost` may be both, and those who write 127.0.0.1 must find it.
    family, kind, protocol, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
        except OSError as error:
            raise InvalidInput(_cannot_listen(host, port, error)) from None
        yield listener


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken; choose another with --port, 0 takes a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: not an address of this machine; 127.0.0.1 is this machine alone, 0.0.0.0 everybody"
    return f"cannot listen on port {port} of {host}: {error.strerror}; choose another with --port"


def address(listener: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(server: uvicorn.Server, listener: socket.socket, line: str) -> None:
    saying = asyncio.create_task(_say_when_ready(server, line))
    try:
        await server.serve(sockets=[listener])
    finally:
        saying.cancel()


async def _say_when_ready(server: uvicorn.Server, line: str) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    print(line, flush=True)
