"""How the service runs: where it listens, what it takes, and how requests are joined."""

from dataclasses import dataclass, field

from viewfold.config import Config, check_ranges
from viewfold.retrieval.prompt.images import MAX_PIXELS
from viewfold.retrieval.selection.select_config import SelectConfig


@dataclass(frozen=True, kw_only=True)
class LimitsConfig(Config):
    """What one request, and all of them at a time, may take."""

    max_body_bytes: int = 20 * 2**20
    """Of a request; larger ones are answered with 413."""
    max_pixels: int = 50_000_000
    """Of an image, told from its header before it is decoded; at most what is decoded at all."""
    max_k: int = 64
    """Demonstrations or neighbours for each query."""
    max_batch: int = 64
    """Queries in one request."""
    max_map: int = 5000
    """Points of the map in one answer."""
    timeout_s: float = 30.0
    """A request that takes longer is answered with 504."""
    max_in_flight: int = 256
    """Requests at a time; more are answered with 503 at once."""
    max_bytes_in_flight: int = 512 * 2**20
    """Of the bodies of all requests at a time; what goes beyond is answered with 503."""
    max_side: int = 2048
    """Of images in prompts, in pixels."""
    max_prompt_bytes: int = 32 * 2**20
    """Of the messages of one request, those of a batch together; a single prompt is shrunk to it."""

    def __post_init__(self) -> None:
        check_ranges(
            self, max_body_bytes=(1024, 2**31), max_pixels=(1, MAX_PIXELS), max_k=(1, 10_000), max_batch=(1, 10_000)
        )
        check_ranges(self, max_map=(1, 1_000_000), timeout_s=(0.01, 3600), max_in_flight=(1, 100_000))
        check_ranges(self, max_bytes_in_flight=(1024, 2**40), max_side=(16, 8192), max_prompt_bytes=(1024, 2**31))
        if self.max_bytes_in_flight < self.max_body_bytes:
            raise ValueError(
                f"max_bytes_in_flight must be at least max_body_bytes = {self.max_body_bytes}, "
                f"got {self.max_bytes_in_flight}"
            )


@dataclass(frozen=True, kw_only=True)
class BatchingConfig(Config):
    """Concurrent requests are joined: while one batch is worked on, the next one fills."""

    max_batch: int = 64
    """Images or queries in one call of the encoder or the index."""
    max_wait_ms: float = 0.0
    """How long a first request waits for others when nothing is being worked on; a few milliseconds pay where the
    encoder runs on a GPU."""

    def __post_init__(self) -> None:
        check_ranges(self, max_batch=(1, 10_000), max_wait_ms=(0, 1000))


@dataclass(frozen=True, kw_only=True)
class ServiceConfig(Config):
    """The service, apart from what it serves."""

    host: str = "127.0.0.1"
    """Where it listens; anything but a loopback address needs keys."""
    port: int = 8000
    """0 takes a free one."""
    keys_file: str | None = None
    """A file with one key a line, `#` begins a comment; else the environment's VIEWFOLD_SERVICE_KEYS, separated by
    commas or white space. A request shows one as `Authorization: Bearer KEY`."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    reload_sources: tuple[str, ...] = ()
    """What a reload may name beside what was served from the start: `models:/NAME@champion`, or patterns such as
    `runs/*`. None by default: a key that may ask must not choose which files are opened."""
    select: SelectConfig = field(default_factory=SelectConfig)
    """What a request for demonstrations gets where it does not say otherwise."""

    def __post_init__(self) -> None:
        check_ranges(self, port=(0, 65535))
        if self.select.k > self.limits.max_k:
            raise ValueError(f"select.k must be at most limits.max_k = {self.limits.max_k}, got {self.select.k}")
        if self.select.strategy == "oracle":
            raise ValueError("select.strategy 'oracle' is told the query's label, which no request has")
