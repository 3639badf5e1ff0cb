"""Define `[base]` of a catalogue: a recommender that was made elsewhere."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from iak.schemas.base import Column, JsonObject, Spec, Value, with_names, without_repeats
from iak.schemas.numbers import Units


class ModuleBaseSpec(Spec):
    """A torch module that was trained elsewhere, run here unchanged."""

    kind: Literal["torch"]
    """`torch`: a module that a function of yours builds; its weights are given to `iak adopt`."""
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", max_length=200)]
    """The function, as `package.module:name`. It takes nothing and returns the module
    (pipeline/model/adopted.py says what that has). Every worker imports it."""
    config: Annotated[Column | None, Field(exclude_if=lambda config: config is None)] = None
    """A file whose path the function takes, where it takes one: the `pipeline.config` of a model of
    TorchEasyRec for `iak.pipeline.easyrec.models:build`. Every worker reads it, and a changed one
    is refused as a changed source is."""
    source: Annotated[
        str | None,
        Field(pattern=r"^[0-9a-f]{64}$", exclude_if=lambda source: source is None),
    ] = None
    """SHA-256 of the source file of the factory. Absent: the one that the base was adopted with.
    Another source is refused, so name a changed one here to allow it. Kernels stay those that they
    are, and activations are computed again."""
    names: Annotated[
        dict[str, Value], AfterValidator(with_names), Field(exclude_if=lambda names: not names)
    ] = {}
    """Name in the weights -> name in the module. One that ends in a dot stands for all names that
    begin so (`"model." = ""`). The longest that fits counts; other names stay as they are."""
    ignore: Annotated[
        tuple[Column, ...],
        AfterValidator(without_repeats),
        Field(exclude_if=lambda ignored: not ignored),
    ] = ()
    """Names in the weights that are not read, such as those of an optimiser. One that ends in a dot
    stands for all names that begin so. Any other name is refused that is no weight of the
    module."""

    @property
    def call(self) -> str:
        """Return the factory as it is called: `package.module:name`, or `...:name(file)`."""
        return self.factory if self.config is None else f"{self.factory}({self.config})"

    @property
    def meaning(self) -> JsonObject:
        """Return what makes it this base. Its source may change, and its weights were named."""
        return self.model_dump(mode="json", include={"kind", "factory"})

    @model_validator(mode="after")
    def _prefixes_stand_for_prefixes(self) -> Self:
        odd = {
            name: own
            for name, own in self.names.items()
            if name.endswith(".") != (not own or own.endswith("."))
        }
        if odd:
            raise ValueError(
                f"names {odd}: a name that ends in a dot stands for many, so what it becomes also "
                "ends in a dot or is empty; any other name becomes one name"
            )
        return self


class GivenBaseSpec(Spec):
    """A recommender that is never run here: the log has what it answered for every row."""

    kind: Literal["columns"]
    """`columns`: the log has the logits of every task, and what else the server logged."""
    logits: Annotated[dict[str, Column], Field(min_length=1), AfterValidator(with_names)]
    """Task -> column with the logit that was served, ln(p / (1 - p)). A conversion's is that of
    p(conversion | click)."""
    h: Column | None = None
    """List column with the activations that the server logged, such as its last hidden layer:
    float64, float32, float16, or uint16, which are the bits of bfloat16. Kernels read them."""
    units: Units | None = None
    """Length of every list in `h`."""
    towers: Annotated[
        tuple[Units, ...] | None, Field(max_length=16, exclude_if=lambda towers: towers is None)
    ] = None
    """Units of the hidden layers between h and each task's logit; empty where one linear layer
    makes it. Their weights are given to `iak adopt`, and kernels then also correct h before them.
    Absent: h is read alone."""
    version: Value = ""
    """Name of the model behind the columns. Change it when that model changes: kernels correct the
    model that they were tuned on, and are refused on another one."""

    @property
    def meaning(self) -> JsonObject:
        """Return what makes it this base, which is all of it."""
        return self.model_dump(mode="json")

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of the log that the base is known by."""
        return (*self.logits.values(), *([self.h] if self.h else []))

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if repeated := sorted({c for c in self.columns if self.columns.count(c) > 1}):
            raise ValueError(f"columns {repeated} are named twice; each has one meaning")
        return self

    @model_validator(mode="after")
    def _lists_have_a_length(self) -> Self:
        if (self.h is None) != (self.units is None):
            raise ValueError(
                "h and units belong together: h names the list column, units its length"
            )
        if self.towers is not None and self.h is None:
            raise ValueError(
                "towers read h; name the list column with h, and its length with units"
            )
        return self
