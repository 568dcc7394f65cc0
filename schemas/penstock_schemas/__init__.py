"""Record types, their declaration and the wire format. Depends on pydantic only; both sides import it."""

from penstock_schemas.column import Column, First, Kind, Max, Merge, Min, Rule
from penstock_schemas.declaration import Declaration, Index, Lifecycle, Parent
from penstock_schemas.errors import DeclarationError, RecordError, RecordTooLarge, SchemaError
from penstock_schemas.record import Record, RecordType
from penstock_schemas.registry import Registry, load_registry

__all__ = [
    "Column",
    "Declaration",
    "DeclarationError",
    "First",
    "Index",
    "Kind",
    "Lifecycle",
    "Max",
    "Merge",
    "Min",
    "Parent",
    "Record",
    "RecordError",
    "RecordTooLarge",
    "RecordType",
    "Registry",
    "Rule",
    "SchemaError",
    "load_registry",
]
