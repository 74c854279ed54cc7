"""`python -m viewfold.retrieval.service > docs/openapi.json` writes down what the service reads and answers."""

import json
import sys

from viewfold.errors import InvalidInput
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.local import LocalBackend, Opened


def description() -> str:
    """The OpenAPI description as it is committed."""
    app = make_app(LocalBackend(_nothing), ServiceConfig())
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def _nothing(source: str | None) -> Opened:
    raise InvalidInput(f"{source}: nothing is served here")


if __name__ == "__main__":
    sys.stdout.write(description())
