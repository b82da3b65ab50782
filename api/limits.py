"""How often one key and one address may ask, counted by the `limits` library."""

from __future__ import annotations

import ipaddress
import math
import time
from typing import Any

from limits import RateLimitItem, parse
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string

from rag_owl.api import logs
from rag_owl.api.errors import Problem
from rag_owl.errors import InvalidSettings
from rag_owl.settings import Settings

log = logs.get_logger(__name__)

# A server that says nothing must not make every request wait.
_REDIS: dict[str, Any] = {
    "implementation": "redispy",
    "socket_timeout": 1.0,
    "socket_connect_timeout": 1.0,
}


class RateLimits:
    """Counts in memory, or in Redis where several processes share the counts."""

    def __init__(self, settings: Settings) -> None:
        """Raises `InvalidSettings` for a rate or a storage that cannot be read."""
        self._key = _rate("key_rate", settings.key_rate)
        self._address = _rate("address_rate", settings.address_rate)
        url = settings.rate_storage
        try:
            options = _REDIS if url.startswith("redis") else {}
            storage = storage_from_string(f"async+{url}", **options)
        except Exception as error:
            raise InvalidSettings(
                f"setting rate_storage: {error}; give memory:// or redis://host:port "
                "(with the extra `redis`)"
            ) from error
        self._limiter = SlidingWindowCounterRateLimiter(storage)  # type: ignore[arg-type]

    async def check_key(self, key_id: str) -> None:
        """Raises `Problem` 429 with the seconds to wait."""
        await self._hit(self._key, "key", key_id)

    async def check_address(self, address: str) -> None:
        await self._hit(self._address, "address", _network(address))

    async def _hit(self, rate: RateLimitItem, kind: str, who: str) -> None:
        try:
            if await self._limiter.hit(rate, kind, who):
                return
            stats = await self._limiter.get_window_stats(rate, kind, who)
        except Exception as error:
            # Where the counts lie is not reachable: better to answer than to be down with it.
            log.warning("requests are not counted", error=str(error))
            return
        wait = max(1, math.ceil(stats.reset_time - time.time()))
        raise Problem(
            429,
            f"more than {rate.amount} requests per {rate.get_expiry()} s of this {kind}; "
            f"try again in {wait} s",
            headers={"Retry-After": str(wait)},
        )


def _rate(name: str, given: str) -> RateLimitItem:
    try:
        return parse(given)
    except ValueError as error:
        raise InvalidSettings(
            f"setting {name}: {given!r} is no rate; give one such as 600/minute"
        ) from error


def _network(address: str) -> str:
    """One customer of IPv6 has a whole /64: who changes the rest of the address is the same."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6:
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
