"""Write a kernel for every domain. Its weights are drawn: how it was tuned moves no time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from iak.pipeline.activations.standardizer import Standardizer
from iak.pipeline.base import published_base
from iak.pipeline.bench import iak_variants
from iak.pipeline.bench.iak_variants import InputVariant
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.iak.kernel import KernelShape, fresh
from iak.pipeline.process import Worker
from iak.pipeline.publish.bundle import write_bundle
from iak.pipeline.publish.bundle_index import write_index
from iak.pipeline.publish.publish_bundles import STANDARD
from iak.schemas.log_snapshot import DataWindow
from iak.schemas.manifest import BaseManifest, BundleSettings
from iak.schemas.verdict import Verdict

_MOVED = 0.02
"""Deviation by which each weight is moved from its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Folders of kernels on the benchmark's base."""

    all: Path
    """The pooled kernel and one of every domain."""
    pooled: Path
    """The pooled kernel alone."""
    newer: Path
    """Another kernel of the largest domain, which is promoted while requests come."""
    names: tuple[str, ...]
    """Values of the domain's column, the largest domain first."""


def kernels_on_worker(worker: Worker, setup: BenchSetup, scratch: Path) -> Kernels:
    """Write the kernels; their standardisation is fitted on rows of the log."""
    opened = published_base.open_base(setup.base)
    view = setup.view("tune")
    known = iak_variants.read_split(opened, view, "tune", worker)
    model = iak_variants.open_frozen(setup, worker, "int8")
    spec = setup.spec.kernel
    inputs = InputVariant(reads=spec.reads, keeps="recompute", narrow=spec.narrow)
    standard = iak_variants.through_base(model, known, view, inputs, worker).standard
    shape = KernelShape.on(model.heads, spec, inputs=standard.width)
    (key,) = view.catalog.domain.keys
    names = tuple(domain.removeprefix(f"{key}=") for domain in known.domains)
    writer = _Writer(setup, opened.manifest, standard, shape, key)
    folders = {name: scratch / name for name in ("all", "pooled", "newer")}
    writer.write(folders["all"], [None, *names])
    writer.write(folders["pooled"], [None])
    writer.write(folders["newer"], names[:1], seed=1)
    return Kernels(**folders, names=names)


@dataclass(frozen=True, slots=True)
class _Writer:
    setup: BenchSetup
    base: BaseManifest
    standard: Standardizer
    shape: KernelShape
    key: str

    def write(self, folder: Path, values: Sequence[str | None], *, seed: int = 0) -> None:
        """Write a kernel for each value of the domain's key; None is the pooled one."""
        standard = {f"{STANDARD}{name}": t for name, t in self.standard.tensors().items()}
        start = fresh(self.shape, seed=0)
        generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**31)))
        for value in values:
            moved = {
                name: weight + _MOVED * torch.randn(weight.shape, generator=generator)
                for name, weight in start.items()
                if not name.startswith("probe")
            }
            write_bundle(
                folder,
                moved | standard,
                domain=None if value is None else {self.key: value},
                base_fingerprint=self.base.fingerprint,
                schema_hash=self.base.schema_hash,
                data_window=DataWindow(),
                spec=BundleSettings(kernel=self.setup.spec.kernel),
                versions={},
                verdict=Verdict(publish=True, reason="", rows=0),
                created_at=datetime.now(UTC),
            )
        write_index(folder)
