"""Join the counts of all workers to a state, publish it with kernels, and read it back.

A state is a file `statistics.safetensors` in every bundle that reads it. Its id is the SHA-256 of
its content. A manifest names the id and the digest of the definition. The definition is all
settings that change what a number means.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors_numpy

from iak.pipeline.data.fresh_keys import FOLDS
from iak.pipeline.data.table_sum import Gather, TableSum, alone
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.files import not_permitted
from iak.pipeline.fresh.counts import key_bounds, table_widths
from iak.pipeline.fresh.timeline import Timeline, timeline_of
from iak.schemas.fresh import DEFAULT_MAX_KEYS, CountsSpec, FreshSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import sha256_of

STATISTICS = "statistics.safetensors"
FORMAT = 1
"""Format of the file, and of how keys are made; part of every definition."""


def definition_of(catalog: Catalog) -> str:
    """Return SHA-256 over everything in a catalogue that changes what a statistic means."""
    log = catalog.log.model_dump(
        mode="json",
        include={
            "date_key",
            "date_unit",
            "event_time",
            "event_time_unit",
            "event_time_format",
            "time_zone",
            "slice_by",
            "row_id",
        },
    )
    lists = {spec.pair[1] for spec in catalog.fresh if spec.kind == "co_occurrence"}
    return sha256_of(
        {
            "format": FORMAT,
            "folds": FOLDS,
            "fresh": [_meaning(spec) for spec in catalog.fresh],
            "domain": list(catalog.domain.keys),
            # The weight of a task changes the loss, but no count.
            "tasks": [t.model_dump(mode="json", exclude={"weight"}) for t in catalog.tasks],
            "log": log,
            "padding": [
                [f.columns[0], f.padding]
                for f in catalog.features
                if f.kind == "list" and f.columns[0] in lists
            ],
        }
    )


def _meaning(spec: FreshSpec) -> dict[str, Any]:
    """Return the settings of a specification that change its numbers.

    A default bound is left out, so that kernels that were published before the setting existed keep
    their definition.
    """
    is_default = isinstance(spec, CountsSpec) and spec.most_keys == DEFAULT_MAX_KEYS
    return spec.model_dump(mode="json", exclude={"use", *(["most_keys"] if is_default else [])})


def sums_of(catalog: Catalog) -> dict[str, TableSum]:
    """Return the empty sum of every table that a catalogue counts."""
    return {name: TableSum(width) for name, width in table_widths(catalog).items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """The counts of a night by table."""

    definition: str
    """`definition_of` the catalogue under which rows were counted."""
    last: int | None
    """Last day that was counted, in days since 1970-01-01; None where periods are folds."""
    timelines: Mapping[str, Timeline]

    @classmethod
    def of(
        cls,
        counted: Mapping[str, TableSum],
        catalog: Catalog,
        last: int | None,
        gather: Gather = alone,
    ) -> "State":
        """Return the sum of all workers' counts, in any order of files; a collective call.

        Args:
            counted: what this worker counted of each table, as `sums_of` begins it.
            catalog: the log's catalogue.
            last: last day that was counted; None in a log without days.
            gather: collects from all workers.
        """
        bounds = key_bounds(catalog)
        timelines = {
            name: timeline_of(own, bounds.get(name), gather) for name, own in counted.items()
        }
        return cls(definition=definition_of(catalog), last=last, timelines=timelines)

    @property
    def id(self) -> str:
        """Return SHA-256 over definition, last day and arrays, which no file format changes."""
        total = hashlib.sha256(json.dumps([self.definition, self.last]).encode())
        for name, array in sorted(self._arrays().items()):
            total.update(f"{name!r} {array.dtype} {list(array.shape)}\n".encode())
            total.update(np.ascontiguousarray(array).view(np.uint8).data)
        return total.hexdigest()

    def _arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        return {
            f"{table}/{name}": array
            for table, timeline in self.timelines.items()
            for name, array in timeline.arrays().items()
        }

    def write(self, path: Path) -> None:
        """Write the state to a new file, which others may map into memory."""
        metadata = {"definition": self.definition, "last": json.dumps(self.last)}
        # safetensors 0.8.0 writes the memory of an array, whatever its strides are.
        arrays = {name: np.ascontiguousarray(a) for name, a in self._arrays().items()}
        safetensors_numpy.save_file(arrays, path, metadata=metadata)


def read_state(path: Path, *, definition: str, id: str) -> State:
    """Read the state that a bundle names.

    Args:
        path: the file.
        definition: digest of the definition under which rows will be looked up.
        id: id that the bundle's manifest has.

    Raises:
        BadRequest: the state is of another definition.
        Corrupt: it is missing, or not the one that the manifest names.
        NotPermitted: this user may not read it.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except (OSError, SafetensorError) as error:
        raise Corrupt(
            f"{path} cannot be read ({error}), and its kernel reads fresh statistics, which are "
            "never taken as zero. Restore the file from a copy, or tune the domain again"
        ) from error
    by_table: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
    for name, array in arrays.items():
        table, _, part = name.rpartition("/")
        by_table.setdefault(table, {})[part] = array
    try:
        state = State(
            definition=metadata["definition"],
            last=json.loads(metadata["last"]),
            timelines={name: Timeline.from_arrays(parts) for name, parts in by_table.items()},
        )
    except (KeyError, ValueError) as error:
        raise Corrupt(f"{path} holds no statistics: {error}. Restore it from a copy") from error
    if state.id != id:
        raise Corrupt(
            f"{path} is state {state.id}, the manifest beside it names {id}. Restore the file from "
            "a copy, or tune the domain again"
        )
    if state.definition != definition:
        raise BadRequest(
            f"{path} was counted under definition {state.definition}, the catalogue here has "
            f"{definition}: [[fresh]], tasks or dates differ. Use the catalogue that the kernel "
            "was tuned with, or tune again"
        )
    return state
