"""The flags, by continent: the file stem of a country -> how its flag is drawn.

Proportions are the published ones; colours are the published ones, or the nearest of those in use.
A country whose emblem cannot be drawn recognisably in a few shapes is not here.
"""

from __future__ import annotations

from rag_owl.sample.draw import Flag
from rag_owl.sample.flags.africa import AFRICA
from rag_owl.sample.flags.americas import AMERICAS
from rag_owl.sample.flags.asia import ASIA
from rag_owl.sample.flags.europe import EUROPE
from rag_owl.sample.flags.oceania import OCEANIA

FLAGS: dict[str, Flag] = {**AFRICA, **AMERICAS, **ASIA, **EUROPE, **OCEANIA}

__all__ = ["FLAGS"]
