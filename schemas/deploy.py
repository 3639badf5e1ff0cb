"""Define what `iak infra render` may be asked."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from iak.schemas.base import Spec, Value, not_empty, without_repeats
from iak.schemas.paths import FileToRead, FolderToWrite

Target = Literal["kubernetes", "airflow", "systemd", "prometheus", "grafana"]


class RenderSpec(Spec):
    """Write what runs the nights elsewhere, and what watches over them."""

    file: FileToRead
    """The nights: nightly.toml."""
    out: FolderToWrite
    """Folder for the files; those that are there already are replaced."""
    targets: Annotated[tuple[Target, ...], Field(min_length=1), AfterValidator(without_repeats)] = (
        "kubernetes",
        "airflow",
        "systemd",
        "prometheus",
        "grafana",
    )
    """What to write."""
    iak: Annotated[Value, AfterValidator(not_empty)] = "/usr/local/bin/iak"
    """The program on the machine that systemd runs it on."""
