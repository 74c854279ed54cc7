"""Methods: what an encoder is trained to. A new one is one file, and one line of `METHODS`."""

from viewfold.ssl.methods.augself import AugSelf, AugSelfConfig
from viewfold.ssl.methods.cci import CCI, CCI_PRESETS, CCIConfig
from viewfold.ssl.methods.equimod import EquiMod, EquiModConfig
from viewfold.ssl.methods.mcr2 import MCR2, MCR2Config
from viewfold.ssl.methods.method import Method, MethodConfig, Outcome, Task
from viewfold.ssl.methods.mlc import MLC, MLCConfig
from viewfold.ssl.methods.sie import SIE, SIE_PRESETS, SIEConfig
from viewfold.ssl.methods.sie_equivariant import SIEEquivariant, SIEEquivariantConfig
from viewfold.ssl.methods.simclr import SimCLR, SimCLRConfig
from viewfold.ssl.methods.supervised import Supervised, SupervisedConfig
from viewfold.ssl.methods.tcr import TCR, TCRConfig
from viewfold.ssl.methods.transitive import Transitive, TransitiveConfig
from viewfold.ssl.methods.vicreg import VICReg, VICRegConfig

METHODS: dict[str, type[Method]] = {
    "augself": AugSelf,
    "cci": CCI,
    "equimod": EquiMod,
    "mcr2": MCR2,
    "mlc": MLC,
    "sie": SIE,
    "sie-equivariant": SIEEquivariant,
    "simclr": SimCLR,
    "supervised": Supervised,
    "tcr": TCR,
    "transitive": Transitive,
    "vicreg": VICReg,
}

METHOD_CONFIGS: dict[str, type[MethodConfig]] = {name: method.config_class for name, method in METHODS.items()}

METHOD_PRESETS: dict[str, MethodConfig] = {f"cci-{name}": config for name, config in CCI_PRESETS.items()}
"""Settings under a name of their own, which stands in a file in place of the method's."""

__all__ = [
    "CCI",
    "CCI_PRESETS",
    "MCR2",
    "METHODS",
    "METHOD_CONFIGS",
    "METHOD_PRESETS",
    "MLC",
    "SIE",
    "SIE_PRESETS",
    "TCR",
    "AugSelf",
    "AugSelfConfig",
    "CCIConfig",
    "EquiMod",
    "EquiModConfig",
    "MCR2Config",
    "MLCConfig",
    "Method",
    "MethodConfig",
    "Outcome",
    "SIEConfig",
    "SIEEquivariant",
    "SIEEquivariantConfig",
    "SimCLR",
    "SimCLRConfig",
    "Supervised",
    "SupervisedConfig",
    "TCRConfig",
    "Task",
    "Transitive",
    "TransitiveConfig",
    "VICReg",
    "VICRegConfig",
]
