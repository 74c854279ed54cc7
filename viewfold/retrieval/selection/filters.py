"""Hard filters: which images of the pool any query may be shown, as one mask that the search itself obeys."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from viewfold.config import Config, unknown
from viewfold.errors import InvalidInput
from viewfold.retrieval.selection.columns import PoolColumns


@dataclass(frozen=True, kw_only=True)
class FilterConfig(Config):
    """Which images may be shown; what is not named is not filtered by."""

    domains: tuple[str, ...] | None = None
    """Images of these domains alone."""
    not_domains: tuple[str, ...] = ()
    """No image of these domains."""
    labels: tuple[str, ...] | None = None
    """Images with these labels alone."""
    attrs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each named column of the records, such as `group` or `shard`, the values that are allowed in it; a bundle
    has no other columns than those."""

    def __post_init__(self) -> None:
        listed = {"domains": self.domains, "not_domains": self.not_domains, "labels": self.labels}
        for name, values in [*listed.items(), *((f"attrs.{column}", found) for column, found in self.attrs.items())]:
            if isinstance(values, str):  # a text is a sequence of letters, none of which would match
                raise ValueError(f"{name} must be a sequence of values, got the text {values!r}; write ({values!r},)")


@dataclass(frozen=True, eq=False)
class Eligible:
    """What the filters leave of a pool."""

    mask: NDArray[np.bool_] | None
    """`[row]`; None where every row may be shown."""
    total: int
    """Rows left."""
    excluded: dict[str, int]
    """Rows that each filter in use took, those that were removed from the bundle not counted."""
    warnings: tuple[str, ...]


def eligible_rows(pool: PoolColumns, config: FilterConfig) -> Eligible:
    """Apply the filters to the whole pool.

    Raises:
        InvalidInput: a domain, label or column to keep to is not in the records; names the nearest that is.
    """
    start = pool.allowed
    mask = np.ones(len(pool), dtype=bool) if start is None else start.copy()
    excluded: dict[str, int] = {}
    for name, kept in _kept(pool, config):
        excluded[name] = excluded.get(name, 0) + int(np.count_nonzero(mask & ~kept))
        mask &= kept
    absent = sorted(set(config.not_domains) - set(pool.domain.names))
    warnings = [f"no image of the pool is of domain {name!r}, which was to be left out" for name in absent]
    plain = start is None and not excluded
    return Eligible(None if plain else mask, int(np.count_nonzero(mask)), excluded, tuple(warnings))


def with_label(eligible: Eligible, pool: PoolColumns, label: str) -> Eligible:
    """The eligible rows that carry `label`; none if the pool has no such label."""
    mask = pool.label.codes == (pool.label.names.index(label) if label in pool.label.names else -2)
    mask = mask if eligible.mask is None else mask & eligible.mask
    return dataclasses.replace(eligible, mask=mask, total=int(np.count_nonzero(mask)))


def label_counts(eligible: Eligible, pool: PoolColumns) -> NDArray[np.int64]:
    """`[label]`: eligible rows that carry each of `pool.label.names`."""
    codes = pool.label.codes
    return np.bincount(codes if eligible.mask is None else codes[eligible.mask], minlength=len(pool.label.names))


def _kept(pool: PoolColumns, config: FilterConfig) -> Iterable[tuple[str, NDArray[np.bool_]]]:
    """Name of each filter in use and the `[row]` mask of what it keeps."""
    if config.domains is not None:
        yield "domain", np.isin(pool.domain.codes, _codes("domain", pool.domain.names, config.domains))
    if config.not_domains:
        denied = [code for code, name in enumerate(pool.domain.names) if name in config.not_domains]
        yield "domain", ~np.isin(pool.domain.codes, denied)
    if config.labels is not None:
        yield "label", np.isin(pool.label.codes, _codes("label", pool.label.names, config.labels))
    for column, values in config.attrs.items():
        if column not in pool.records.column_names:
            raise unknown("column of the records", column, pool.records.column_names)
        texts = pc.cast(pool.records.column(column), pa.string())
        found = pc.is_in(texts, value_set=pa.array(values, pa.string()))
        yield column, found.combine_chunks().to_numpy(zero_copy_only=False)


def _codes(kind: str, names: list[str], wanted: Iterable[str]) -> list[int]:
    for value in wanted:
        if value not in names:
            raise InvalidInput(f"filter: {unknown(f'{kind} of the pool', value, names)}")
    return [names.index(value) for value in wanted]
