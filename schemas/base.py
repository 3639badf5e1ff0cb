"""`Spec`, the ancestor of every document: frozen, and a key it does not know is refused."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen document; the string under a field is that field's help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
