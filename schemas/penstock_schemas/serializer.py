"""The quick way from a record to its JSON, for records whose fields were all set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import SchemaSerializer, core_schema

__all__ = ["whole_serializer"]

#: What a field's schema may say. Anything else changes its name or its value, and is pydantic's own to read.
_PLAIN_FIELD = {"type", "schema", "metadata", "validation_alias"}


def whole_serializer(model: type[BaseModel]) -> Callable[..., bytes] | None:
    """
    A serializer of `model.__dict__`, whose `to_json` gives what the model's own gives for a model with all its fields set.

    With `exclude_unset` the model's own copies that dictionary and asks for each name whether it was set, which is nearly half
    of its time. To leave the word out instead would reach what is nested too: a model in a JSON column would have its defaults.

    Returns:
        None when the model has a say in its own serialization, or is not complete yet.
    """
    schema: Any = model.__pydantic_core_schema__
    # Not complete yet: a stand-in. Also `definitions`, of a model that contains itself.
    if not isinstance(schema, dict) or schema["type"] != "model" or _has_serializer(schema):
        return None
    inner = schema["schema"]
    if inner["type"] != "model-fields" or inner.get("computed_fields") or model.model_config.get("extra") == "allow":
        return None
    if not all(field.keys() <= _PLAIN_FIELD for field in inner["fields"].values()):
        return None
    fields = {name: core_schema.typed_dict_field(field["schema"], required=False) for name, field in inner["fields"].items()}
    return SchemaSerializer(core_schema.typed_dict_schema(fields), schema.get("config")).to_json


def _has_serializer(schema: Any) -> bool:
    """Whether there is a function in it that may want to see the model."""
    if isinstance(schema, Mapping):
        return "serialization" in schema or any(map(_has_serializer, schema.values()))
    return isinstance(schema, (list, tuple)) and any(map(_has_serializer, schema))
