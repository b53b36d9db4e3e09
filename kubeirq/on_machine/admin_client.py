"""The client of a running fabric's admin API, on its unix socket."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from kubeirq.fabric_client import FabricUnreachable, Refused

if TYPE_CHECKING:
    import aiohttp


class AdminClient:
    """Open it with `async with`. Every method raises FabricUnreachable and Refused."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp  # a third of the start-up time, which --help and version do not need

        connector = aiohttp.UnixConnector(path=str(self._state / "admin.sock"))
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, connect=5))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, path: str, **query: str) -> Any:
        return orjson.loads((await self._request("GET", path, query=query))[2])

    async def post(self, path: str, body: Any = None, **query: str) -> Any:
        return orjson.loads((await self._request("POST", path, orjson.dumps(body), query))[2])

    async def send(
        self, path: str, body: bytes, content_type: str, query: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """Posts raw bytes, and returns status, headers and body of the answer."""
        return await self._request("POST", path, body, query, content_type)

    async def lines(self, path: str, body: Any) -> AsyncIterator[Any]:
        """The JSON object of each line of the answer, as it arrives."""
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
            raise self._unreachable() from error

    async def _request(
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
            raise self._unreachable() from error
        except aiohttp.ClientError as error:
            raise Refused(f"the fabric closed the connection before it answered: {error}") from error

    def _unreachable(self) -> FabricUnreachable:
        return FabricUnreachable(
            f"no fabric runs on {self._state}; start one with `kubeirq dev PATH`, "
            "give the folder of another one with --state, or choose a cluster with --context or --kubeconfig"
        )


def _reason(body: bytes, status: int) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"the fabric answered with status {status}; its log is logs/kubeirq.log in the state folder"
