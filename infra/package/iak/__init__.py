"""Kernels per domain on a large frozen recommender, tuned every night.

    import iak

    iak.check_log(catalog, data_root)                           # is this log fit for training?
    iak.pretrain(catalog, data_root, run_dir=...)               # a log becomes a frozen base
    iak.tune_night(catalog, data_root, base=..., run_dir=...)   # one gated kernel for each domain
    iak.evaluate(catalog, data_root, base=..., run_dir=...)     # both on later rows
    iak.open_base(path), iak.read_bundles(path)                 # what was published
    iak.Catalog                                                 # the declaration of a log

Each name is imported when it is first used, since torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iak.pipeline.api import (
        check_log,
        evaluate,
        open_base,
        pretrain,
        read_bundles,
        tune_night,
    )
    from iak.schemas.log import Catalog

_MODULES = {
    "Catalog": "iak.schemas.log",
    "check_log": "iak.pipeline.api",
    "evaluate": "iak.pipeline.api",
    "open_base": "iak.pipeline.api",
    "pretrain": "iak.pipeline.api",
    "read_bundles": "iak.pipeline.api",
    "tune_night": "iak.pipeline.api",
}
"""Public name -> the module that defines it."""

__all__ = [
    "Catalog",
    "check_log",
    "evaluate",
    "open_base",
    "pretrain",
    "read_bundles",
    "tune_night",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'iak' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names that `dir(iak)` lists."""
    return sorted({*globals(), *__all__})
