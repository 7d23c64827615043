"""Makes valid messages of msgspec's shapes, within their bounds and often at them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from msgspec import inspect as shape

NUM_DRAWN = 12  # of each shape
MAX_ITEMS = 4  # of a list that may be longer: what is spoilt makes it longer


def drawn(*shapes: Any) -> list[bytes]:
    """Encoded messages of these shapes, the same each time."""
    made: list[bytes] = []

    @hypothesis_seed(0)
    @settings(
        max_examples=NUM_DRAWN * len(shapes),
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of([strategy(shape.type_info(one)) for one in shapes]))
    def draw(message: Any) -> None:
        made.append(msgspec.msgpack.encode(message))

    draw()
    return made


def strategy(info: Any) -> st.SearchStrategy[Any]:
    """What a type may hold, in MessagePack's own terms."""
    return _STRATEGIES[type(info)](info)


def _struct(info: shape.StructType) -> st.SearchStrategy[Any]:
    fields = [_of_field(field) for field in info.fields]
    if info.array_like:
        tag = [st.just(info.tag)] if info.tag is not None else []
        return st.tuples(*tag, *fields)
    return st.fixed_dictionaries(
        {field.encode_name: one for field, one in zip(info.fields, fields, strict=True)}
    )


def _of_field(field: shape.Field) -> st.SearchStrategy[Any]:
    return strategy(field.type)


def _integers(info: shape.IntType) -> st.SearchStrategy[int]:
    low = info.ge if info.ge is not None else (info.gt + 1 if info.gt is not None else -(2**63))
    high = info.le if info.le is not None else (info.lt - 1 if info.lt is not None else 2**64 - 1)
    return st.sampled_from((low, high)) | st.integers(low, high)


def _floats(info: shape.FloatType) -> st.SearchStrategy[float]:
    low = info.ge if info.ge is not None else info.gt
    high = info.le if info.le is not None else info.lt
    return st.floats(low, high, exclude_min=info.gt is not None, exclude_max=info.lt is not None)


def _sized(info: Any, of: Callable[..., st.SearchStrategy[Any]], most: int) -> Any:
    low = info.min_length or 0
    high = min(info.max_length if info.max_length is not None else low + most, low + most)
    return of(min_size=low, max_size=high)


def _lists(info: shape.ListType) -> st.SearchStrategy[list[Any]]:
    item = strategy(info.item_type)
    made: st.SearchStrategy[list[Any]] = _sized(
        info, lambda **sizes: st.lists(item, **sizes), MAX_ITEMS
    )
    return made


def _texts(info: shape.StrType) -> st.SearchStrategy[str]:
    if info.pattern is not None:
        return st.from_regex(info.pattern.removesuffix(r"\Z"), fullmatch=True)
    made: st.SearchStrategy[str] = _sized(info, st.text, 40)
    return made


@cache
def _nothing() -> st.SearchStrategy[None]:
    return st.none()


_STRATEGIES: dict[type, Callable[[Any], st.SearchStrategy[Any]]] = {
    shape.StructType: _struct,
    shape.IntType: _integers,
    shape.FloatType: _floats,
    shape.BoolType: lambda info: st.booleans(),
    shape.NoneType: lambda info: _nothing(),
    shape.BytesType: lambda info: _sized(info, st.binary, 40),
    shape.StrType: _texts,
    shape.ListType: _lists,
    shape.TupleType: lambda info: st.tuples(*(strategy(one) for one in info.item_types)),
    shape.LiteralType: lambda info: st.sampled_from(info.values),
    shape.UnionType: lambda info: st.one_of([strategy(one) for one in info.types]),
}
