"""The client of a running fabric's admin API, on its unix socket."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from kubeirq.fabric_client import NotRunning, Refused

if TYPE_CHECKING:
    import aiohttp


class AdminClient:
    """Open it as a context. Every method raises NotRunning and Refused."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp  # a third of the start: --help and version have no need of it

        connector = aiohttp.UnixConnector(path=str(self._state / "admin.sock"))
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, connect=5))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, path: str, **query: str) -> Any:
        return orjson.loads((await self._ask("GET", path, query=query))[2])

    async def post(self, path: str, body: Any = None, **query: str) -> Any:
        return orjson.loads((await self._ask("POST", path, orjson.dumps(body), query))[2])

    async def send(self, path: str, body: bytes, content_type: str, **query: str) -> tuple[int, dict[str, str], bytes]:
        """Raw bytes; status, headers and body of the answer."""
        return await self._ask("POST", path, body, query, content_type)

    async def lines(self, path: str, body: Any) -> AsyncIterator[Any]:
        """The objects that come as lines, as they come."""
        import aiohttp

        assert self._session is not None
        try:
            async with self._session.post(f"http://admin{path}", data=orjson.dumps(body)) as answer:
                if answer.status >= 400:
                    raise Refused(_reason(await answer.read(), answer.status))
                async for line in answer.content:
                    if line.strip():
                        yield orjson.loads(line)
        except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
            raise self._not_running() from error

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
        import aiohttp

        assert self._session is not None
        try:
            async with self._session.request(
                method, f"http://admin{path}", data=body, params=query or {}, headers={"content-type": content_type}
            ) as answer:
                found = await answer.read()
                headers = {name.lower(): value for name, value in answer.headers.items()}
                if answer.status >= 400 and "kubeirq-status" not in headers:
                    raise Refused(_reason(found, answer.status))
                return answer.status, headers, found
        except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
            raise self._not_running() from error
        except aiohttp.ClientError as error:
            raise Refused(f"the fabric went away: {error}") from error

    def _not_running(self) -> NotRunning:
        return NotRunning(
            f"no fabric runs on {self._state}; start one with `kubeirq dev PATH`, or name its folder with --state, "
            "or a cluster with --context or --kubeconfig"
        )


def _reason(body: bytes, status: int) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"status {status}"
