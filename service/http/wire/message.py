"""What every message of the interface is."""

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Unknown fields are errors: a misspelt option must not pass for a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
