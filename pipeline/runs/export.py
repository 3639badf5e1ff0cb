"""Export a base and its kernels: open them, check that they can be expressed, write the folder."""

from pathlib import Path
from tempfile import TemporaryDirectory

from iak.pipeline.base.published_base import PublishedBase, task_shapes
from iak.pipeline.errors import BadRequest
from iak.pipeline.files import putting_folder
from iak.pipeline.publish.bundle_set import BundleSet, read_bundle_set
from iak.pipeline.runs.pinned import bundles_now
from iak.pipeline.runs.preflight import bundles_folder, open_frozen_base
from iak.pipeline.serving.export import (
    BANK,
    BANK_DOCUMENT,
    DOCUMENT,
    check_exportable,
    write_bank,
    write_base,
)
from iak.pipeline.serving.peft_adapters import DOCUMENT as PEFT_DOCUMENT
from iak.pipeline.serving.peft_adapters import LEFT_OUT, check_expressible, write_adapters
from iak.schemas.export import ExportResult, ExportSpec
from iak.schemas.log import Catalog

BUNDLES = "bundles"


def export(spec: ExportSpec, catalog: Catalog) -> ExportResult:
    """Write the folder of an export, or a bank alone.

    Args:
        spec: settings of `iak export`.
        catalog: the log's catalogue.

    Raises:
        BadRequest: base or kernels cannot be expressed, or `out` holds something else.
        WrongBase: the bundles were tuned on another base.
        Corrupt: a file is not what was published.
    """
    _check_free(spec.out)
    opened = open_frozen_base(spec.base, catalog, spec.tables)
    if spec.to == "runtime":
        check_exportable(opened, spec.tables)
        opened.bring()
    bundles = _bundles(spec, opened, catalog)
    if spec.to == "peft" and bundles is not None:
        check_expressible(bundles)
    with putting_folder(spec.out) as folder:
        _write(folder, spec, catalog, opened, bundles)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ExportResult(
        out=spec.out,
        base_fingerprint=opened.manifest.fingerprint,
        kernels=sum(verdict.publish for verdict in bundles.verdicts) if bundles else 0,
        bytes=size,
        left_out=LEFT_OUT if spec.to == "peft" else (),
    )


def _write(
    folder: Path,
    spec: ExportSpec,
    catalog: Catalog,
    opened: PublishedBase,
    bundles: BundleSet | None,
) -> None:
    """Write what the settings ask for into an empty folder."""
    fingerprint = opened.manifest.fingerprint
    if spec.to == "peft" and bundles is not None:
        titles = [shape.name for shape in task_shapes(opened.catalog)]
        write_adapters(folder, bundles, titles, base_fingerprint=fingerprint)
        return
    if spec.only is None:
        write_base(folder, opened, catalog, spec.tables)
    if bundles is not None:
        bank = folder if spec.only == "bank" else folder / BANK
        bank.mkdir(exist_ok=True)
        write_bank(bank, bundles, opened, catalog)


def _check_free(out: Path) -> None:
    """Refuse to replace a folder that has other files than those of an export."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not any((out / name).is_file() for name in (DOCUMENT, BANK_DOCUMENT, PEFT_DOCUMENT)):
        raise BadRequest(
            f"out={out} has files and is no export, so it is not replaced. Name another folder"
        )


def _bundles(spec: ExportSpec, opened: PublishedBase, catalog: Catalog) -> BundleSet | None:
    """Return the kernels that are exported, each of them verified; None where there are none."""
    if spec.bundles is None:
        return None
    with TemporaryDirectory(prefix="iak-export-") as scratch:
        folder = bundles_now(spec.bundles, opened, Path(scratch), setting=BUNDLES)
        return read_bundle_set(
            bundles_folder(folder, opened, setting=BUNDLES).path,
            base_fingerprint=opened.manifest.fingerprint,
            schema_hash=opened.manifest.schema_hash,
            catalog=catalog,
        )
