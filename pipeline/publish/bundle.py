"""Write and read a bundle: a folder with `kernel.safetensors` and `manifest.json`, or neither.

A kernel that reads fresh statistics has their state beside it, `statistics.safetensors`.

The manifest has the SHA-256 of the weights and of itself, and must have exactly the bytes that were
written. Any changed byte in either file is refused. (That guards against accidents. Against someone
who can rewrite both files, guard the folder.) Nothing is ever unpickled. An index names all bundles
of a night (bundle_index.py).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from iak.pipeline.errors import BadRequest, Corrupt, WrongBase
from iak.pipeline.files import link_or_copy, not_permitted, putting_folder, write_hidden
from iak.pipeline.formats import current_document
from iak.pipeline.fresh.state import STATISTICS
from iak.pipeline.sealed import check_seal, parsed, seal, spelled
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.manifest import (
    BUNDLE_FORMAT,
    BundleManifest,
    BundleSettings,
    BundlesIndex,
    StatisticsEntry,
)
from iak.schemas.verdict import Verdict

WEIGHTS = "kernel.safetensors"
MANIFEST = "manifest.json"
POOLED = "pooled"
"""Name of the bundle of the pooled kernel. A domain's name has a `=`, so that none is equal."""

MAX_NAME = 160
"""Longest folder name in characters; longer ones end in a hash. File systems allow 255 bytes."""

_SEAL = "manifest_sha256"
_NOT_SEALED = "0" * 64
"""Stands for the manifest's own hash until the rest of it is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle that was read and verified; tensors are on the CPU."""

    manifest: BundleManifest
    tensors: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticsFile:
    """The state of fresh statistics that a night's bundles share."""

    path: Path
    entry: StatisticsEntry


# ---------------------------------------------------------------- names


def bundle_name(domain: Mapping[str, str] | None) -> str:
    """Return the folder name of a domain's bundle: `region=a`, `region=a,daypart=b`, or `pooled`.

    Args:
        domain: value of each key, outermost first; None for the pooled kernel.

    Returns:
        A name of at most `MAX_NAME` characters from `a-z 0-9 _ - = , % ~`. Different domains
        have different names, also where the file system folds case or Unicode; no name is
        hidden, empty or leaves its folder. Keys in another order are another domain.
    """
    if domain is None:
        return POOLED
    if not domain:
        raise ValueError("a domain needs at least one key; the pooled kernel's domain is None")
    name = ",".join(f"{_escape(key)}={_escape(value)}" for key, value in domain.items())
    if len(name) <= MAX_NAME:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{name[: MAX_NAME - 33]}~{mark}"


def _escape(text: str) -> str:
    """Return `text` in lower-case ASCII: every byte but `a-z 0-9 _ -` becomes %xx."""
    # `surrogatepass`: a lone surrogate is not UTF-8, and still needs a name of its own.
    data = text.encode("utf-8", "surrogatepass")
    return "".join(chr(b) if re.match(rb"[a-z0-9_-]", bytes([b])) else f"%{b:02x}" for b in data)


def list_bundles(root: Path) -> list[Path]:
    """Return the folders of `root` that have a bundle, by name; half-written ones are hidden."""
    if not root.is_dir():
        return []
    visible = (path for path in root.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if (path / MANIFEST).is_file())


# ---------------------------------------------------------------- writing


def write_bundle(
    root: Path,
    tensors: Mapping[str, Tensor],
    *,
    domain: Mapping[str, str] | None,
    base_fingerprint: str,
    schema_hash: str,
    data_window: DataWindow,
    spec: BundleSettings,
    verdict: Verdict,
    versions: Mapping[str, str],
    created_at: datetime,
    statistics: StatisticsFile | None = None,
) -> Path:
    """Write one bundle below `root`, replacing the one of the same domain.

    Args:
        root: folder of bundles; created when missing.
        tensors: the kernel's weights and adapters, by name.
        domain: value of each key, outermost first; None for the pooled kernel.
        base_fingerprint: the base it was tuned on.
        schema_hash: digest of the inputs that it was tuned on.
        data_window: the rows it was tuned and judged on.
        spec: settings of the kernel and its tuning.
        verdict: verdict of the gate.
        versions: versions of the libraries, by name.
        created_at: time of writing, with its time zone.
        statistics: the fresh statistics that the kernel reads; None for none.

    Returns:
        The bundle's folder. It has the old bundle until the new one is whole.
    """
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    weights = safetensors_torch.save(own)
    name = bundle_name(domain)
    unsealed = BundleManifest(
        name=name,
        level=list(domain or {}),
        domain=dict(domain or {}),
        base_fingerprint=base_fingerprint,
        schema_hash=schema_hash,
        data_window=data_window,
        spec=spec.model_dump(mode="json"),
        verdict=verdict,
        versions=dict(versions),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        weights_digest=weights_digest(own),
        shapes={name: list(tensor.shape) for name, tensor in own.items()},
        statistics=statistics.entry if statistics else None,
        created_at=created_at,
        manifest_sha256=_NOT_SEALED,
    )
    sealed = seal(unsealed.model_dump(mode="json"), by=_SEAL)
    state = statistics.path if statistics else None
    return _publish(root, name, weights=weights, manifest=spelled(sealed), statistics=state)


def _publish(
    root: Path, name: str, *, weights: bytes, manifest: bytes, statistics: Path | None
) -> Path:
    """Write all files into a hidden folder, make them durable, and swap it in as `name`."""
    with putting_folder(root / name) as fresh:
        write_hidden(fresh / WEIGHTS, weights)
        if statistics is not None:
            # All bundles of a night share the bytes of one file.
            link_or_copy(statistics, fresh / STATISTICS)
        write_hidden(fresh / MANIFEST, manifest)
    return root / name


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over every tensor's name, type, shape and bits, in order of name."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name!r} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


# ---------------------------------------------------------------- reading


def read_bundle(folder: Path, *, base_fingerprint: str, schema_hash: str) -> Bundle:
    """Read a bundle and verify every byte of it.

    Args:
        folder: folder that `write_bundle` returned.
        base_fingerprint: the base it is to run on.
        schema_hash: digest of the inputs that it will read.

    Raises:
        BadRequest: if there is no bundle, or it is of a kind or format this code does not read.
        Corrupt: if any byte differs from what was written.
        WrongBase: if it was tuned on another base or other inputs.
    """
    manifest = read_manifest(folder)
    check_base(folder, manifest, base_fingerprint=base_fingerprint, schema_hash=schema_hash)
    return Bundle(manifest=manifest, tensors=_read_weights(folder, manifest))


def read_manifest(folder: Path) -> BundleManifest:
    """Return a bundle's manifest, after a check that its bytes were not changed.

    Raises:
        BadRequest: there is none, or it is of a kind or format this code does not read.
        Corrupt: a byte differs, or it is of another domain than the folder's.
        NotPermitted: this user may not read it.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except OSError as error:
        raise BadRequest(
            f"{path.parent} holds no bundle that can be read: {error.strerror} ({path.name}). "
            "Check the path, or publish the domain first"
        ) from error
    try:
        doc = parsed(data)
    except ValueError as error:
        raise _corrupt(path, str(error)) from error
    if doc.get("kind") != "iak-bundle":
        raise BadRequest(
            f"{path} has kind {doc.get('kind')!r}; expected 'iak-bundle'. Give the bundles/ folder "
            "of an `iak finetune` run"
        )
    current = current_document(
        doc,
        kind="bundle manifest",
        current=BUNDLE_FORMAT,
        where=path,
        remedy="Tune the domain again with `iak finetune`",
    )
    try:
        check_seal(doc, data, by=_SEAL)
    except ValueError as error:
        raise _corrupt(path, str(error)) from error
    try:
        manifest = BundleManifest.model_validate(current)
    except ValidationError as error:
        raise _corrupt(path, f"its fields do not validate: {error}") from error
    _check_name(folder, manifest)
    return manifest


def _check_name(folder: Path, manifest: BundleManifest) -> None:
    """Refuse a bundle in the folder of another domain."""
    name = bundle_name({key: manifest.domain[key] for key in manifest.level} or None)
    if not name == manifest.name == folder.absolute().name:
        raise _corrupt(
            folder / MANIFEST,
            f"it is the manifest of domain {name}, in a folder named {folder.absolute().name}",
        )


def check_base(
    folder: Path,
    manifest: BundleManifest | BundlesIndex,
    *,
    base_fingerprint: str,
    schema_hash: str,
) -> None:
    """Refuse a bundle, or a night's bundles, of another base or of other inputs.

    Raises:
        WrongBase: they differ; the message names both.
    """
    if manifest.base_fingerprint != base_fingerprint:
        raise WrongBase(
            f"{folder} was tuned on base {manifest.base_fingerprint}, "
            f"but the base here is {base_fingerprint}. "
            "Load the base it names, or tune the domain again on this one"
        )
    if manifest.schema_hash != schema_hash:
        raise WrongBase(
            f"{folder} reads inputs of schema {manifest.schema_hash}, "
            f"but the inputs here have schema {schema_hash}. "
            "Use the catalogue it was tuned with, or tune the domain again"
        )


def verified_weights(folder: Path, sha256: str) -> bytes:
    """Return the bytes of a bundle's weights.

    Args:
        folder: the bundle's folder.
        sha256: digest of the weights, of its manifest or of the index.

    Raises:
        Corrupt: they cannot be read, or have another digest.
        NotPermitted: this user may not read them.
    """
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except OSError as error:
        raise _corrupt(path, f"it cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise _corrupt(path, f"it has SHA-256 {digest}, the manifest says {sha256}")
    return data


def _read_weights(folder: Path, manifest: BundleManifest) -> dict[str, Tensor]:
    """Return the tensors, after a check that the file is the one that the manifest names."""
    path, data = folder / WEIGHTS, verified_weights(folder, manifest.weights_sha256)
    try:
        tensors = safetensors_torch.load(data)
    except SafetensorError as error:
        raise _corrupt(path, f"it is not a safetensors file: {error}") from error
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if shapes != manifest.shapes:
        raise _corrupt(path, f"it holds {shapes}, the manifest says {manifest.shapes}")
    return tensors


def _corrupt(path: Path, what: str) -> Corrupt:
    return Corrupt(
        f"{path} is not what was published: {what}. "
        "Publish the domain again, or restore the folder from a copy"
    )
