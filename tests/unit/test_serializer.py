"""The quick way to JSON gives what pydantic gives, and steps aside where a model has a say in it."""

from __future__ import annotations

import enum
import warnings
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel, Field, PlainSerializer, computed_field, field_serializer, model_serializer

from penstock_schemas import Declaration, Record
from penstock_schemas.records.translation import TranslationTask
from penstock_schemas.serializer import whole_serializer


class Colour(enum.StrEnum):
    RED = "red"


class Part(BaseModel):
    name: str
    weight: int = 1


class Piece(Part):
    pass


class Plain(Record):
    __record__ = Declaration(type="lab.plain", table="lab.plains", key="text")
    kept: ClassVar[int] = 1

    text: str
    number: int | None = None
    share: float | None = None
    is_on: bool | None = None
    at: AwareDatetime | None = None
    day: date | None = None
    id: UUID | None = None
    price: Decimal | None = None
    colour: Colour | None = None
    level: Literal["low", 3] | None = None
    part: Part | None = None
    pieces: list[Piece] | None = None
    anything: Any = None

    @cached_property
    def shout(self) -> str:
        return self.text.upper()


WHOLE = Plain(
    text='b"\\ü\U0001f600\x01',
    number=-(2**60),
    share=0.1,
    is_on=False,
    at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    day=date(2026, 1, 2),
    id=UUID(int=7),
    price=Decimal("1.50"),
    colour=Colour.RED,
    level=3,
    part=Part(name="a"),
    pieces=[Piece(name="b", weight=2)],
    anything={"part": Part(name="d"), "at": datetime(2026, 1, 2, tzinfo=UTC), "list": [1, None, 1e300]},
)


def with_cached_property() -> Plain:
    record = WHOLE.model_copy()
    assert record.shout
    return record


def with_a_field_deleted() -> Plain:
    record = WHOLE.model_copy()
    del record.share
    return record


def with_a_field_deleted_and_another_not_set() -> Plain:
    """As many as were set are there, but not those."""
    record = Plain(**WHOLE.model_dump(exclude={"number"}))
    del record.share
    return record


@pytest.mark.parametrize(
    "record",
    [
        WHOLE,
        Plain(text="only the key"),
        WHOLE.model_copy(update={"bogus": 1}),
        Plain(text="x").model_copy(update={"bogus": 1}),
        WHOLE.model_copy(update={"number": "seven", "part": {"name": "x"}, "text": 5}),
        Plain.model_construct(text="x", share=1),
        with_cached_property(),
        with_a_field_deleted(),
        with_a_field_deleted_and_another_not_set(),
        TranslationTask(task_id="a", session_id="b"),
    ],
)
def test_it_gives_what_the_model_gives(record: Record) -> None:
    assert type(record).__whole_json__ is not None
    with warnings.catch_warnings(action="ignore"):  # of values of another type: the model's own warns too
        assert record.to_json() == record.__pydantic_serializer__.to_json(record, exclude_unset=True)


DECLARATION = Declaration(type="lab.odd", table="lab.odds", key="k")


class Odd(Record):
    k: str
    v: int | None = None


class AsAWhole(Odd):
    __record__ = DECLARATION

    @model_serializer
    def only_k(self) -> dict[str, Any]:
        return {"k": self.k}


class OneField(Odd):
    __record__ = DECLARATION

    @field_serializer("v")
    def with_k(self, value: int) -> str:
        return f"{self.k}{value}"


class OneType(Odd):
    __record__ = DECLARATION
    v: Annotated[int, PlainSerializer(str)] | None = None


class LeftOut(Odd):
    __record__ = DECLARATION
    v: int | None = Field(default=None, exclude=True)


class Computed(Odd):
    __record__ = DECLARATION

    @computed_field  # type: ignore[prop-decorator]
    @property
    def more(self) -> int:
        return 1


class Recursive(Odd):
    __record__ = DECLARATION
    more: list[Recursive] | None = None


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (AsAWhole(k="a", v=7), b'{"k":"a"}'),
        (OneField(k="a", v=7), b'{"k":"a","v":"a7"}'),
        (OneType(k="a", v=7), b'{"k":"a","v":"7"}'),
        (LeftOut(k="a", v=7), b'{"k":"a"}'),
        (Computed(k="a", v=7), b'{"k":"a","v":7,"more":1}'),
        (Recursive(k="a", v=7, more=[Recursive(k="b")]), b'{"k":"a","v":7,"more":[{"k":"b"}]}'),
    ],
)
def test_it_steps_aside(record: Record, expected: bytes) -> None:
    assert type(record).__whole_json__ is None
    assert record.to_json() == expected


def test_a_class_that_is_not_complete_has_none_yet() -> None:
    class Later(BaseModel):
        other: Unknown  # type: ignore[name-defined]  # noqa: F821

    assert whole_serializer(Later) is None
