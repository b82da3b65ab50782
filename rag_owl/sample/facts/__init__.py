"""Facts on the countries of the sample collection, by continent.

They were gathered from general knowledge and compared with a public-domain fact book; populations
and heights follow it. Every wording is the project's own.
"""

from __future__ import annotations

from rag_owl.sample.facts.americas import AMERICAS
from rag_owl.sample.facts.asia import ASIA
from rag_owl.sample.facts.country import Country
from rag_owl.sample.facts.europe import EUROPE
from rag_owl.sample.facts.north_west_africa import NORTH_WEST_AFRICA
from rag_owl.sample.facts.oceania import OCEANIA
from rag_owl.sample.facts.south_east_africa import SOUTH_EAST_AFRICA

COUNTRIES: tuple[Country, ...] = tuple(
    sorted(
        (*AMERICAS, *ASIA, *EUROPE, *NORTH_WEST_AFRICA, *OCEANIA, *SOUTH_EAST_AFRICA),
        key=lambda country: country.stem,
    )
)

__all__ = ["COUNTRIES", "Country"]
