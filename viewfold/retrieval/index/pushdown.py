"""Which rows a FAISS search may see, told to FAISS itself: an IDSelector in the parameters of each index type."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW = 4096
_FEW_SHARE = 0.05


def search_parameters(faiss: Any, index: Any, allowed: NDArray[np.bool_] | None) -> Any:
    """Parameters of `index.search` that hide the rows outside of the `[row]` mask and change nothing else.

    None of no mask, and where `takes_selectors` says no.
    """
    if allowed is None or not takes_selectors(faiss, index):
        return None
    return _parameters(faiss, index, faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little")))


def takes_selectors(faiss: Any, index: Any) -> bool:
    """Whether this type of index, with all that it wraps, searches under an IDSelector; flat PQ codes, additive
    quantizers and spectral hashes do not."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return takes_selectors(faiss, index.index)
    if isinstance(index, faiss.IndexRefine):
        return takes_selectors(faiss, index.base_index)
    if isinstance(index, _refusing(faiss)):
        return False
    return isinstance(index, (faiss.IndexFlat, faiss.IndexHNSW, faiss.IndexIVF, faiss.IndexScalarQuantizer))


def better_exact(allowed: NDArray[np.bool_]) -> bool:
    """Whether so few rows are allowed that looking at each is quicker than a graph that finds few of them on its way,
    and misses none."""
    return int(np.count_nonzero(allowed)) <= max(_FEW, _FEW_SHARE * len(allowed))


def _refusing(faiss: Any) -> tuple[type, ...]:
    """Inverted lists that raise when they are given a selector."""
    return (faiss.IndexIVFAdditiveQuantizer, faiss.IndexIVFAdditiveQuantizerFastScan, faiss.IndexIVFSpectralHash)


def _parameters(faiss: Any, index: Any, selector: Any) -> Any:
    # Parameters that are given replace the index's own ones, so those are handed on.
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_parameters(faiss, index.index, selector))
    if isinstance(index, faiss.IndexRefine):
        inner = _parameters(faiss, index.base_index, selector)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
    return faiss.SearchParameters(sel=selector)
