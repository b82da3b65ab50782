"""The row of the facts table."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Country:
    """What the sample's text says of a country.

    Populations are estimates of the year given, rounded to three digits.
    """

    name: str  # as within a sentence: "the Netherlands"
    iso: str  # ISO 3166-1 alpha-2
    region: str
    capital: str
    population: int
    year: int
    languages: tuple[str, ...]
    currency: str
    flag: str  # completes "The flag of Japan shows ..."
    meaning: str  # completes "On the flag of Japan, ..."
    peak: str
    metres: int
    exports: tuple[str, ...]
    remark: str  # a sentence that names the country
    neighbours: tuple[str, ...] = ()  # by land; none: surrounded by sea
    official: bool = True  # False: `languages` are the main ones, in use without such a law
    landlocked: bool = False

    @property
    def title(self) -> str:
        """The name alone: "Netherlands"."""
        return self.name.removeprefix("the ")

    @property
    def stem(self) -> str:
        """The name of its files, in kebab case without accents: "sao-tome-and-principe"."""
        plain = unicodedata.normalize("NFKD", self.title).encode("ascii", "ignore").decode()
        return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
