"""Methods: what an encoder is trained to. A new one is one file, and one line of `METHODS`."""

from collections.abc import Mapping
from typing import Any

from viewfold.config import choose
from viewfold.ssl.methods.cci import CCI, CCI_PRESETS, CCIConfig
from viewfold.ssl.methods.method import Method, MethodConfig, Outcome, Task
from viewfold.ssl.methods.sie import SIE, SIEConfig

METHODS: dict[str, type[Method]] = {
    "cci": CCI,
    "sie": SIE,
}


def method_config(data: Mapping[str, Any]) -> MethodConfig:
    """The configuration of the method that `data["name"]` names, checked like any other.

    Raises:
        InvalidInput: no name or an unknown one, answered with the known ones; or a field that cannot be used.
    """
    return choose("method", {name: method.config_class for name, method in METHODS.items()}, data)


__all__ = [
    "CCI",
    "CCI_PRESETS",
    "METHODS",
    "SIE",
    "CCIConfig",
    "Method",
    "MethodConfig",
    "Outcome",
    "SIEConfig",
    "Task",
    "method_config",
]
