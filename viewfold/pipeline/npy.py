"""Arrays in `.npy` files that others wrote: checked before use, and nothing in them is unpickled."""

from pathlib import Path
from typing import Any, Literal

from numpy.lib import format as npy_format
from numpy.typing import NDArray

from viewfold.errors import InvalidInput

_KINDS = {"U": "text", "f": "floating point numbers", "i": "integers"}


def read_npy(
    path: Path, *, kind: Literal["U", "f", "i"], shape: tuple[int | None, ...], mapped: bool = False
) -> NDArray[Any]:
    """The array in `path`, of numpy's dtype `kind`; None in `shape` is any length of 1 and more.

    With `mapped` it stays on the disk and is read where it is looked at.

    Raises:
        InvalidInput: no such file, not a whole `.npy` file, or an array of another kind or shape.
    """
    try:
        array = _mapped(path) if mapped else _read(path)
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except ValueError:
        raise InvalidInput(f"{path}: not a whole .npy file of numbers or text") from None
    fits = len(shape) == array.ndim and all(
        has == asked if asked is not None else has > 0 for has, asked in zip(array.shape, shape, strict=True)
    )
    if array.dtype.kind != kind or not fits:
        expected = f"{_KINDS[kind]} of shape {_shown(shape)}"
        raise InvalidInput(f"{path}: holds {array.dtype} of shape {_shown(array.shape)}, expected {expected}")
    return array


def _read(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        array: NDArray[Any] = npy_format.read_array(file, allow_pickle=False)
    return array


def _mapped(path: Path) -> NDArray[Any]:
    return npy_format.open_memmap(path, mode="r")  # refuses arrays of Python objects, the only pickled ones


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if length is None else str(length) for length in shape)}]"
