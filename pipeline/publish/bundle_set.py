"""Choose the bundle that serves a row: its domain's, its nearest ancestor's, or none (the base).

Shapes: K slots, B rows, A encoder inputs, X embedding units, N principal components of x, S fresh
statistics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from iak.pipeline.activations.standardizer import Standardizer
from iak.pipeline.activations.statistics import StatisticsStandard
from iak.pipeline.errors import BadRequest
from iak.pipeline.files import sha256_of_file
from iak.pipeline.fresh.inputs import statistics_of
from iak.pipeline.fresh.state import STATISTICS, State, definition_of, read_state
from iak.pipeline.iak.kernel import PROBE
from iak.pipeline.publish.bundle import MANIFEST, Bundle, read_bundle
from iak.pipeline.publish.bundle_index import check_index, find_bundles
from iak.pipeline.publish.publish_bundles import STANDARD
from iak.pipeline.tuning.work import Live
from iak.schemas.domain import Domain
from iak.schemas.log import Catalog
from iak.schemas.manifest import BundleManifest
from iak.schemas.verdict import Verdict

BASE_SLOT = -1
"""Slot of a row that no bundle serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSet:
    """Bundles of one base as stacked tensors, each in a slot."""

    names: tuple[str, ...]
    """The domain in each slot."""
    manifests: tuple[BundleManifest, ...]
    """The manifest of each bundle."""
    versions: tuple[str, ...]
    """SHA-256 of each one's `manifest.json`."""
    weights: dict[str, Tensor]
    """Weights of all kernels by name, with a first dimension of K."""
    mean_KA: Tensor
    """The standardisation that each kernel was tuned with, as in `Standardizer`."""
    scale_KA: Tensor
    narrow_KXN: Tensor | None
    reads_x: bool
    shared: Standardizer | None = None
    """The standardisation of all kernels, where they have the same one, as of one night."""
    states: tuple[State, ...] = ()
    """Fresh statistics that the kernels read; several where bundles of several nights serve."""
    state_K: tuple[int, ...] = ()
    """Index of each kernel's state."""
    fresh_mean_KS: Tensor | None = None
    """The standardisation of each kernel's statistics; None where kernels read none."""
    fresh_scale_KS: Tensor | None = None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Return the gate's verdict on each bundle."""
        return tuple(manifest.verdict for manifest in self.manifests)

    @property
    def created_at(self) -> tuple[datetime, ...]:
        """Return when each bundle was written."""
        return tuple(manifest.created_at for manifest in self.manifests)

    def to(self, device: torch.device) -> "BundleSet":
        """Return the same bundles on a device."""
        return replace(
            self,
            weights={name: stacked.to(device) for name, stacked in self.weights.items()},
            mean_KA=self.mean_KA.to(device),
            scale_KA=self.scale_KA.to(device),
            narrow_KXN=None if self.narrow_KXN is None else self.narrow_KXN.to(device),
            shared=None if self.shared is None else self.shared.to(device),
            fresh_mean_KS=None if self.fresh_mean_KS is None else self.fresh_mean_KS.to(device),
            fresh_scale_KS=None if self.fresh_scale_KS is None else self.fresh_scale_KS.to(device),
        )

    def slot_for(self, path: Sequence[str], *, published_only: bool) -> int:
        """Return the slot that serves a domain.

        Args:
            path: names from the pooled level down to the domain's own.
            published_only: leave out bundles that the gate held.

        Returns:
            The slot of the most specific bundle there is; `BASE_SLOT` when there is none.
        """
        for name in reversed(path):
            if name in self.names:
                slot = self.names.index(name)
                if self.manifests[slot].verdict.publish or not published_only:
                    return slot
        return BASE_SLOT

    def standard(self, slot: int) -> Standardizer:
        """Return the standardisation of a slot's kernel."""
        return Standardizer(
            mean_A=self.mean_KA[slot],
            scale_A=self.scale_KA[slot],
            reads_x=self.reads_x,
            narrow_XN=None if self.narrow_KXN is None else self.narrow_KXN[slot],
        )

    def bundle_tensors(self, slot: int) -> dict[str, Tensor]:
        """Return a slot's tensors on the CPU, under the names that its bundle stores them by."""
        standard = self.shared if self.shared is not None else self.standard(slot)
        tensors = {name: w[slot].cpu() for name, w in self.weights.items() if name not in PROBE}
        tensors |= {f"{STANDARD}{name}": tensor for name, tensor in standard.tensors().items()}
        for name, stacked in (("mean", self.fresh_mean_KS), ("scale", self.fresh_scale_KS)):
            if stacked is not None:
                tensors[f"{STANDARD}fresh_{name}"] = stacked[slot].cpu()
        return tensors

    @property
    def states_by_id(self) -> dict[str, State]:
        """Return the states by the id that manifests name them by."""
        read = [m.statistics.state for m in self.manifests if m.statistics]
        return {id: self.states[index] for id, index in zip(read, self.state_K, strict=True)}

    def bundle(self, slot: int) -> "_Versioned":
        """Return a slot's bundle as it was read, and its version."""
        bundle = Bundle(manifest=self.manifests[slot], tensors=self.bundle_tensors(slot))
        return _Versioned(bundle, self.versions[slot])

    def statistics_standard(self, slot: int) -> StatisticsStandard | None:
        """Return how a slot's kernel reads fresh statistics; None where it reads none."""
        if self.fresh_mean_KS is None or self.fresh_scale_KS is None:
            return None
        return StatisticsStandard(
            mean_S=self.fresh_mean_KS[slot],
            scale_S=self.fresh_scale_KS[slot],
            definition=self.states[self.state_K[slot]].definition,
        )

    def statistics(self, rows: pa.Table, catalog: Catalog, slots_B: Tensor) -> Tensor | None:
        """Return each row's statistics by the state of its slot's kernel; None without any.

        Args:
            rows: encoded rows, with their keys.
            catalog: the log's catalogue.
            slots_B: slot of each row, `BASE_SLOT` for none and for what fills the batch up.
        """
        if self.fresh_mean_KS is None:
            return None
        catalog = catalog.counting("kernel")
        s_BS = torch.zeros(len(slots_B), self.fresh_mean_KS.shape[1])
        # A row without a kernel has the last entry, which is no state.
        state_B = torch.tensor([*self.state_K, -1])[slots_B.cpu()]
        for index, state in enumerate(self.states):
            own = torch.nonzero(state_B == index).squeeze(1)
            some = rows.take(pa.array(own.numpy()))
            s_BS[own] = torch.from_numpy(statistics_of(some, state, catalog))
        return s_BS.to(slots_B.device)


def read_bundle_set(
    root: Path,
    *,
    base_fingerprint: str,
    schema_hash: str,
    catalog: Catalog | None = None,
) -> BundleSet:
    """Read every bundle of a night, each of them verified.

    Args:
        root: folder of the bundles.
        base_fingerprint: the base that they must have been tuned on.
        schema_hash: digest of the inputs that they must read.
        catalog: catalogue of the rows that will be predicted, under whose definition statistics are
            read; None takes the definition that the bundles name.

    Raises:
        BadRequest: there is none, no index names them, they differ in shape, or they read
            statistics of another definition.
        WrongBase: they were tuned on another base.
        Corrupt: they are not those that the index names, a file is not what its manifest says, or
            the state of their statistics is missing.
    """
    wanted = {"base_fingerprint": base_fingerprint, "schema_hash": schema_hash}
    entries = check_index(root, **wanted).bundles
    bundles = [
        _Versioned(read_bundle(root / entry.folder, **wanted), entry.manifest_sha256)
        for entry in entries
    ]
    return _stacked_set(bundles, root, _states(bundles, root, catalog, known={}))


def moved_bundle_set(
    known: BundleSet,
    root: Path,
    folders: Sequence[str],
    *,
    base_fingerprint: str,
    schema_hash: str,
    catalog: Catalog,
) -> BundleSet:
    """Return bundles that were read before, with others in the place of some of them.

    The result is what `read_bundle_set` would read from a folder of all of them. Only the bundles
    in `root` are read.

    Args:
        known: the bundles that were read before.
        root: folder of the others, each of which is verified.
        folders: names of the folders of all bundles of the result. One that does not lie in `root`
            is taken from `known`.
        base_fingerprint: the base that the others must have been tuned on.
        schema_hash: digest of the inputs that they must read.
        catalog: the catalogue with which `known` was read.

    Raises:
        BadRequest, WrongBase, Corrupt: see `read_bundle_set`.
    """
    wanted = {"base_fingerprint": base_fingerprint, "schema_hash": schema_hash}
    slots = {manifest.name: slot for slot, manifest in enumerate(known.manifests)}
    bundles = []
    for name in sorted(folders):
        folder = root / name
        if folder.is_dir():
            version = sha256_of_file(folder / MANIFEST)
            bundles.append(_Versioned(read_bundle(folder, **wanted), version))
        else:
            bundles.append(known.bundle(slots[name]))
    return _stacked_set(bundles, root, _states(bundles, root, catalog, known=known.states_by_id))


class _Versioned(NamedTuple):
    """A bundle, and the SHA-256 of its `manifest.json`."""

    bundle: Bundle
    version: str


def _stacked_set(
    versioned: Sequence[_Versioned], root: Path, states: Mapping[str, State]
) -> BundleSet:
    """Return bundles as stacked tensors.

    Args:
        versioned: the bundles, in the order of their slots.
        root: folder for messages.
        states: the states that they read, by id.
    """
    bundles = [bundle for bundle, _ in versioned]
    _check_alike(bundles, root)
    names = [n for n in bundles[0].tensors if not n.startswith(STANDARD)]
    narrow = [b.tensors.get(f"{STANDARD}narrow") for b in bundles]
    reads_x = bundles[0].manifest.kernel.reads == "hx"
    ids = list(states)
    return BundleSet(
        names=tuple(_domain_of(b).name for b in bundles),
        manifests=tuple(b.manifest for b in bundles),
        versions=tuple(version for _, version in versioned),
        weights={n: torch.stack([b.tensors[n] for b in bundles]) for n in names}
        | _no_probe(bundles),
        mean_KA=_alike_or_stacked([b.tensors[f"{STANDARD}mean"] for b in bundles]),
        scale_KA=_alike_or_stacked([b.tensors[f"{STANDARD}scale"] for b in bundles]),
        narrow_KXN=_alike_or_stacked([n for n in narrow if n is not None])
        if narrow[0] is not None
        else None,
        reads_x=reads_x,
        shared=_shared(bundles, reads_x=reads_x),
        states=tuple(states.values()),
        state_K=tuple(
            ids.index(b.manifest.statistics.state) for b in bundles if b.manifest.statistics
        ),
        fresh_mean_KS=_stacked(bundles, "fresh_mean"),
        fresh_scale_KS=_stacked(bundles, "fresh_scale"),
    )


def _are_equal(tensors: Sequence[Tensor]) -> bool:
    """Return whether all tensors have the same values; one that occurs twice is compared once."""
    # Bundles that were read before are views of one tensor, 1.8 MB for each kernel of a wide base.
    distinct = {(t.data_ptr(), t.stride(), t.shape): t for t in tensors}
    return all(torch.equal(tensor, tensors[0]) for tensor in distinct.values())


def _alike_or_stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors as one, with a first dimension of K; equal ones share their memory."""
    if _are_equal(tensors):
        return tensors[0].expand(len(tensors), *tensors[0].shape)
    return torch.stack(list(tensors))


def _shared(bundles: Sequence[Bundle], *, reads_x: bool) -> Standardizer | None:
    """Return the standardisation that all bundles have; None where they differ."""
    names = [
        name for name in ("mean", "scale", "narrow") if f"{STANDARD}{name}" in bundles[0].tensors
    ]
    if not all(_are_equal([b.tensors[f"{STANDARD}{name}"] for b in bundles]) for name in names):
        return None
    first = {name: bundles[0].tensors[f"{STANDARD}{name}"] for name in names}
    return Standardizer.from_tensors(first, reads_x=reads_x)


def _states(
    versioned: Sequence[_Versioned],
    root: Path,
    catalog: Catalog | None,
    *,
    known: Mapping[str, State],
) -> dict[str, State]:
    """Return the states that bundles name, by id; each is read once, and a known one never."""
    by_id = dict(known)
    states: dict[str, State] = {}
    for bundle, _ in versioned:
        entry = bundle.manifest.statistics
        if entry is None or entry.state in states:
            continue
        if entry.state not in by_id:
            definition = definition_of(catalog.counting("kernel")) if catalog else entry.definition
            path = root / bundle.manifest.name / STATISTICS
            by_id[entry.state] = read_state(path, definition=definition, id=entry.state)
        states[entry.state] = by_id[entry.state]
    return states


def _stacked(bundles: Sequence[Bundle], name: str) -> Tensor | None:
    """Return a tensor of the standardisation of every bundle; None where they have none."""
    tensors = [b.tensors[f"{STANDARD}{name}"] for b in bundles if b.manifest.statistics]
    return torch.stack(tensors) if tensors else None


def _domain_of(bundle: Bundle) -> Domain:
    """Return the domain of a bundle, its keys in the order of the level."""
    return Domain(tuple((key, bundle.manifest.domain[key]) for key in bundle.manifest.level))


def _no_probe(bundles: Sequence[Bundle]) -> dict[str, Tensor]:
    """Return a probe of zeros: a bank needs one, and no bundle has it after compression."""
    count = len(bundles)
    tasks, code = bundles[0].tensors["skip_w"].shape
    return {"probe_w": torch.zeros(count, tasks, code), "probe_b": torch.zeros(count, tasks)}


def _check_alike(bundles: Sequence[Bundle], root: Path) -> None:
    first = bundles[0].manifest
    kernel = first.kernel
    for bundle in bundles[1:]:
        manifest = bundle.manifest
        is_alike = manifest.shapes == first.shapes
        is_alike &= manifest.kernel == kernel
        is_alike &= _definition(manifest) == _definition(first)
        if not is_alike:
            raise BadRequest(
                f"bundles below {root} differ in shape: {first.name} and {manifest.name} were not "
                "tuned with the same kernel.* settings and [[fresh]]. Keep one run's bundles in a "
                "folder"
            )


def _definition(manifest: BundleManifest) -> str | None:
    return manifest.statistics.definition if manifest.statistics else None


def live_kernels(
    root: Path,
    *,
    base_fingerprint: str,
    schema_hash: str,
    reads: str,
    catalog: Catalog | None = None,
) -> Live | None:
    """Return the published kernels below `root`, from which a tuning run starts; None without any.

    Args:
        root: folder of a night's bundles, or of the run that wrote them.
        base_fingerprint: the base that they must have been tuned on.
        schema_hash: digest of the inputs that they must read.
        reads: inputs of the run's kernels, `h` or `hx`.
        catalog: the run's catalogue, whose statistics the kernels must read, if they read any.

    Raises:
        BadRequest: there is no bundle, no index names them, or they were not tuned together.
        WrongBase: they were tuned on another base.
        Corrupt: they are not those that the index names, or a file is not what its manifest says.
    """
    folder = find_bundles(root) or root
    bundle_set = read_bundle_set(
        folder, base_fingerprint=base_fingerprint, schema_hash=schema_hash, catalog=catalog
    )
    serving = [slot for slot, verdict in enumerate(bundle_set.verdicts) if verdict.publish]
    if not serving:
        return None
    if ("hx" if bundle_set.reads_x else "h") != reads:
        raise BadRequest(
            f"the bundles below {folder} do not read what kernel.reads={reads} asks for; keep that "
            "setting, or start without live="
        )
    if not _read_alike(bundle_set, serving):
        raise BadRequest(
            f"the bundles below {folder} differ in their input statistics; they stem from several "
            "runs. Give the folder of one run, or start without live="
        )
    return Live(
        kernels={
            bundle_set.names[slot]: {n: w[slot].clone() for n, w in bundle_set.weights.items()}
            for slot in serving
        },
        standard=bundle_set.standard(serving[0]),
        statistics=bundle_set.statistics_standard(serving[0]),
    )


def _read_alike(bundle_set: BundleSet, slots: Sequence[int]) -> bool:
    """Return whether bundles standardise their inputs and statistics with the same numbers."""
    standards = [bundle_set.standard(slot).tensors() for slot in slots]
    first = standards[0]
    is_alike = all(torch.equal(t, first[n]) for own in standards for n, t in own.items())
    for stacked in (bundle_set.fresh_mean_KS, bundle_set.fresh_scale_KS):
        is_alike &= stacked is None or bool((stacked[slots] == stacked[slots[0]]).all())
    return is_alike
