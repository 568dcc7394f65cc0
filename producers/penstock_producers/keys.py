"""What a delete carries: the key of a record, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from penstock_schemas import Record, RecordError

__all__ = ["key_json"]


def key_json(record_class: type[Record], values: Sequence[Any], named: Mapping[str, Any]) -> bytes:
    """
    The key of a record as the JSON of a delete.

    Args:
        record_class: Whose record ends.
        values: In the order of the declaration.
        named: The same by name; one of the two, not both.

    Raises:
        RecordError: Not the key of this type, or a type that knows no deletes.
    """
    record = record_class.__record_type__
    if record.declaration.append_only:
        raise RecordError(f"{record.name} is append-only, it has no deletes")
    if bool(values) == bool(named) or (values and len(values) != len(record.key)):
        raise RecordError(f"{record.name}: give its key ({', '.join(record.key)}), by position or by name")
    try:
        return _key_class(record_class)(**(named or dict(zip(record.key, values, strict=True)))).to_json()
    except ValidationError as exc:
        error = exc.errors()[0]
        raise RecordError(f"{record.name}: {'.'.join(map(str, error['loc']))}: {error['msg']}") from exc


class _Key(Record):
    # A key may be called model_id.
    model_config = ConfigDict(protected_namespaces=())


@lru_cache(maxsize=1024)
def _key_class(record_class: type[Record]) -> type[_Key]:
    """A class with the key's fields only. It bears the declaration for its messages, but is no record type of its own."""
    record = record_class.__record_type__
    fields: dict[str, Any] = {name: (record.by_name[name].annotation, ...) for name in record.key}
    key_class = create_model(f"{record_class.__name__}Key", __base__=_Key, __module__=__name__, **fields)
    key_class.__record__ = record.declaration
    return key_class
