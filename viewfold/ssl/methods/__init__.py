"""Methods: what an encoder is trained to. A new one is one file, and one line of `METHODS`."""

from viewfold.ssl.methods.cci import CCI, CCI_PRESETS, CCIConfig
from viewfold.ssl.methods.method import Method, MethodConfig, Outcome, Task
from viewfold.ssl.methods.sie import SIE, SIE_PRESETS, SIEConfig

METHODS: dict[str, type[Method]] = {
    "cci": CCI,
    "sie": SIE,
}

METHOD_CONFIGS: dict[str, type[MethodConfig]] = {name: method.config_class for name, method in METHODS.items()}

__all__ = [
    "CCI",
    "CCI_PRESETS",
    "METHODS",
    "METHOD_CONFIGS",
    "SIE",
    "SIE_PRESETS",
    "CCIConfig",
    "Method",
    "MethodConfig",
    "Outcome",
    "SIEConfig",
    "Task",
]
