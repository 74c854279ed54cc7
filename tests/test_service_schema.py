"""Requests made from the OpenAPI description, valid ones and others: no answer is a fault of the service, and each
is as it is described."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import backend, built

from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import LimitsConfig, ServiceConfig

KEYS = {"Authorization": "Bearer a-key-of-sixteen-or-more"}
CHECKS = [not_a_server_error, content_type_conformance, status_code_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> schemathesis.BaseSchema:
    folder = tmp_path_factory.mktemp("described")
    built(folder / "bundle")
    (folder / "keys").write_text(KEYS["Authorization"].partition(" ")[2])
    limits = LimitsConfig(max_body_bytes=1 << 20, max_k=16, max_batch=4)
    app = make_app(backend(Path(folder / "bundle")), ServiceConfig(keys_file=str(folder / "keys"), limits=limits))
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=KEYS)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_as_described_and_none_is_a_fault(
    described: schemathesis.BaseSchema, mode: GenerationMode
) -> None:
    for found in described.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not [*operation.query, *operation.body]:
            continue  # any key is one, and it takes nothing else

        @settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def hold(case: "schemathesis.Case[Any]") -> None:
            case.call_and_validate(headers=KEYS, checks=CHECKS)

        hold()
