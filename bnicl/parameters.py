"""Typed parameters of chapters, and the profiles that set their defaults.

A chapter has one cell tagged `parameters`, each line `name: type = default  # comment`. The types are
those of `TYPES`; a default may be `by_profile(...)`, so that one notebook serves as a quick test
("smoke"), as a chapter to read ("book") and as an experiment at the scale of the paper ("paper").
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from bnicl.estimators import Unmatched
from bnicl.networks import check_source, load_network

T = TypeVar("T")

# --- profiles -------------------------------------------------------------------------------------

Profile = Literal["smoke", "book", "paper"]
PROFILES: tuple[Profile, ...] = get_args(Profile)


def check_profile(name: str) -> Profile:
    """`name` if it is a profile; a ValueError if not."""
    if name not in PROFILES:
        raise ValueError(f"profile: expected one of {', '.join(PROFILES)}, got {name!r}")
    return name


def current_profile() -> Profile:
    """The profile that the environment variable BNICL_PROFILE names, by default "book"."""
    return check_profile(os.environ.get("BNICL_PROFILE", "book"))


def by_profile(book: T, smoke: T, paper: T | None = None) -> T:
    """The value for the current profile; `paper` is that of the book where it is not given.

    >>> by_profile(book=200, smoke=200)
    200
    """
    values = {"smoke": smoke, "book": book, "paper": book if paper is None else paper}
    return values[current_profile()]


# --- parameters -----------------------------------------------------------------------------------


def _network(source: str) -> str:
    """A name, or the whole path of a file: the notebook runs in another folder."""
    if not check_source(source).endswith(".bif"):
        return source
    load_network(source)  # a broken file is refused here, before anything starts
    return str(Path(source).resolve())


def _different(items: list[T]) -> list[T]:
    if len(set(items)) != len(items):
        raise ValueError("each at most once")
    return items


NetworkName = Annotated[str, AfterValidator(_network)]
NetworkNames = Annotated[list[NetworkName], Field(min_length=1), AfterValidator(_different)]
Count = Annotated[int, Field(ge=10, le=1_000_000)]  # of things drawn
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
ContextSizes = Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=1), AfterValidator(_different)]
TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "Count": Count,
    "PositiveInt": PositiveInt,
    "NonNegativeInt": NonNegativeInt,
    "PositiveFloat": PositiveFloat,
    "Probability": Probability,
    "NetworkName": NetworkName,
    "NetworkNames": NetworkNames,
    "ContextSizes": ContextSizes,
    "Unmatched": Unmatched,
}
_ADAPTERS = {name: TypeAdapter(annotation) for name, annotation in TYPES.items()}


class Parameter(NamedTuple):
    """One line of a chapter's parameters cell."""

    name: str
    type_name: str
    default: str
    comment: str

    def check(self, value: Any) -> Any:
        """`value`, or its text from a command line, as this parameter's type; a ValueError if it is not.

        A list is its items separated by commas.
        """
        if self.type_name not in TYPES:
            raise ValueError(f"parameter {self.name}: expected a type among {', '.join(TYPES)}, got {self.type_name}")
        if isinstance(value, str) and self.type_name in ("NetworkNames", "ContextSizes"):
            value = [item.strip(" \"'") for item in value.strip("[] ").split(",")]
        try:
            return _ADAPTERS[self.type_name].validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]
            reason = problem["msg"].removeprefix("Value error, ")
            raise ValueError(f"parameter {self.name}: expected {self.type_name}, got {value!r} ({reason})") from error

    def value(self) -> Any:
        """The default under the current profile."""
        # The expression is a line of a chapter, which is about to be executed whole.
        return self.check(eval(self.default, {"__builtins__": {}, "by_profile": by_profile}))  # noqa: S307
