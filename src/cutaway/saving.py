"""Results as files: labelled arrays as Zarr and as plain JSON, whole or not at all, and never over something else.

A result folder holds `result.zarr` (the arrays), `result.json` (the same numbers and all that was said about them) and
whatever pages go with it. It is written beside its place and moved there in one step, so that it is never half there.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .disk import UNDONE, cannot_write, read_json, replace_file, sync_folder, umask
from .errors import BadInput
from .stored_arrays import check_arrays, require_small

if TYPE_CHECKING:
    import xarray as xr

SCHEMA_VERSION = 1
"""Of every JSON document. It rises when a key changes its meaning or goes away, not when one is added."""


def document(kind: str, **parts: Any) -> dict[str, Any]:
    """A JSON document that says what it is: `kind` is a command's or a study's name."""
    from . import __version__

    return {"schema_version": SCHEMA_VERSION, "kind": kind, "cutaway": __version__, **plain(parts)}


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: labelled arrays with dims, coords and data; NaN and infinity as null."""
    import numpy as np
    import xarray as xr

    if isinstance(value, xr.DataArray | xr.Dataset):
        return plain(_as_dataset(value).to_dict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def to_json(value: Any) -> str:
    """JSON text in ASCII, so that no character of a token can upset a terminal."""
    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"


def write_file(path: Path, data: str | bytes, force: bool = False) -> None:
    """Write a file whole or not at all.

    Raises:
        BadInput: something is there and `force` is not given, or the folder cannot be written to.
        NoRoom: the disk is full.
    """
    check_free(path, force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data if isinstance(data, bytes) else data.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise cannot_write(path, error) from None


def check_free(path: Path, force: bool = False) -> None:
    """Pass if a file may be written there.

    Raises:
        BadInput: it is a folder, or it exists and `force` is not given.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder. Name a file in it.")
    if path.exists() and not force:
        raise BadInput(f"{path} exists. Choose another name, or overwrite it with --force.")


def check_folder_free(folder: Path, force: bool = False) -> None:
    """Pass if a result folder may be written there. `force` replaces an older result and nothing else.

    Raises:
        BadInput: something is there that may not be replaced.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file. Name a folder for the result.")
    if any(folder.iterdir()):
        if not (folder / "result.json").is_file():
            raise BadInput(f"{folder} is a folder with other things in it. Name a new or an empty one for the result.")
        if not force:
            raise BadInput(f"{folder} holds a result already. Choose another folder, or overwrite it with --force.")


@contextmanager
def new_folder(folder: Path, force: bool = False) -> Iterator[Path]:
    """A folder to write into, which takes its place when the block ends well and vanishes when it does not.

    Raises:
        BadInput: something is there already (see `check_folder_free`), or the place cannot be written to.
        NoRoom: the disk is full.
    """
    check_folder_free(folder, force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=UNDONE, dir=folder.parent))
        os.chmod(partial, 0o777 & ~umask())
        try:
            yield partial
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(partial, folder)
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise cannot_write(folder, error) from None


def save_result(
    folder: Path,
    arrays: Mapping[str, xr.Dataset | xr.DataArray],
    facts: Mapping[str, Any],
    files: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write a result folder: the arrays as one Zarr group each, `facts` (a `document`) as JSON, and further files.

    Raises:
        BadInput: something is there already (see `check_folder_free`), the place cannot be written to, or the document
            does not say of what kind the result is.
        NoRoom: the disk is full.
    """
    if not isinstance(facts.get("kind"), str):
        raise BadInput("The document of a result says of what kind it is: make it by `saving.document(kind, ...)`.")
    with new_folder(folder, force) as partial:
        _write_arrays(partial / "result.zarr", arrays)
        write_file(partial / "result.json", to_json(facts))
        for name, text in (files or {}).items():
            write_file(partial / name, text)


def open_result(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a result folder by name, each the Dataset or DataArray that was saved, and its JSON document.

    Raises:
        BadInput: it is no result folder, or one of a later version.
    """
    import xarray as xr

    from . import accessor as accessor  # results can show themselves

    folder = Path(folder)
    facts = _read_facts(folder)
    if not (folder / "result.zarr").is_dir():
        raise BadInput(f"{folder} has no arrays: there is no result.zarr in it.")
    check_arrays(folder / "result.zarr")
    try:
        with xr.open_datatree(folder / "result.zarr", engine="zarr", consolidated=False, zarr_format=3) as tree:
            return {name: _restored(node.to_dataset().load(), folder) for name, node in tree.children.items()}, facts
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - what other people's code makes of damaged files
        why = " ".join(str(error).split())[:200]
        raise BadInput(
            f"The arrays of {folder} cannot be read ({type(error).__name__}: {why}). Make it again."
        ) from None


@contextmanager
def reading(path: Path, again: str = "Make the result again.") -> Iterator[None]:
    """What is done with something saved inside; if it is not what it says it is, that is one message.

    Raises:
        BadInput: something is missing in it, or of another kind.
    """
    try:
        yield
    except BadInput:
        raise
    except (
        LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError, RecursionError
    ) as error:  # fmt: skip
        why = " ".join(str(error).split())[:200]
        raise BadInput(f"{path} is damaged: {type(error).__name__}: {why}. {again}") from error


def result_kind(folder: str | Path) -> str:
    """What a result folder holds, such as `study ioi` or `patch`.

    Raises:
        BadInput: it is no result folder, or one of another version.
    """
    return str(_read_facts(Path(folder))["kind"])


def _read_facts(folder: Path) -> dict[str, Any]:
    if not (folder / "result.json").is_file():
        raise BadInput(f"{folder} is no result folder: it has no result.json.")
    facts = read_json(folder / "result.json", 2**32)
    version = facts.get("schema_version")
    if not isinstance(facts.get("kind"), str):
        raise BadInput(f"{folder / 'result.json'} does not say what kind of result it is. Make the result again.")
    if version != SCHEMA_VERSION:
        raise BadInput(f"{folder} has schema version {version}; this is version {SCHEMA_VERSION}.")
    return facts


def _write_arrays(path: Path, arrays: Mapping[str, xr.Dataset | xr.DataArray]) -> None:
    import xarray as xr

    tree = {f"/{name}": _marked(_free_strings(_as_dataset(array)), array) for name, array in arrays.items()}
    xr.DataTree.from_dict(tree).to_zarr(path, mode="w-", consolidated=False)


_ONE = "saved_from"  # attribute of a group that was one array: the array's name


def _marked(dataset: xr.Dataset, array: xr.Dataset | xr.DataArray) -> xr.Dataset:
    import xarray as xr

    return dataset.assign_attrs({_ONE: str(array.name or "")}) if isinstance(array, xr.DataArray) else dataset


def _restored(dataset: xr.Dataset, folder: Path) -> xr.Dataset | xr.DataArray:
    """As it was before saving: one array where it was one, text as text, coordinates in the order of their names."""
    words = [name for name, v in dataset.variables.items() if v.dtype.kind in "OT"]
    text = {name: dataset.variables[name].copy(data=_fixed(dataset.variables[name].values, folder)) for name in words}
    dataset = dataset.assign({k: v for k, v in text.items() if k in dataset.data_vars}).assign_coords(
        {k: v for k, v in text.items() if k in dataset.coords}
    )
    if _ONE not in dataset.attrs:
        return dataset
    name = dataset.attrs[_ONE]
    array = dataset[name or "value"].rename(name or None)
    return array.assign_attrs({k: v for k, v in dataset.attrs.items() if k != _ONE})


def _fixed(text: Any, folder: Path) -> Any:
    """Text as numpy keeps it, each as wide as the longest, from whatever Zarr keeps it as."""
    import numpy as np

    text = np.asarray(text, dtype=object)
    require_small(folder, 4 * text.size * max((len(str(t)) for t in text.flat), default=0))
    return text.astype(str)


def _as_dataset(array: xr.Dataset | xr.DataArray) -> xr.Dataset:
    import xarray as xr

    if isinstance(array, xr.Dataset):
        return array
    return array.to_dataset(name=array.name or "value", promote_attrs=True)


def _free_strings(dataset: xr.Dataset) -> xr.Dataset:
    """Text of any length: Zarr 3 has no settled form for fixed-length text. Attributes as JSON can hold them."""
    text = {name: v.astype(object) for name, v in dataset.variables.items() if v.dtype.kind == "U"}
    return dataset.assign({k: v for k, v in text.items() if k in dataset.data_vars}).assign_coords(
        {k: v for k, v in text.items() if k in dataset.coords}
    ).assign_attrs(plain(dataset.attrs))  # fmt: skip
