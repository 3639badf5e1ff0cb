"""Predict rows with an exported base and its kernels, by torch, NumPy and safetensors alone.

`iak export` copies this file into its folder as `iak_runtime.py`:

    export.json  encoding.safetensors  dense.safetensors  tables/NAME.safetensors
    fresh/statistics-0.safetensors                         (only where the base reads statistics)
    bank/bank.json  bank/bank.safetensors                  (bank/ only where there are kernels)
    bank/statistics-N.safetensors                          (only where kernels read statistics)

    import iak_runtime
    model = iak_runtime.load("export")
    answers = model.predict({"user_id": ["u1"], "item_id": [3], "region": ["rome"]})
    model.load_bank("tomorrow")

So nothing here may import the package. Each part repeats the operations of the package's module
that its heading names, in their order. In fp32 and one thread a row gets the same bits as from
`iak predict`, and tests compare them.

Shapes: B rows, V ids, R rows of a table, W columns, K kernels, T tasks, H units of h, X units of x,
A inputs of an encoder, C code units; in the towers W units that a task reads and D hidden ones; in
histories L positions, K units of a value and S units that are read of it.
"""

import hashlib
import json
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

FORMAT = 2
NULL_ROW, UNSEEN_ROW, FIRST_ROW = 0, 1, 2
POOLED, BASE = "pooled", "base"
NO_BUNDLES = "no bundles were given"
NO_KERNEL = "its domain has no kernel"
HELD = "the gate held its domain's kernel"
BASE_SLOT = -1
FULL_ROWS = 32
"""Rows of a batch are filled up to a multiple of this: the last values of a tensor, which fill no
vector register, round otherwise (torch 2.13)."""
SEGMENT_ROWS = 4
"""Rows of a kernel are filled up to a multiple of this, and each product has so many: one of more
or fewer rows may round a row otherwise (MKL of torch 2.13)."""
MAX_COPIED = 8192
"""Entries up to which a kernel's matrices are copied, so that one call multiplies all of them."""
MIN_OUTPUTS = 12
"""Outputs of a product from which a row's result does not depend on the other rows (MKL)."""
LARGEST = float(np.finfo(np.float32).max)
FOLDS, FOLD_SALT = 8, 0xF0_1D
"""Folds of a log without days, as data/fresh_keys.py cuts them."""
NEWEST = 2**31 - 1
"""Day of a row without one: later than all counts."""
UPPER = np.uint64(0xFFFFFFFF00000000)
"""Half of a pair's key that is its item's."""
EPOCH = date(1970, 1, 1).toordinal()
DAY_MICROS = 86_400_000_000
MAX_MICROS = 4_000 * 365 * DAY_MICROS
"""Times further from 1970 are cut to this, which a datetime can represent."""
PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
DAY_S = 86_400
_MASK = 2**64 - 1
_WHOLE = re.compile(r"-?\d+")
_BLANKS = r"[ \t\n\f\r]*"
_PRINTED = re.compile(rf"{_BLANKS}\[({_BLANKS}|{_BLANKS}['\"0-9-][^\[\]]*)\]{_BLANKS}")
"""A list as Python, JSON and NumPy print it."""
_QUOTED = re.compile(r"'(.*)'|\"(.*)\"")
_MONTH = re.compile(r"((?:19|20)\d{2})-?(0[1-9]|1[0-2])")
_WEEK = re.compile(r"\d{4}-?W\d{2}")
_HOUR = re.compile(r"(\d{8}|\d{4}-\d{2}-\d{2}-)(?:[01]\d|2[0-3])")
_NAMED_DAY = re.compile(r"[^\W\d_].*[_-](\d{8}|\d{4}-\d{2}-\d{2})")
_DAY_NUMBER = re.compile(r"(?:.*[^\W\d_][_-]?)?(\d{1,5})")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""A number in text, as `pipeline/data/written.py` reads one."""
_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?"
    r"(?:Z| UTC|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?"
)

Columns = Mapping[str, Sequence[Any]]
Ids = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Weights = Mapping[str, Tensor]


class BadRows(ValueError):
    """Rows that cannot be read; the message names the column and the value."""


class BadExport(ValueError):
    """A folder that is no export, was changed, or does not fit the one that is loaded."""


# ------------------------------------------------ keys of ids, as data/hashing.py


def mix(keys: Keys) -> Keys:
    """Return each key mixed by the finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        x = keys + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def combine(first: Keys, second: Keys) -> Keys:
    """Return one key for each ordered pair of keys."""
    with np.errstate(over="ignore"):
        return mix(mix(first) * np.uint64(31) + second)


def word_of(value: Any, column: str) -> int:  # noqa: ANN401 - a value of a row
    """Return the word whose mix is the key of an id: its 64 bits, or FNV-1a of its UTF-8 bytes.

    Args:
        value: a whole number, a boolean or text; None gives 0, which no caller reads.
        column: name of its column, for the message.

    Raises:
        BadRows: the value is no id.
    """
    if _is_missing(value):
        return 0
    if isinstance(value, numbers.Integral) or _is_whole_float(value):
        return int(value) & _MASK
    if not isinstance(value, str):
        raise BadRows(f"column {column} holds {value!r}; expected a whole number, text or None")
    word = 0xCBF29CE484222325
    for byte in value.encode():
        word = (word ^ byte) * 0x100000001B3 & _MASK
    return word


def _is_missing(value: Any) -> bool:  # noqa: ANN401 - a value of a row
    """Return whether an id is None or NaN, as pandas has the missing one among whole numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_whole_float(value: Any) -> bool:  # noqa: ANN401 - a value of a row
    """Return whether an id is a float that is exactly one whole number."""
    return isinstance(value, float) and value.is_integer() and abs(value) < 2.0**53


def keys_of(values: Sequence[Any], column: str) -> Keys:
    """Return the key of each id."""
    # Texts repeat, and each is hashed byte by byte.
    texts = {value: word_of(value, column) for value in values if isinstance(value, str)}
    words = [texts[v] if isinstance(v, str) else word_of(v, column) for v in values]
    return mix(np.array(words, np.uint64))


def crossed(columns: Sequence[Sequence[Any]], names: Sequence[str]) -> Keys:
    """Return one key for the values of some columns together; a null is a value of its own.

    Args:
        columns: the columns, at least one.
        names: their names, for messages.
    """
    keys = np.zeros(len(columns[0]), np.uint64)
    for values, name in zip(columns, names, strict=True):
        is_null = np.array([_is_missing(value) for value in values], np.bool_)
        own = np.where(is_null, np.uint64(0), keys_of(values, name))
        keys = combine(keys, own)
    return keys


# ------------------------------------------------ ids and numbers, as data/features.py


class Encoder:
    """Turn raw columns into rows of tables and numbers, by the catalogue of the base."""

    def __init__(self, document: Mapping[str, Any], arrays: Weights) -> None:
        """Take the catalogue and the arrays that pre-training fitted.

        Args:
            document: `export.json`.
            arrays: vocabularies and boundaries by name, of `encoding.safetensors`.
        """
        self.features: list[dict[str, Any]] = document["features"]
        self.tables: dict[str, dict[str, Any]] = document["tables"]
        self.statistics: dict[str, list[float]] = document["statistics"]
        self.partition_keys = frozenset(document["partition_keys"])
        self._arrays = {name: tensor.numpy() for name, tensor in arrays.items()}

    @property
    def keyed(self) -> list[dict[str, Any]]:
        """Return the features that read a table, in order."""
        return [feature for feature in self.features if not self._is_dense(feature)]

    @property
    def dense(self) -> list[dict[str, Any]]:
        """Return the dense inputs, in order."""
        return [feature for feature in self.features if self._is_dense(feature)]

    @staticmethod
    def _is_dense(feature: Mapping[str, Any]) -> bool:
        is_number = feature["kind"] == "numeric"
        return is_number and not feature["buckets"] and not feature["boundaries"]

    def table_of(self, feature: Mapping[str, Any]) -> str:
        """Return the name of the table that a feature reads."""
        return str(feature.get("table") or feature["name"])

    def ids(self, feature: Mapping[str, Any], rows: Columns) -> tuple[Ids, Ids]:
        """Return the table's row of each id, and the number of ids of each row.

        Raises:
            BadRows: a value cannot be read.
        """
        if feature["kind"] == "numeric":
            cuts = self._arrays[f"boundaries.{feature['name']}"]
            values = self.raw_number(feature, rows)
            ids = np.searchsorted(cuts, values, side="right") + FIRST_ROW
            return np.where(np.isnan(values), NULL_ROW, ids).astype(np.int64), _ones(len(values))
        table = self.table_of(feature)
        if feature["kind"] == "cross":
            names = feature["columns"]
            keys = crossed([rows[name] for name in names], names)
            return self._rows_of_keys(table, keys), _ones(len(keys))
        name = feature["column"] or feature["name"]
        column = rows[name]
        if feature["kind"] == "list":
            lists = [_last_values(values, feature, name) for values in column]
            flat = [value for values in lists for value in values]
            return self._look_up(table, flat, name), np.array([len(v) for v in lists], np.int64)
        return self._look_up(table, column, name), _ones(len(column))

    def with_lists(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return columns in which ids that the log writes in one text are lists."""
        columns = dict(columns)
        for feature in self.features:
            if feature.get("separator"):
                name = feature["column"] or feature["name"]
                columns[name] = [_separated(value, feature, name) for value in columns[name]]
        return columns

    def numbers(self, rows: Columns, count: int) -> npt.NDArray[np.float32]:
        """Return the dense inputs (B, N)."""
        columns = [self._standardised(feature, rows) for feature in self.dense]
        # np.stack would refuse a base without dense inputs.
        stacked = np.empty((count, len(columns)), np.float32)
        for index, column in enumerate(columns):
            stacked[:, index] = column
        return stacked

    def raw_number(self, feature: Mapping[str, Any], rows: Columns) -> Floats:
        """Return raw numbers; NaN where one is null, not finite or too large."""
        name = feature["column"] or feature["name"]
        column = rows[name]
        if feature.get("in_text"):
            column = [_without_words(value) for value in column]
        values = np.array([_number(value, name) for value in column], np.float64)
        sizes = np.abs(values)
        is_usable = sizes < LARGEST  # False for NaN as well
        if feature["log"]:
            values = np.sign(values) * np.log1p(sizes)
        return np.where(is_usable, values, np.nan)

    def _standardised(self, feature: Mapping[str, Any], rows: Columns) -> npt.NDArray[np.float32]:
        values, bound = self.raw_number(feature, rows), LARGEST
        if feature["standardise"]:
            mean, deviation = self.statistics[feature["name"]]
            values = (values - mean) / deviation
            bound = min(feature["clip"], bound)
        values = np.clip(values, -bound, bound)
        return np.where(np.isnan(values), 0.0, values).astype(np.float32)

    def _look_up(self, table: str, values: Sequence[Any], column: str) -> Ids:
        is_null = np.array([_is_missing(value) for value in values], np.bool_)
        if self.tables[table]["encoding"] == "identity":
            count = self.tables[table]["ids"]
            wholes = (_whole(value, column) for value in values)
            ids = [n + FIRST_ROW if 0 <= n < count else UNSEEN_ROW for n in wholes]
            rows = np.array(ids, np.int64)
        else:
            rows = self._rows_of_keys(table, keys_of(values, column))
        return np.where(is_null, NULL_ROW, rows).astype(np.int64)

    def _rows_of_keys(self, table: str, keys: Keys) -> Ids:
        """Return the row of each key: by its index in the vocabulary, or by its remainder."""
        if self.tables[table]["encoding"] != "vocabulary":
            return (keys % np.uint64(self.tables[table]["ids"])).astype(np.int64) + FIRST_ROW
        vocabulary = self._arrays[f"vocabulary.{table}"].view(np.uint64)
        if not len(vocabulary):
            return np.full(len(keys), UNSEEN_ROW, np.int64)
        # A key that is larger than all would point behind the last one.
        index = np.minimum(np.searchsorted(vocabulary, keys), len(vocabulary) - 1)
        rows = np.where(vocabulary[index] == keys, index + FIRST_ROW, UNSEEN_ROW)
        return rows.astype(np.int64)


def _ones(count: int) -> Ids:
    return np.ones(count, np.int64)


def _number(value: Any, column: str) -> float:  # noqa: ANN401 - a value of a row
    """Return a number as a float; NaN for None. The text of a partition key is read as a number."""
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise BadRows(f"column {column} holds {value!r}; expected a number or None") from error


def _without_words(value: Any) -> Any:  # noqa: ANN401 - a value of a row
    """Return None for a text that is no number; other values as they are."""
    return None if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()) else value


def _whole(value: Any, column: str) -> int:  # noqa: ANN401 - a value of a row
    """Return the number of an identity table's id; -1 for None."""
    if _is_missing(value):
        return -1
    if (
        isinstance(value, numbers.Integral)
        or _is_whole_float(value)
        or (isinstance(value, str) and _WHOLE.fullmatch(value.strip()))
    ):
        return int(value)
    raise BadRows(f"column {column} holds {value!r}; expected a whole number or None")


def _separated(value: Any, feature: Mapping[str, Any], column: str) -> Any:  # noqa: ANN401
    """Return the ids of a text as a list; whatever is no text comes back as it is."""
    if not isinstance(value, str):
        return value
    printed = _PRINTED.fullmatch(value)
    parts = (printed[1] if printed else value).split(feature["separator"])
    ids = [part.strip() for part in parts]
    if printed:
        ids = [(q[1] or q[2] or "") if (q := _QUOTED.fullmatch(own)) else own for own in ids]
    ids = [own for own in ids if own]
    return [_whole(own, column) for own in ids] if feature.get("whole") else ids


def _last_values(values: Any, feature: Mapping[str, Any], column: str) -> list[Any]:  # noqa: ANN401
    """Return the last values of a list without its padding; a null list is one null."""
    if values is None:
        return [None]
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise BadRows(f"column {column} holds {values!r}; expected a list or None")
    padding = feature["padding"]
    values = [int(v) if _is_whole_float(v) else v for v in values]
    present = [v for v in values if padding is None or v is None or str(v) != str(padding)]
    return present[-feature["last"] :]


# ------------------------------------------------ tables, as sharding/quantised.py


class Tables:
    """Embedding tables in mapped files, whose pages all processes of a machine share."""

    def __init__(self, folder: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
        """Map the file of each table.

        Args:
            folder: folder with `NAME.safetensors` of each table.
            tables: the table's entry in `export.json`, by name.
        """
        self._precisions = {name: entry["precision"] for name, entry in tables.items()}
        self._files = {name: _mapped(folder / f"{name}.safetensors") for name in tables}
        self.rows = {name: file["weight"] for name, file in self._files.items()}

    def means(self, table: str, ids: Ids, lengths: Ids) -> Tensor:
        """Return the mean of each row's entries, (B, W); zeros for a row without ids."""
        entries_VW = self._entries(table, torch.from_numpy(ids))
        lengths_B = torch.from_numpy(lengths)
        starts_B = lengths_B.cumsum(0) - lengths_B
        order_V = torch.arange(len(ids))
        sums_BW = functional.embedding_bag(order_V, entries_VW, starts_B, mode="sum")
        means_BW: Tensor = sums_BW / lengths_B[:, None].clamp(min=1)
        return means_BW

    def newest(self, table: str, ids: Ids, lengths: Ids, positions: int) -> tuple[Tensor, Tensor]:
        """Return the entries of each row's newest ids, and which positions have one.

        Returns:
            `e_BLK`, the newest one last and zeros before the first one, and `is_value_BL`.
        """
        entries_VW = self._entries(table, torch.from_numpy(ids))
        lengths_B = torch.from_numpy(lengths)
        age_L = torch.arange(positions, 0, -1)
        is_value_BL = lengths_B[:, None] >= age_L
        at_BL = lengths_B.cumsum(0)[:, None] - age_L
        e_BLK = entries_VW.new_zeros(len(lengths_B), positions, entries_VW.shape[1])
        e_BLK[is_value_BL] = entries_VW[at_BL[is_value_BL]]
        return e_BLK, is_value_BL

    def width(self, table: str) -> int:
        """Return the columns of a table."""
        # An entry of int8 has four bytes of scale and bias before its codes.
        scale_and_bias = 4 if self._precisions[table] == "int8" else 0
        return int(self.rows[table].shape[1]) - scale_and_bias

    def _entries(self, table: str, ids_V: Tensor) -> Tensor:
        """Return the entries of some rows in fp32."""
        picked = self.rows[table].index_select(0, ids_V)
        if self._precisions[table] != "int8":
            return picked.float()
        # Scale and bias, fp16 each, stand before the codes: value = scale * code + bias.
        scale_V1, bias_V1 = picked[:, :4].contiguous().view(torch.float16).float().split(1, dim=1)
        entries_VW: Tensor = scale_V1 * picked[:, 4:].float() + bias_V1
        return entries_VW


# ------------------------------------------------ trunk and towers, as model/


class Layers:
    """The linear layers of a module, by name."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        """Take the weights whose names begin with a prefix.

        Args:
            weights: dense weights by name.
            prefix: name of the module in the model, with a dot.
        """
        self.w = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Return a layer's outputs; inputs and outputs are on the last axis."""
        return linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def count(self, name: str) -> int:
        """Return how many layers are listed under a name, as `name.0`, `name.1`, ..."""
        start = f"{name}."
        return len({n[len(start) :].split(".")[0] for n in self.w if n.startswith(start)})

    def relu_mlp(self, name: str, x_BX: Tensor) -> Tensor:
        """Return the units of an MLP, whose every layer is linear, ReLU and dropout."""
        for layer in range(self.count(name)):
            x_BX = self.linear(f"{name}.{3 * layer}", x_BX).relu()
        return x_BX


class Trunk:
    """From x and what was read of histories to h, by the formulas of model/trunks/."""

    def __init__(
        self,
        weights: Weights,
        sizes: Mapping[str, Any],
        *,
        tasks: int,
        embeddings: Sequence[int],
    ) -> None:
        """Take the weights whose names begin with `trunk.`.

        Args:
            weights: dense weights by name.
            sizes: `model` of `export.json`.
            tasks: T.
            embeddings: units of each embedding, in the order of x.

        Raises:
            BadExport: the trunk is one that this file does not know.
        """
        self._of, self._sizes, self._tasks = Layers(weights, "trunk."), sizes, tasks
        self._starts = [sum(embeddings[:index]) for index in range(len(embeddings) + 1)]
        known = {
            "dcnv2_mmoe": self._dcnv2_mmoe, "mlp": self._mlp, "deepfm": self._deepfm,
            "dlrm": self._dlrm, "ple": self._ple,
        }  # fmt: skip
        if sizes["trunk"] not in known:
            raise BadExport(f"the trunk {sizes['trunk']} is not known here. Export it again")
        self._read = known[sizes["trunk"]]

    def __call__(self, x_BX: Tensor) -> Tensor:
        """Return `h_BH`."""
        return self._read(x_BX)

    def _mlp(self, x_BX: Tensor) -> Tensor:
        return self._of.relu_mlp("layers", x_BX)

    def _dcnv2_mmoe(self, x_BX: Tensor) -> Tensor:
        z_BZ = torch.cat([self._crossed(x_BX), self._of.relu_mlp("mlp", x_BX)], dim=1)
        experts, width = self._sizes["experts"], self._sizes["expert_width"]
        e_BEW = self._of.linear("expert", z_BZ).relu().view(-1, experts, width)
        gate_BTE = self._of.linear("gate", z_BZ).view(-1, self._tasks, experts).softmax(dim=-1)
        return (gate_BTE @ e_BEW).flatten(1)

    def _crossed(self, x_BX: Tensor) -> Tensor:
        """Return the crosses of DCN-v2, with the operations of model/trunks/dcnv2_mmoe.py."""
        w, crossed_BX = self._of.w, x_BX
        for layer in range(self._sizes["cross_layers"]):
            if self._sizes["cross_rank"]:
                narrow_BR = linear(crossed_BX, w[f"cross.V_kernels.{layer}"])
                mapped_BX = linear(narrow_BR, w[f"cross.W_kernels.{layer}"])
            else:
                mapped_BX = linear(crossed_BX, w[f"cross.kernels.{layer}"])
            # The bias of a full kernel is a column, (X, 1).
            crossed_BX = x_BX * (mapped_BX + w[f"cross.bias.{layer}"].flatten()) + crossed_BX
        return crossed_BX

    def _deepfm(self, x_BX: Tensor) -> Tensor:
        v_BVK = torch.cat(self._vectors(x_BX), dim=1)
        second_BK = 0.5 * (v_BVK.sum(dim=1).square() - v_BVK.square().sum(dim=1))
        deep_BX = self._of.relu_mlp("deep", x_BX)
        return self._of.linear("out", torch.cat([x_BX, second_BK, deep_BX], dim=1))

    def _dlrm(self, x_BX: Tensor) -> Tensor:
        e_BFK, n_BNK = self._vectors(x_BX)
        of_numbers_BK = (n_BNK.sum(dim=1) + self._of.w["bottom_bias_K"]).relu()
        z_BK = self._of.linear("bottom", of_numbers_BK).relu()
        v_BVK = torch.cat([z_BK[:, None], e_BFK], dim=1)
        dots_BVV = v_BVK @ v_BVK.transpose(1, 2)
        dots = [dots_BVV[:, v, v + 1 :] for v in range(e_BFK.shape[1])]
        return self._of.relu_mlp("top", torch.cat([*dots, z_BK], dim=1))

    def _vectors(self, x_BX: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of embeddings and of numbers, as model/input_vectors.py."""
        weight_KX, end = self._of.w["vectors.weight_KX"], self._starts[-1]
        spans = list(pairwise(self._starts))
        e_BFK = torch.stack([linear(x_BX[:, a:b], weight_KX[:, a:b]) for a, b in spans], dim=1)
        return e_BFK, x_BX[:, end:, None] * weight_KX[:, end:].T

    def _ple(self, x_BX: Tensor) -> Tensor:
        mixtures = [x_BX] * (self._tasks + 1)
        for level in range(self._of.count("levels")):
            mixtures = self._ple_level(f"levels.{level}", mixtures)
        return torch.cat(mixtures, dim=1)

    def _ple_level(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the mixture of each gate; the last level has none for the shared experts."""
        width = self._sizes["expert_width"]
        groups = [
            self._of.linear(f"{name}.experts.{group}", g_BI).relu().unflatten(1, (-1, width))
            for group, g_BI in enumerate(inputs)
        ]
        *own, shared = groups
        choices = [*(torch.cat([group, shared], dim=1) for group in own), torch.cat(groups, dim=1)]
        mixtures = []
        for gate in range(self._of.count(f"{name}.gates")):
            logits_BE = self._of.linear(f"{name}.gates.{gate}", inputs[gate])
            weights_B1E = logits_BE.softmax(dim=-1)[:, None]
            mixtures.append((weights_B1E @ choices[gate])[:, 0])
        return mixtures


def linear(x: Tensor, w_OI: Tensor, b_O: Tensor | None = None) -> Tensor:
    """Return w x + b along the last axis, computed with at least `MIN_OUTPUTS` outputs."""
    missing = MIN_OUTPUTS - len(w_OI)
    if missing <= 0:
        return functional.linear(x, w_OI, b_O)
    bias = None if b_O is None else functional.pad(b_O, (0, missing))
    padded = functional.linear(x, functional.pad(w_OI, (0, 0, 0, missing)), bias)
    return padded[..., :-missing].contiguous()


class Towers:
    """From h to the logits: one tower for each task."""

    def __init__(self, weights: Weights) -> None:
        """Take the weights whose names begin with `heads.`."""
        self.w1_TWD, self.b1_TD = weights["heads.w1_TWD"], weights["heads.b1_TD"]
        self.w2_TD, self.b2_T = weights["heads.w2_TD"], weights["heads.b2_T"]
        self.tasks, self.width, self.hidden = self.w1_TWD.shape

    def __call__(self, h_BH: Tensor) -> Tensor:
        """Return `logits_BT`."""
        return self.read_out(self.hidden_units(h_BH))

    def hidden_units(self, h_BH: Tensor) -> Tensor:
        """Return the hidden units before their ReLU, `hidden_BTD`."""
        h_BTW = h_BH.reshape(-1, self.tasks, self.width)
        by_task = [linear(h_BTW[:, task], self.w1_TWD[task].T) for task in range(self.tasks)]
        return torch.stack(by_task, dim=1) + self.b1_TD

    def read_out(self, hidden_BTD: Tensor) -> Tensor:
        """Return the logits of hidden units before their ReLU, `logits_BT`."""
        # A sum along each row. A product with one output would round by the number of rows.
        return (hidden_BTD.relu() * self.w2_TD).sum(dim=-1) + self.b2_T


# ------------------------------------------------ histories, as model/histories/


class Histories:
    """Histories whose values are read one by one, each by a reader of its own."""

    def __init__(self, weights: Weights, shapes: Sequence[Mapping[str, Any]], kind: str) -> None:
        """Take the weights whose names begin with `histories.readers.`.

        Args:
            weights: dense weights by name.
            shapes: `histories` of `export.json`.
            kind: `model.history` of `export.json`.

        Raises:
            BadExport: the reader is one that this file does not know.
        """
        readers = {"din": _target_attention, "sasrec": _self_attention, "caser": _convolutions}
        if shapes and kind not in readers:
            raise BadExport(f"the history reader {kind} is not known here. Export it again")
        self.shapes = shapes
        self._read = readers.get(kind)
        self._of = [Layers(weights, f"histories.readers.{index}.") for index in range(len(shapes))]

    def __call__(self, values: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
        """Return the units of each history, `s_BS`.

        Args:
            values: of each history `e_BLK`, `is_value_BL` and the target `t_BK`.
        """
        if self._read is None:
            return []
        return [self._read(of, *each) for of, each in zip(self._of, values, strict=True)]


def _target_attention(of: Layers, e_BLK: Tensor, is_value_BL: Tensor, t_BK: Tensor) -> Tensor:
    """Return the sum of the values, weighted by what each has to do with the target."""
    read_BLA = of.linear("of_value", torch.cat([e_BLK, e_BLK * t_BK[:, None]], dim=2))
    read_BLA = read_BLA + of.linear("of_target", t_BK)[:, None]
    hidden_BLA = functional.prelu(read_BLA, of.w["activation.weight"])
    a_BL1 = of.linear("weigh", hidden_BLA) * is_value_BL[:, :, None]
    s_BK: Tensor = (a_BL1 * e_BLK).sum(dim=1)
    return s_BK


def _self_attention(of: Layers, e_BLK: Tensor, is_value_BL: Tensor, t_BK: Tensor) -> Tensor:
    """Return the last state of causal self-attention, and its products with the target."""
    blocks, length = of.count("blocks"), e_BLK.shape[1]
    f_BLK = e_BLK + of.w["position_LK"][-length:]
    for block in range(blocks):
        # No state of the last block is read but the last one.
        queries = 1 if block == blocks - 1 else length
        f_BLK = _attention_block(of, f"blocks.{block}", f_BLK, is_value_BL, queries)
    f_BK = f_BLK[:, 0] * is_value_BL[:, -1:]
    return torch.cat([f_BK, f_BK * t_BK], dim=1)


def _attention_block(
    of: Layers, name: str, f_BLK: Tensor, is_value_BL: Tensor, queries: int
) -> Tensor:
    """Return the next states of the last `queries` positions."""
    normed_BLK = _normed(of, f"{name}.attention_norm", f_BLK)
    q_BQK = of.linear(f"{name}.query", normed_BLK[:, -queries:]) / math.sqrt(f_BLK.shape[2])
    k_BLK, v_BLK = of.linear(f"{name}.key", normed_BLK), of.linear(f"{name}.value", normed_BLK)
    first, read = f_BLK.shape[1] - queries, []
    for query in range(queries):
        past = slice(0, first + query + 1)
        score_BP = (q_BQK[:, query, None] * k_BLK[:, past]).sum(dim=2)
        may_not_BP = ~is_value_BL[:, past]
        lowest = torch.finfo(score_BP.dtype).min
        weight_BP = score_BP.masked_fill(may_not_BP, lowest).softmax(dim=-1)
        read.append((weight_BP[:, :, None] * v_BLK[:, past]).sum(dim=1))
    s_BQK = f_BLK[:, -queries:] + torch.stack(read, dim=1)
    fed_BQK = of.linear(f"{name}.feed.0", _normed(of, f"{name}.feed_norm", s_BQK)).relu()
    return s_BQK + of.linear(f"{name}.feed.2", fed_BQK)


def _normed(of: Layers, name: str, f_BLK: Tensor) -> Tensor:
    weight_K, bias_K = of.w[f"{name}.weight"], of.w[f"{name}.bias"]
    return functional.layer_norm(f_BLK, weight_K.shape, weight_K, bias_K)


def _convolutions(of: Layers, e_BLK: Tensor, is_value_BL: Tensor, t_BK: Tensor) -> Tensor:
    """Return the joined filters over successive values, and their products with the target."""
    length, width = e_BLK.shape[1:]
    answers = []
    for layer in range(of.count("horizontal")):
        height = of.w[f"horizontal.{layer}.weight"].shape[1] // width
        padded = functional.pad(e_BLK, (0, 0, height - 1, 0))
        window_BLD = padded.unfold(1, height, 1).transpose(2, 3).flatten(2)
        answer_BLN = of.linear(f"horizontal.{layer}", window_BLD).relu() * is_value_BL[:, :, None]
        answers.append(answer_BLN.amax(dim=1))
    of_positions_VL = of.w["vertical.weight"][:, -length:]
    answers.append(linear(e_BLK.transpose(1, 2), of_positions_VL).flatten(1))
    z_BK = of.linear("join", torch.cat(answers, dim=1)).relu() * is_value_BL[:, -1:]
    return torch.cat([z_BK, z_BK * t_BK], dim=1)


# ------------------------------------------------ a base known by its columns, as model/given.py


class Given:
    """The columns of a base that is never run: logits, and the activations that kernels read."""

    def __init__(self, document: Mapping[str, Any], weights: Weights) -> None:
        """Take the columns.

        Args:
            document: `given` of `export.json`.
            weights: weights of the towers between the activations and the logits, if any.
        """
        self._logits: list[str] = document["logits"]
        self._h, self._units = document["h"], document["units"] or 0
        layers = document["tower_layers"]
        self.tail = Tail(weights, tasks=len(self._logits), layers=layers) if layers else None

    @property
    def columns(self) -> list[str]:
        """Return the columns that are read."""
        return [*self._logits, *([self._h] if self._h else [])]

    def represent(self, numbers_BN: Tensor, rows: Columns) -> tuple[Tensor, Tensor]:
        """Return h and x; zeros stand for what cannot be used.

        Args:
            numbers_BN: the numbers of the rows.
            rows: their columns.
        """
        found = [self._logit(rows, name) for name in self._logits]
        logit_TB = [np.where(np.isfinite(values), values, 0) for values in found]
        logits_BT = torch.from_numpy(np.stack(logit_TB, axis=1))
        g_BU, is_usable_B = self._activations(rows)
        g_BU[~is_usable_B] = 0
        if self.tail is None:
            return logits_BT, torch.cat([numbers_BN, torch.from_numpy(g_BU)], dim=1)
        moved_BU = torch.from_numpy(g_BU)
        lost_BT = logits_BT - self.tail.towers(moved_BU)
        return torch.cat([lost_BT, moved_BU], dim=1), torch.cat([numbers_BN, logits_BT], dim=1)

    def breaches(self, rows: Columns) -> list[tuple[str, list[bool]]]:
        """Return why the base cannot be used, and in which rows."""
        found = [
            (f"no finite logit in {name}", ~np.isfinite(self._logit(rows, name)))
            for name in self._logits
        ]
        if self._h:
            _, is_usable_B = self._activations(rows)
            found.append((f"no list of {self._units} finite numbers in {self._h}", ~is_usable_B))
        return [(text, mask.tolist()) for text, mask in found]

    @staticmethod
    def _logit(rows: Columns, name: str) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):  # beyond fp32: infinite, and so not usable
            values = np.array([_number(value, name) for value in rows[name]], np.float64)
            return values.astype(np.float32)

    def _activations(self, rows: Columns) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return the activations (B, U), and which rows have U finite ones."""
        lists = rows[self._h] if self._h else [()] * len(rows[self._logits[0]])
        g_BU = np.zeros((len(lists), self._units), np.float32)
        is_usable_B = np.zeros(len(lists), np.bool_)
        for row, values in enumerate(lists):
            if values is not None and len(values) == self._units:
                g_BU[row] = _floats(values, self._h)
                is_usable_B[row] = np.isfinite(g_BU[row]).all()
        return g_BU, is_usable_B


class Tail:
    """The towers between the activations of a given base and its logits."""

    def __init__(self, weights: Weights, *, tasks: int, layers: int) -> None:
        """Take the weights whose names begin with `towers.`."""
        self.tasks, self._layers = tasks, range(layers)
        self._w = {n.removeprefix("towers."): w for n, w in weights.items()}

    def __call__(self, h_BH: Tensor) -> Tensor:
        """Return `logits_BT`: what rounding lost, and what the towers make of the activations."""
        return h_BH[:, : self.tasks] + self.towers(h_BH[:, self.tasks :])

    def towers(self, g_BU: Tensor) -> Tensor:
        """Return the logits of activations, `logits_BT`."""
        logits = []
        for task in range(self.tasks):
            part = g_BU
            for layer in self._layers:
                part = part.relu() if layer else part
                name = f"{task}.{layer}"
                part = linear(part, self._w[f"{name}.weight"], self._w[f"{name}.bias"])
            logits.append(part)
        return torch.cat(logits, dim=1)


def _floats(values: Any, column: str) -> npt.NDArray[np.float32]:  # noqa: ANN401 - a row's list
    """Return a list of numbers in fp32; an array of uint16 has the bits of bfloat16."""
    if isinstance(values, np.ndarray) and values.dtype == np.uint16:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore"):
        return np.array([_number(value, column) for value in values], np.float64).astype(np.float32)


# ------------------------------------------------ fresh statistics, as fresh/inputs.py


class Timeline:
    """Counts of the keys of one table, as running sums over days or folds."""

    def __init__(self, tensors: Weights, table: str) -> None:
        """Take the table's arrays, as fresh/timeline.py lays them out."""
        names = ("keys", "places", "sums", "bounds")
        keys, cells, sums, bounds = (tensors[f"{table}/{name}"].numpy() for name in names)
        self._keys_U, self._cells_n, self._sums_nC = keys.view(np.uint64), cells, sums
        self.first, self.periods = (int(bound) for bound in bounds)

    def through(self, keys_B: Keys, periods_B: Ids) -> Ids:
        """Return the counts of each key up to a period, which is included, (B, C)."""
        counts_BC = np.zeros((len(keys_B), self._sums_nC.shape[1]), np.int64)
        if not len(self._keys_U):
            return counts_BC
        index_B = np.minimum(np.searchsorted(self._keys_U, keys_B), len(self._keys_U) - 1)
        start_B = index_B * self.periods
        last_B = start_B + np.minimum(periods_B - self.first, self.periods - 1)
        entry_B = np.searchsorted(self._cells_n, last_B, side="right") - 1
        # The entry belongs to another key where this one was not counted so early, or never.
        is_counted_B = (self._keys_U[index_B] == keys_B) & (periods_B >= self.first)
        is_counted_B &= (entry_B >= 0) & (self._cells_n[entry_B] >= start_B)
        counts_BC[is_counted_B] = self._sums_nC[entry_B[is_counted_B]]
        return counts_BC


class State:
    """What one night counted."""

    def __init__(self, path: Path, last: int | None) -> None:
        """Map a file of counts.

        Args:
            path: the file.
            last: last day that was counted, in days since 1970; None where periods are folds.
        """
        tensors = _mapped(path)
        tables = {name.rpartition("/")[0] for name in tensors}
        self._tables = {table: Timeline(tensors, table) for table in tables}
        self._last = last

    def readable(self, table: str, keys_B: Keys, periods_B: Ids, lag: int) -> Ids:
        """Return the counts that rows may read, (B, C): until `lag` days before, or other folds."""
        timeline = self._tables[table]
        if self._last is not None:
            return timeline.through(keys_B, np.minimum(periods_B, self._last + 1) - lag)
        end_B = np.full(len(keys_B), timeline.first + timeline.periods, np.int64)
        own_BC = timeline.through(keys_B, periods_B) - timeline.through(keys_B, periods_B - 1)
        return timeline.through(keys_B, end_B) - own_BC


class Statistics:
    """The fresh statistics that a bank's kernels read."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        """Map the counts, each file after a check of its digest.

        Args:
            folder: folder of the bank.
            document: `statistics` of `bank.json`.

        Raises:
            BadExport: a file is missing or was changed.
        """
        self._document = document
        self._reads: list[dict[str, Any]] = document["reads"]
        self._states = []
        for index, entry in enumerate(document["states"]):
            path = folder / f"statistics-{index}.safetensors"
            _check_digest(path, entry["sha256"])
            self._states.append(State(path, entry["last"]))

    @property
    def columns(self) -> dict[str, bool]:
        """Return the columns that are read, and whether each of them may be missing."""
        document = self._document
        required = [name for read in self._reads for name in _columns_of(read)]
        optional = [document[name] for name in ("date_key", "event_time", "fold_by", "row_id")]
        return {name: True for name in optional if name} | dict.fromkeys(required, False)

    def of(self, rows: Columns, slots: Sequence[int], filled: int) -> Tensor:
        """Return each row's statistics by the counts of its kernel's night, (B, S).

        Args:
            rows: the columns, without what fills the batch up.
            slots: kernel of each row. One without a kernel has zeros, which nobody reads.
            filled: rows of the filled batch.
        """
        s_BS = torch.zeros(filled, sum(map(_width_of, self._reads)))
        of_kernel = [*self._document["state_of_kernel"], None]  # the last one is BASE_SLOT's
        for index, state in enumerate(self._states):
            own = [row for row, slot in enumerate(slots) if of_kernel[slot] == index]
            if own:
                some = {name: [rows[name][row] for row in own] for name in self.columns}
                lookup = Lookup(some, self._periods(some, own), state)
                columns = [column for read in self._reads for column in lookup.statistics(read)]
                s_BS[own] = torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))
        return s_BS

    def _periods(self, rows: Columns, numbers: Sequence[int]) -> Ids:
        """Return the day of each row, later than all counts where it has none; or its fold."""
        document = self._document
        if name := document["date_key"]:
            read = day_of_number if document.get("date_unit") else day_of_date
            days = [read(value) for value in rows[name]]
        elif name := document["event_time"]:
            unit, zone = document["event_time_unit"], document["time_zone"]
            written = document.get("event_time_format")
            times = [written_time(v, written) if written else v for v in rows[name]]
            days = [day_of_time(value, name, unit=unit, zone=zone) for value in times]
        else:
            return self._folds(rows, numbers)
        return np.array([NEWEST if day is None else day for day in days], np.int64)

    def _folds(self, rows: Columns, numbers: Sequence[int]) -> Ids:
        """Return the fold of each row of a log without days."""
        file_key = keys_of(["rows"], "")
        identity = combine(np.repeat(file_key, len(numbers)), np.array(numbers, np.uint64))
        for name in (self._document["row_id"], self._document["fold_by"]):
            if name:
                is_null = np.array([_is_missing(value) for value in rows[name]], np.bool_)
                identity = np.where(is_null, identity, keys_of(rows[name], name))
        salted = combine(identity, np.full(len(identity), np.uint64(FOLD_SALT)))
        share_B = (salted >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (share_B * FOLDS).astype(np.int64)


class BaseStatistics:
    """Fresh statistics that the base reads as numbers, as fresh/base_numbers.py."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        """Map the counts.

        Args:
            folder: folder of the counts.
            document: `fresh` of `export.json`.

        Raises:
            BadExport: a file is missing or was changed.
        """
        self._statistics = Statistics(folder, document["statistics"])
        self._mean_S, self._scale_S = (np.array(document[name]) for name in ("mean", "scale"))

    @property
    def columns(self) -> dict[str, bool]:
        """Return the columns that are read, and whether each of them may be missing."""
        return self._statistics.columns

    def of(self, rows: Columns, count: int) -> Tensor:
        """Return the standardised statistics of so many rows, (B, S)."""
        s_BS = self._statistics.of(rows, [0] * count, count).numpy()
        return torch.from_numpy(((s_BS - self._mean_S) / self._scale_S).astype(np.float32))


class Lookup:
    """Some rows, whose statistics are computed from the counts of one night."""

    def __init__(self, rows: Columns, periods_B: Ids, state: State) -> None:
        """Take the rows.

        Args:
            rows: columns of the rows.
            periods_B: their days or folds.
            state: the counts.
        """
        self._rows, self._periods_B, self._state = rows, periods_B, state
        # Several rates and windows read the same keys and counts.
        self._known_keys: dict[tuple[str, ...], Keys] = {}
        self._known_counts: dict[tuple[str, int], Ids] = {}

    def statistics(self, read: Mapping[str, Any]) -> list[Floats]:
        """Return the numbers of one `[[fresh]]`."""
        return self._rates(read) if read["kind"] == "counts" else self._lifts(read)

    def _rates(self, read: Mapping[str, Any]) -> list[Floats]:
        """Return smoothed log-odds and the log of one plus the labels, by key, window and rate."""
        columns = []
        for chain in read["chains"]:
            for window in read["windows"]:
                for rate in read["rates"]:
                    known_B, positive_B = self._labels((), None, rate)
                    share_B = (positive_B + 1) / (known_B + 2)
                    for key in chain:
                        known_B, positive_B = self._labels(key, window, rate)
                        share_B = (positive_B + read["prior"] * share_B) / (known_B + read["prior"])
                    columns += [np.log(share_B / (1 - share_B)), np.log1p(known_B)]
        return columns

    def _lifts(self, read: Mapping[str, Any]) -> list[Floats]:
        """Return sum, maximum and mean of the lift over each history, and the share of hits."""
        rate, prior, name = read["rate"], read["prior"], read["history"]
        lists = [_last_values(values, read, name) for values in self._rows[name]]
        lengths_B = np.array([len(values) for values in lists], np.int64)
        row_m = np.repeat(np.arange(len(lists)), lengths_B)
        others_m = crossed([[value for values in lists for value in values]], [name])
        items_m, periods_m = self._keys((read["item"],))[row_m], self._periods_B[row_m]
        pairs_m = (items_m & UPPER) | (combine(items_m, others_m) >> np.uint64(32))
        count = self._state.readable
        pair_m = count(read["pairs"], pairs_m, periods_m, rate["lag"])[:, 0]
        other_m = count(read["others"], others_m, periods_m, rate["lag"])[:, 0]
        _, item_B = self._labels((read["item"],), None, rate)
        _, all_B = self._labels((), None, rate)
        expected_m = item_B[row_m] * other_m / np.maximum(all_B, 1)[row_m]
        lift_m = np.log((pair_m + prior) / (expected_m + prior))
        most_B = np.full(len(lists), -np.inf)
        np.maximum.at(most_B, row_m, lift_m)
        sum_B, hits_B = (
            np.bincount(row_m, weights=weights, minlength=len(lists)).astype(np.float64)
            for weights in (lift_m, pair_m > 0)
        )
        divisor_B = np.maximum(lengths_B, 1)
        most_B = np.where(np.isfinite(most_B), most_B, 0.0)
        return [sum_B, most_B, sum_B / divisor_B, hits_B / divisor_B]

    def _labels(
        self, key: Sequence[str], window: int | None, rate: Mapping[str, int]
    ) -> tuple[Floats, Floats]:
        """Return the known and the positive labels of each row's key in a window of days."""
        first, counts_BC = 2 * rate["index"], self._counts(key, rate["lag"])
        if window is not None:
            counts_BC = counts_BC - self._counts(key, rate["lag"] + window)
        return counts_BC[:, first].astype(np.float64), counts_BC[:, first + 1].astype(np.float64)

    def _counts(self, key: Sequence[str], lag: int) -> Ids:
        """Return the counts of each row's key until `lag` days before its day."""
        name = (f"s.key.{'+'.join(key)}", lag)
        if name not in self._known_counts:
            self._known_counts[name] = self._state.readable(
                name[0], self._keys(key), self._periods_B, lag
            )
        return self._known_counts[name]

    def _keys(self, columns: Sequence[str]) -> Keys:
        """Return the key of each row; zero where there is no column."""
        names = tuple(columns)
        if names not in self._known_keys:
            values = [self._rows[name] for name in names]
            nothing = np.zeros(len(self._periods_B), np.uint64)
            self._known_keys[names] = crossed(values, names) if names else nothing
        return self._known_keys[names]


def _columns_of(read: Mapping[str, Any]) -> list[str]:
    """Return the columns whose values one `[[fresh]]` counts."""
    if read["kind"] == "co_occurrence":
        return [read["item"], read["history"]]
    return [name for chain in read["chains"] for key in chain for name in key]


def _width_of(read: Mapping[str, Any]) -> int:
    """Return the numbers of one `[[fresh]]`."""
    if read["kind"] == "co_occurrence":
        return 4
    return 2 * len(read["chains"]) * len(read["windows"]) * len(read["rates"])


def day_of_date(value: Any) -> int | None:  # noqa: ANN401 - a value of a row
    """Return the day of a date key's value since 1970-01-01; None where there is none.

    A name may stand before a day. An hour belongs to its day. A week or a month stands for its last
    day.
    """
    text = (value or "").strip()
    if named := _NAMED_DAY.fullmatch(text):
        text = named[1]
    if hour := _HOUR.fullmatch(text):
        text = hour[1].removesuffix("-")
    if month := _MONTH.fullmatch(text):
        year, number = int(month[1]), int(month[2])
        return date(year + number // 12, number % 12 + 1, 1).toordinal() - 1 - EPOCH
    if re.fullmatch(r"\d{8}..", text):  # Python 3.11 leaves out the last two characters
        return None
    try:
        day = date.fromisoformat(text).toordinal() - EPOCH
        return day + 6 if _WEEK.fullmatch(text) else day
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.toordinal() - EPOCH if moment.time() == time.min else None


def day_of_number(value: Any) -> int | None:  # noqa: ANN401 - a value of a row
    """Return the number of a day that a date key's value ends in; None where it ends in none."""
    number = _DAY_NUMBER.fullmatch("" if value is None else str(value).strip())
    return int(number[1]) if number else None


def written_time(value: Any, written: str) -> Any:  # noqa: ANN401 - a value of a row
    """Return text or digits as a datetime, None where they are written otherwise.

    Args:
        value: a value; one that is neither text nor a whole number comes back as it is.
        written: codes of strptime, `iso`, or `unix`, of which a number is returned.
    """
    if written == "unix":
        known = _without_words(value)
        return float(known) if isinstance(known, str) else known
    if isinstance(value, bool) or not isinstance(value, str | numbers.Integral):
        return value
    try:
        if written == "iso":
            text = str(value).replace(" UTC", "Z")
            return datetime.fromisoformat(text) if _ISO.fullmatch(str(value)) else None
        return datetime.strptime(str(value), written)
    except ValueError:
        return None


def day_of_time(value: Any, column: str, *, unit: str, zone: str) -> int | None:  # noqa: ANN401
    """Return the day since 1970-01-01 that the clocks of a zone show at a time.

    Args:
        value: a number in `unit`, a datetime, or a date; None gives None.
        column: name of its column, for the message.
        unit: unit of a number: d, s, ms, us or ns.
        zone: zone in which days are cut. A datetime without a zone is a wall clock in it.

    Raises:
        BadRows: the value is no time.
    """
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(ZoneInfo(zone))
    if isinstance(value, date):
        return value.toordinal() - EPOCH
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise BadRows(f"column {column} holds {value!r}; expected a number in {unit}, or a time")
    if not math.isfinite(value):
        return None
    if unit == "ns" and isinstance(value, numbers.Integral):
        # A double cannot represent the nanoseconds since 1970 of a day in this century.
        value, unit = math.trunc(Fraction(int(value), 1000)), "us"
    seconds = float(value) * DAY_S if unit == "d" else float(value) / PER_SECOND[unit]
    micros = int(np.clip(seconds * 1e6, -MAX_MICROS, MAX_MICROS))
    if zone != "UTC":
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
        offset = moment.astimezone(ZoneInfo(zone)).utcoffset()
        micros += 0 if offset is None else offset // timedelta(microseconds=1)
    return micros // DAY_MICROS


# ------------------------------------------------ kernels, as iak/predictor.py


class SortedRows:
    """Rows of a batch sorted by kernel, each kernel's filled up to a multiple of `SEGMENT_ROWS`."""

    def __init__(self, slots_B: Tensor) -> None:
        """Sort the rows.

        Args:
            slots_B: kernel of each row, `BASE_SLOT` for none.
        """
        order = torch.argsort(slots_B, stable=True)
        order = order[slots_B[order] != BASE_SLOT]
        slots_P, lengths_P = slots_B[order].unique_consecutive(return_counts=True)
        filled_P = -(-lengths_P // SEGMENT_ROWS) * SEGMENT_ROWS
        index_R = torch.arange(len(slots_P)).repeat_interleave(filled_P)
        number_R = torch.arange(len(index_R)) - (filled_P.cumsum(0) - filled_P)[index_R]
        starts_P, last_R = lengths_P.cumsum(0) - lengths_P, lengths_P[index_R] - 1
        self.slots, self.runs = slots_P.tolist(), (filled_P // SEGMENT_ROWS).tolist()
        """Kernels that have rows, and how many times `SEGMENT_ROWS` rows each of them has."""
        self.owners = slots_P[index_R]
        """Kernel of each sorted row."""
        self.is_row = number_R <= last_R
        """Whether it is a row of the batch, and does not fill up."""
        self.index = order[starts_P[index_R] + torch.minimum(number_R, last_R)]
        """Index in the batch of each sorted row."""

    def spread(self, values_K: Tensor) -> Tensor:
        """Repeat each kernel's value for each of its rows."""
        return values_K.index_select(0, self.owners)

    def put_back(self, values_RX: Tensor, count: int) -> Tensor:
        """Return values in the order of a batch of `count` rows, zeros where a row has none."""
        index, values_RX = self.index[self.is_row], values_RX[self.is_row]
        return values_RX.new_zeros(count, values_RX.shape[1]).index_copy_(0, index, values_RX)


class SlotLinear:
    """A matrix for each kernel, and its product with that kernel's rows."""

    def __init__(self, w_KIO: Tensor) -> None:
        """Take the matrices; inputs and outputs are filled up to multiples of four floats."""
        self.outputs = w_KIO.shape[2]
        missing = max(MIN_OUTPUTS - self.outputs, 0) or -self.outputs % 4
        self.w_KIO = functional.pad(w_KIO, (0, missing, 0, -w_KIO.shape[1] % 4))
        self.by_slot = self.w_KIO.split(1) if self.w_KIO[0].numel() > MAX_COPIED else None

    def __call__(self, x_BI: Tensor, rows: SortedRows) -> Tensor:
        """Return w[k] x[b] for each row b of each kernel k."""
        x_BI = functional.pad(x_BI, (0, -x_BI.shape[1] % 4))
        x_GSI = x_BI.unflatten(0, (-1, SEGMENT_ROWS))
        if self.by_slot is None:
            w_GIO = self.w_KIO.index_select(0, rows.owners[::SEGMENT_ROWS])
            y_GSO = torch.bmm(x_GSI, w_GIO)
        else:
            y_GSO = x_GSI.new_empty(len(x_GSI), SEGMENT_ROWS, self.w_KIO.shape[2])
            parts = zip(x_GSI.split(rows.runs), rows.slots, y_GSO.split(rows.runs), strict=True)
            for run, slot, out in parts:
                w_1IO = self.by_slot[slot]
                w_NIO = w_1IO if len(run) == 1 else w_1IO.expand(len(run), -1, -1)
                torch.bmm(run, w_NIO, out=out)
        return y_GSO.flatten(0, 1)[:, : self.outputs]


class Bank:
    """The kernels of one night, on one base."""

    def __init__(self, folder: Path, base_fingerprint: str, towers: Towers | Tail) -> None:
        """Read a bank.

        Args:
            folder: folder with `bank.json` and `bank.safetensors`.
            base_fingerprint: the base that the kernels must have been tuned on.
            towers: its towers.

        Raises:
            BadExport: there is no bank, it was changed, or it is of another base.
        """
        document = _document(folder / "bank.json", "iak-bank")
        if document["base_fingerprint"] != base_fingerprint:
            raise BadExport(
                f"{folder} has kernels of base {document['base_fingerprint']}; this export is of "
                f"base {base_fingerprint}. Export the bank of this base, or the new base as well"
            )
        file = folder / "bank.safetensors"
        _check_digest(file, document["sha256"])
        self.w = _read(file)
        self._reads_x = document["reads_x"]
        self.kernels: list[dict[str, Any]] = document["kernels"]
        described = document.get("statistics")
        self.statistics = Statistics(folder, described) if described else None
        self._towers = towers
        numbers = range(sum(name.startswith("layers.") for name in self.w) // 2)
        self._layers = [SlotLinear(self.w[f"layers.{number}.w"]) for number in numbers]
        self._biases = [self.w[f"layers.{number}.b"] for number in numbers]
        # One map of all kernels, which also divides x by its scale, or one of each kernel.
        self._components = self.w.get("x.components")
        self._narrow = SlotLinear(self.w["x.narrow"]) if "x.narrow" in self.w else None
        self.slots = {kernel["domain"]: slot for slot, kernel in enumerate(self.kernels)}

    def route(self, path: Sequence[str]) -> tuple[int, str | None]:
        """Return the slot that predicts a domain, and why it is not the domain's own.

        Args:
            path: names from the pooled level down to the domain's own.
        """
        own = self.slots.get(path[-1], BASE_SLOT)
        for name in reversed(path):
            slot = self.slots.get(name, BASE_SLOT)
            if slot != BASE_SLOT and self.kernels[slot]["published"]:
                return slot, None if slot == own else NO_KERNEL if own == BASE_SLOT else HELD
        return BASE_SLOT, NO_KERNEL if own == BASE_SLOT else HELD

    def logits(
        self, h_BH: Tensor, x_BX: Tensor, slots_B: Tensor, s_BS: Tensor | None = None
    ) -> Tensor:
        """Return `logits_BT`, each row's by the kernel in its slot, or the base's without one.

        Args:
            h_BH: the base's representation.
            x_BX: inputs of the trunk.
            slots_B: kernel of each row, `BASE_SLOT` for none.
            s_BS: fresh statistics of the rows; None where the kernels read none.
        """
        rows, towers = SortedRows(slots_B), self._towers
        if not rows.slots:
            return towers(h_BH)
        added_BY = rows.put_back(self._added(self._inputs(h_BH, x_BX, s_BS, rows), rows), len(h_BH))
        within_BX, skip_BT = added_BY[:, : -towers.tasks], added_BY[:, -towers.tasks :]
        if isinstance(towers, Tail):
            return towers(h_BH + within_BX) + skip_BT
        shift_BTD = within_BX.unflatten(1, (towers.tasks, towers.hidden))
        return towers.read_out(towers.hidden_units(h_BH) + shift_BTD) + skip_BT

    def _inputs(self, h_BH: Tensor, x_BX: Tensor, s_BS: Tensor | None, rows: SortedRows) -> Tensor:
        """Return the inputs of sorted rows; the first layer includes their standardisation."""
        parts = [h_BH.index_select(0, rows.index)]
        if self._components is not None:
            parts.append(linear(x_BX, self._components).index_select(0, rows.index))
        elif self._reads_x:
            parts.append(x_BX.index_select(0, rows.index))
        if self._narrow is not None:
            mean_RX, scale_RX = (rows.spread(self.w[f"x.{name}"]) for name in ("mean", "scale"))
            parts[1] = self._narrow((parts[1] - mean_RX) / scale_RX, rows)
        if s_BS is not None:
            parts.append(s_BS.index_select(0, rows.index))
        return torch.cat(parts, dim=1)

    def _added(self, u_RA: Tensor, rows: SortedRows) -> Tensor:
        """Return what the kernels add to the towers' hidden units, and to the logits after them."""
        y_RO = self._layers[0](u_RA, rows)
        hidden = self._biases[0].shape[1]  # what follows are the adapters' outputs
        e_RO = (y_RO[:, :hidden] + rows.spread(self._biases[0])).relu()
        y_RO = torch.cat([e_RO, y_RO[:, hidden:]], dim=1)
        for layer, bias_KO in zip(self._layers[1:], self._biases[1:], strict=True):
            y_RO = layer(y_RO, rows) + rows.spread(bias_KO)
        return y_RO


# ------------------------------------------------ the whole, as serving/scorer.py


class Model:
    """An exported base, and the kernels that predict on it now."""

    def __init__(self, folder: Path) -> None:
        """Read an export; callers use `load`."""
        self._document = _document(folder / "export.json", "iak-export")
        for name, digest in self._document["files"].items():
            # Tables stay on disk until a row is read. Who reads statistics checks them.
            if not name.startswith(("tables/", "fresh/")):
                _check_digest(folder / name, digest)
        dense = _read(folder / "dense.safetensors")
        self.fingerprint = str(self._document["base_fingerprint"])
        self.encoder = Encoder(self._document, _read(folder / "encoding.safetensors"))
        self.tables = Tables(folder / "tables", self._document["tables"])
        described, fresh = self._document.get("given"), self._document.get("fresh")
        self._given = Given(described, dense) if described else None
        self._fresh = BaseStatistics(folder / "fresh", fresh) if fresh else None
        self._towers = (self._given and self._given.tail) or Towers(dense)
        sizes = self._document["model"]
        # Documents of older versions have no histories, and a mean is not written.
        shapes, kind = self._document.get("histories", []), sizes.get("history", "mean")
        self._histories = Histories(dense, shapes, kind)
        self._trunk = None if described else self._new_trunk(dense, sizes)
        bank = folder / "bank"
        self._bank = Bank(bank, self.fingerprint, self._towers) if bank.is_dir() else None

    def _new_trunk(self, dense: Weights, sizes: Mapping[str, Any]) -> Trunk:
        read = [self.encoder.table_of(feature) for feature in self.encoder.keyed]
        widths = [self.tables.width(table) for table in read]
        return Trunk(dense, sizes, tasks=len(self._document["tasks"]), embeddings=widths)

    def load_bank(self, folder: str | Path) -> None:
        """Let the kernels of another bank predict, from the next call on.

        Args:
            folder: an export, or what `iak export only=bank` wrote.

        Raises:
            BadExport: there is no bank, it was changed, or it is of another base.
        """
        path = Path(folder)
        path = path / "bank" if (path / "bank").is_dir() else path
        # One assignment. A call of `predict` in another thread has read the bank already, or not.
        self._bank = Bank(path, self.fingerprint, self._towers)

    @torch.no_grad()
    def predict(self, rows: Columns) -> dict[str, Any]:
        """Return the probabilities of rows; those of a row do not depend on the other rows.

        Args:
            rows: the columns of the log, partition keys among them, as sequences of one length.
                A value is a whole number, a float, text, a list of such, or None.

        Returns:
            `domain`, `p.TASK` for each task (float64; NaN where a row breaks the log's contract),
            `kernel`, `version` and `reason`, as `iak predict` writes them.

        Raises:
            BadRows: a column is missing, or a value cannot be read.
        """
        bank = self._bank  # once, because `load_bank` may replace it meanwhile
        columns, count = self._columns(rows, bank)
        if not count:
            return self._answers([], np.zeros((0, 2, len(self._document["tasks"]))), [], [])
        domains, routes, slots = self._routes(columns, count, bank)
        filled = {n: [*v, *[v[-1]] * (-count % FULL_ROWS)] for n, v in columns.items()}
        h_BH, x_BX = self._represent(filled)
        if bank is None:
            logits_BT = self._towers(h_BH)
        else:
            slots_B = torch.full((len(h_BH),), BASE_SLOT)
            slots_B[:count] = torch.tensor(slots)
            statistics = bank.statistics
            s_BS = statistics.of(columns, slots, len(h_BH)) if statistics else None
            logits_BT = bank.logits(h_BH, x_BX, slots_B, s_BS)
        p_BST = self._probabilities(logits_BT.double())[:count]
        return self._answers(domains, p_BST, routes, self._breaches(columns, count))

    def _needed(self, bank: Bank | None) -> dict[str, bool]:
        """Return every column that is read, and whether it may be missing."""
        document = self._document
        keys = (*document["domain_keys"], *document["parent_keys"])
        users = [document["user"]] if document["user"] else []
        needed = dict.fromkeys((*keys, *users), False)
        for feature in self.encoder.features:
            names = feature.get("columns") or [feature["column"] or feature["name"]]
            needed |= {n: needed.get(n, True) and feature["optional"] for n in names}
        needed |= dict.fromkeys(self._given.columns if self._given else (), False)
        for read in (self._fresh, bank.statistics if bank else None):
            if read is not None:
                needed = read.columns | needed  # a feature knows whether it may miss its own
        return needed

    def _columns(self, rows: Columns, bank: Bank | None) -> tuple[dict[str, list[Any]], int]:
        """Return every column that is read, as a list, and the number of rows."""
        needed = self._needed(bank)
        lengths = {n: len(rows[n]) for n in needed if n in rows}
        if len(set(lengths.values())) > 1:
            raise BadRows(f"columns differ in length: {lengths}; give one value for each row")
        count = next(iter(lengths.values()), 0)
        if missing := [n for n, is_optional in needed.items() if n not in rows and not is_optional]:
            raise BadRows(f"columns {', '.join(missing)} are missing; the rows have {list(rows)}")
        columns = {n: _listed(rows[n]) if n in rows else [None] * count for n in needed}
        for key in self.encoder.partition_keys & columns.keys():
            columns[key] = [_text(value, key) for value in columns[key]]
        return self.encoder.with_lists(columns), count

    def _represent(self, columns: Columns) -> tuple[Tensor, Tensor]:
        """Return h and x of a batch."""
        bags: dict[str, tuple[str, Ids, Ids]] = {}  # feature -> table, ids, ids of each row
        for feature in self.encoder.keyed:
            table = self.encoder.table_of(feature)
            bags[feature["name"]] = (table, *self.encoder.ids(feature, columns))
        means = {name: self.tables.means(*bag) for name, bag in bags.items()}
        count = len(next(iter(columns.values())))
        numeric_BN = torch.from_numpy(self.encoder.numbers(columns, count))
        if self._fresh is not None:
            numeric_BN = torch.cat([numeric_BN, self._fresh.of(columns, count)], dim=1)
        if self._given is not None:
            return self._given.represent(numeric_BN, columns)
        x_BX = torch.cat([*means.values(), numeric_BN], dim=1)
        assert self._trunk is not None, "only a given base has none"
        values = [
            (*self.tables.newest(*bags[s["feature"]], s["positions"]), means[s["target"]])
            for s in self._histories.shapes
        ]
        return self._trunk(torch.cat([x_BX, *self._histories(values)], dim=1)), x_BX

    def _routes(
        self, columns: Columns, count: int, bank: Bank | None
    ) -> tuple[list[str | None], list[tuple[str, str, str | None]], list[int]]:
        """Return the domain of each row, its (kernel, version, reason), and its slot."""
        keys, parents = self._document["domain_keys"], self._document["parent_keys"]
        own = _names(columns, keys, count)
        levels = [[POOLED] * count, *([_names(columns, parents, count)] if parents else []), own]
        routes, slots = [], []
        known: dict[tuple[str | None, ...], tuple[int, str | None]] = {}
        for path in zip(*levels, strict=True):
            if path not in known:
                names = [name for name in path if name]
                known[path] = bank.route(names) if bank else (BASE_SLOT, NO_BUNDLES)
            slot, reason = known[path]
            kernel, version = BASE, self.fingerprint
            if bank is not None and slot != BASE_SLOT:
                kernel, version = (bank.kernels[slot][n] for n in ("domain", "version"))
            routes.append((kernel, version, reason))
            slots.append(slot)
        return own, routes, slots

    def _breaches(self, columns: Columns, count: int) -> list[str | None]:
        """Return the first breach of the log's contract in each row; None where there is none."""
        document = self._document
        keys = document["domain_keys"]
        nulls = [(k, f"null domain key in {k}") for k in (*keys, *document["parent_keys"])]
        user = document["user"]
        nulls += [(user, f"null user in {user}")] if user else []
        declared = {tuple(values) for values in document["domains"]}
        unusable = self._given.breaches(columns) if self._given else []
        breaches: list[str | None] = []
        for row in range(count):
            breach = next((text for name, text in nulls if columns[name][row] is None), None)
            breach = breach or next((text for text, is_bad in unusable if is_bad[row]), None)
            values = tuple(_text(columns[key][row], key) for key in keys)
            if breach is None and declared and values not in declared:
                breach = "undeclared domain"
            breaches.append(breach)
        return breaches

    def _probabilities(self, logits_BT: Tensor) -> Floats:
        """Return each task's own probability and the one over all rows, (B, 2, T)."""
        # Logarithms of the probability over all rows: of a task that is given another one, the sum
        # of both. A given task stands before those that need it.
        logs: list[Tensor] = []
        for task, logit_B in zip(self._document["tasks"], logits_BT.unbind(dim=1), strict=True):
            log_B = functional.logsigmoid(logit_B)
            logs.append(log_B if task["given"] is None else logs[task["given"]] + log_B)
        entire_BT = torch.stack(logs, dim=1).exp()
        p_BST: Floats = torch.stack([logits_BT.sigmoid(), entire_BT], dim=1).numpy()
        return p_BST

    def _answers(
        self,
        domains: list[str | None],
        p_BST: Floats,
        routes: list[tuple[str, str, str | None]],
        breaches: list[str | None],
    ) -> dict[str, Any]:
        """Return the columns that `predict` documents."""
        is_broken = np.array([breach is not None for breach in breaches], np.bool_)
        answers: dict[str, Any] = {"domain": domains}
        for p in self._document["probabilities"]:
            own = p_BST[:, int(p["space"] == "all"), p["task"]]
            answers[f"p.{p['name']}"] = np.where(is_broken, np.nan, own)
        rows = list(zip(routes, breaches, strict=True))
        answers["kernel"] = [None if breach else kernel for (kernel, _, _), breach in rows]
        answers["version"] = [None if breach else version for (_, version, _), breach in rows]
        answers["reason"] = [breach or reason for (_, _, reason), breach in rows]
        return answers


def load(folder: str | Path) -> Model:
    """Read an export; its tables are mapped, and all other files are compared with their digests.

    Args:
        folder: what `iak export` wrote.

    Raises:
        BadExport: it is no export, a newer version wrote it, or a file was changed.
    """
    return Model(Path(folder))


def verify(folder: str | Path) -> None:
    """Compare every file of an export with its digest, tables included.

    Raises:
        BadExport: a file is missing or was changed.
    """
    for name, digest in _document(Path(folder) / "export.json", "iak-export")["files"].items():
        _check_digest(Path(folder) / name, digest)


def _listed(values: Sequence[Any] | npt.NDArray[Any]) -> list[Any]:
    """Return a column as a list of Python's own values."""
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _text(value: Any, column: str) -> str | None:  # noqa: ANN401 - a value of a row
    """Return the value of a key as text, as Arrow writes it."""
    if _is_missing(value):
        return None
    if isinstance(value, str):
        return value
    if type(value) is date:
        return value.isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, numbers.Integral) or _is_whole_float(value):
        return str(int(value))
    raise BadRows(f"column {column} holds {value!r}; expected text, a whole number or None")


def _names(columns: Columns, keys: Sequence[str], count: int) -> list[str | None]:
    """Return the name of each row's domain at the level of some keys; None where one is null."""
    names: list[str | None] = []
    for row in range(count):
        values = [_text(columns[key][row], key) for key in keys]
        pairs = zip(keys, values, strict=True)
        parts = [f"{_escaped(k)}={_escaped(v)}" for k, v in pairs if v is not None]
        names.append("/".join(parts) if len(parts) == len(keys) else None)
    return names


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def _document(path: Path, kind: str) -> dict[str, Any]:
    """Return a document of the export, after a check of its kind and format."""
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        actual = (document["kind"], document["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadExport(f"{path} cannot be read: {error}. Write it with `iak export`") from error
    if actual != (kind, FORMAT):
        raise BadExport(f"{path} is {actual}; expected {(kind, FORMAT)}. Export it again")
    return document


def _check_digest(path: Path, digest: str) -> None:
    """Refuse a file whose bytes have another digest."""
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadExport(f"{path} cannot be read: {error}. Export it again") from error
    if actual != digest:
        raise BadExport(f"{path} has SHA-256 {actual}, its document says {digest}. Export it again")


def _read(path: Path) -> dict[str, Tensor]:
    """Return copies of a file's tensors, which begin at aligned addresses."""
    return {name: tensor.clone() for name, tensor in _mapped(path).items()}


def _mapped(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors as views of its mapped pages, which nothing here changes."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise BadExport(f"{path} cannot be read: {error}. Export it again") from error
