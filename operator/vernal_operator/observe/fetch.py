"""One answer of another process over HTTP, bounded in time and size. Redirects are not followed."""

import ipaddress

import aiohttp


class RefusedError(Exception):
    """It is not 200, or is too large."""


def session(timeout: float) -> aiohttp.ClientSession:
    """For `fetch`, which takes `timeout` seconds at most: to connect, ask and read the whole answer."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout(total=timeout)
    )


async def fetch(session: aiohttp.ClientSession, address: str, port: int, path: str, most: int) -> bytes:
    """GET `path`, of `most` bytes at most.

    Raises:
        RefusedError:
        TimeoutError:
        aiohttp.ClientError: or OSError: nobody is there, or it is not HTTP.
        ValueError: `address` is none.
    """
    ip = ipaddress.ip_address(address)
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    async with session.get(f"http://{host}:{port}{path}", allow_redirects=False) as response:
        if response.status != 200:
            raise RefusedError(f"HTTP {response.status}")
        data = b""
        while len(data) <= most and (more := await response.content.read(most + 1 - len(data))):
            data += more
        if len(data) > most:
            raise RefusedError(f"answer of more than {most} bytes")
        return data
