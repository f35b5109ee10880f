"""A model as a folder that can be shared: its weights as safetensors, all else as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from . import __version__
from .config import STATE_DTYPES, DNCConfig
from .files import CHECKPOINT, CheckpointError, write_whole
from .options import read_options

__all__ = ["CheckpointError", "read_metadata"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = "dnc_fast model"
VERSION = 1
"""Of the format; a new version reads the old ones."""

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in STATE_DTYPES}
OPTIONS = tuple(one.name for one in fields(DNCConfig))


BUNDLED = Path(__file__).parent / "bundled"
"""The models that come with dnc_fast, a folder each."""


class Pretrained(NamedTuple):
    """What a folder holds.

    | field   | what                                                        |
    |---------|-------------------------------------------------------------|
    | config  | the model's options                                         |
    | dtype   | of the model when it was saved; its weights may be narrower |
    | weights | the model's state dict, on the CPU                          |
    """

    config: DNCConfig
    dtype: torch.dtype
    weights: dict[str, Tensor]


def bundled() -> dict[str, Path]:
    """The folders of the models that come with dnc_fast, by their names."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED.glob(f"*/{CONFIG}"))}


def is_pretrained(folder: Path | str) -> bool:
    """Whether a folder holds a saved model, and no run."""
    return (Path(folder) / CONFIG).is_file() and not (Path(folder) / CHECKPOINT).exists()


def located(folder: Path | str) -> Path:
    """The folder, or that of a model that comes with dnc_fast if this is its name."""
    if is_pretrained(folder) or str(folder) not in bundled():
        return Path(folder)
    return bundled()[str(folder)]


def write_pretrained(
    folder: Path | str,
    config: DNCConfig,
    weights: Mapping[str, Any],
    dtype: torch.dtype,
    saved_dtype: torch.dtype | None,
    metadata: Mapping[str, Any] | None,
) -> None:
    """See `DNC.save_pretrained`.

    Args:
        folder, metadata: its arguments.
        config, weights, dtype: the model's options, its state dict and its dtype.
        saved_dtype: of the weights in the file; None for the model's own.
    """
    saved = _safetensors().save(_narrowed(weights, saved_dtype), {"format": "pt"})
    content = {
        "format": FORMAT,
        "version": VERSION,
        "dnc_fast": __version__,
        "dtype": _name(dtype),
        "options": {name: _as_json(getattr(config, name)) for name in OPTIONS},
        "weights_sha256": hashlib.sha256(saved).hexdigest(),
        "metadata": {} if metadata is None else metadata,
    }
    if not isinstance(content["metadata"], Mapping):
        raise TypeError(f"metadata must be a dict, got {type(metadata).__name__}")
    try:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata must hold only values that JSON can hold; {error}") from error
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} must be a folder to save a model in, got a file")
    folder.mkdir(parents=True, exist_ok=True)
    # The weights first: without the config, or with an older one, the folder is refused.
    write_whole(
        {
            folder / WEIGHTS: partial(_write, saved),
            folder / CONFIG: partial(_write, text.encode()),
        }
    )


def read_pretrained(folder: Path | str, changes: dict[str, Any]) -> Pretrained:
    """What `DNC.from_pretrained` builds a model from, with some options changed."""
    folder = located(folder)
    content = _read_config(folder)
    path = folder / CONFIG
    options, dtype = content.get("options"), DTYPES.get(str(content.get("dtype")))
    if not isinstance(options, dict) or dtype is None:
        raise CheckpointError(
            f'{path} must have "options" and a "dtype" out of {tuple(DTYPES)}, got '
            f"{type(options).__name__} and {content.get('dtype')!r}; save the model again"
        )
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise CheckpointError(
            f"{path} has options that dnc_fast {__version__} does not know, {unknown}; it was "
            f"saved by dnc_fast {content.get('dnc_fast')}, which can read it"
        )
    own = isinstance(options.get("controller"), dict)
    if own and "controller" not in changes:
        raise ValueError(
            f"the model in {folder} has a controller of its own, {options['controller']['class']}; "
            "pass it: from_pretrained(folder, controller=...)"
        )
    options = {
        name: DTYPES.get(str(value), value) if name.endswith("_dtype") else value
        for name, value in options.items()
    }
    if own:
        options["controller"] = changes["controller"]
    try:
        DNCConfig(**options)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold the options of a DNC ({error})") from error
    config = read_options(DNCConfig, given={**options, **changes})
    return Pretrained(config, dtype, _read_weights(folder, content))


def fill(model: nn.Module, weights: Mapping[str, Tensor], folder: Path | str) -> None:
    """Copy the weights of a folder into a model.

    Raises:
        CheckpointError: they are not the model's, by name, shape or kind of number.
    """
    state = model.state_dict()
    wrong = [f"it lacks {name}" for name in state.keys() - weights.keys()]
    wrong += [
        f"it has {name}, which the model does not have" for name in weights.keys() - state.keys()
    ]
    for name in state.keys() & weights.keys():
        own, found = state[name], weights[name]
        if own.shape != found.shape:
            shapes = tuple(own.shape), tuple(found.shape)
            wrong.append("{} must have shape {}, got {}".format(name, *shapes))
        elif own.is_floating_point() != found.is_floating_point():
            wrong.append(f"{name} must be {own.dtype}, got {found.dtype}")
    if wrong:
        raise CheckpointError(
            f"{Path(folder) / WEIGHTS} does not fit the model: {'; '.join(sorted(wrong))}. Change "
            "only options that no parameter depends on, such as num_cells, linkage and backend"
        )
    model.load_state_dict(weights)


def read_metadata(folder: Path | str) -> dict[str, Any]:
    """The metadata that a model was saved with.

    Raises:
        FileNotFoundError, CheckpointError: there is no model that can be read.
    """
    return _read_config(located(folder)).get("metadata", {})


def _read_config(folder: Path | str) -> dict[str, Any]:
    path = Path(folder) / CONFIG
    try:
        content = json.loads(_read(path))
    except ValueError as error:  # of the text, or of its encoding
        raise CheckpointError(f"{path} is not JSON, or truncated ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f'{path} is not of a dnc_fast model, which has "format": "{FORMAT}"; another library '
            "wrote it"
        )
    version = content.get("version")
    if version != VERSION:
        raise CheckpointError(
            f"{path} has version {version!r} of the format, dnc_fast {__version__} reads version "
            f"{VERSION}; it was saved by dnc_fast {content.get('dnc_fast')}, which can read it"
        )
    return content


def _read_weights(folder: Path | str, content: dict[str, Any]) -> dict[str, Tensor]:
    path = Path(folder) / WEIGHTS
    saved = _read(path)
    if hashlib.sha256(saved).hexdigest() != content.get("weights_sha256"):
        raise CheckpointError(
            f"{path} is not the file that {CONFIG} was saved with (their weights_sha256 differ): "
            "it is truncated, was changed since, or saving was interrupted; save the model again"
        )
    return _safetensors().load(saved)


def _read(path: Path) -> bytes:
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {path.parent}; from_pretrained needs a folder on this machine "
            "that save_pretrained has written, or the name of a model that comes with dnc_fast: "
            f"{', '.join(bundled())}"
        )
    if not path.is_file():
        remedy = "save the model again"
        if (path.parent / CHECKPOINT).exists():
            remedy = "it holds a run, which dnc_fast.load_run loads, and `dnc-fast share` shares"
        raise FileNotFoundError(f"there is no {path.name} in {path.parent}; {remedy}")
    return path.read_bytes()


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _narrowed(weights: Mapping[str, Any], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Copies on the CPU, those of floating-point weights in the given dtype."""
    if dtype is not None and dtype not in STATE_DTYPES:
        raise ValueError(f"dtype must be None or one of {STATE_DTYPES}, got {dtype!r}")
    found = {}
    for name, weight in weights.items():
        if not isinstance(weight, Tensor):
            raise TypeError(
                f"{name} must be a tensor to be saved, got {type(weight).__name__}; save a "
                "quantized model before it is quantized"
            )
        kind = dtype if weight.is_floating_point() else None
        found[name] = weight.detach().to("cpu", kind, copy=True).contiguous()
        if not found[name].isfinite().all() and weight.isfinite().all():
            raise ValueError(
                f"dtype={dtype} cannot hold {name}, whose largest number is "
                f"{weight.abs().max():g}; leave it out, or give torch.bfloat16"
            )
    return found


def _as_json(value: Any) -> Any:
    """An option as JSON has it; of a controller of one's own the class, for people."""
    if isinstance(value, torch.dtype):
        return _name(value)
    if callable(value):
        kind = type(value) if isinstance(value, nn.Module) else value
        return {"class": getattr(kind, "__qualname__", repr(kind))}
    return value


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _safetensors() -> Any:
    """The package's functions for torch."""
    try:
        from safetensors import torch as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"pretrained models need safetensors, which cannot be imported ({error}); "
            "`pip install safetensors` installs it"
        ) from error
    return package
