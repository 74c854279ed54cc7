"""The checker that pytest puts on every annotated function of `viewfold.ssl` and `viewfold.augment`."""

from beartype import BeartypeConf, beartype

# An int is accepted where a float is asked for (PEP 484), as the type checker accepts it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
