"""The loopback Hub with what large uploads and unwilling servers need: LFS files in parts, and refused requests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.hub_server import HubServer


class LargeHub(HubServer):
    """Files above `part_bytes` go up in parts of that size, as the real Hub asks for above 5 GB without Xet."""

    routes = HubServer.routes.rstrip() + ",\nPUT /parts/{oid}/{number} part, POST /parts/{oid} complete"

    def __init__(self, root: Path, part_bytes: int | None = None):
        self.part_bytes = part_bytes
        self._parts: dict[tuple[str, int], bytes] = {}  # (object, number from 1) -> its bytes
        self._refusals: list[dict[str, Any]] = []
        self.commits = 0  # that were asked for
        self.open = threading.Event()  # while it is clear, commits wait
        self.open.set()
        super().__init__(root)

    def refuse(self, status: int, path: str = "", times: int = -1, message: str = "") -> None:
        """Answers the next `times` requests (-1: all) with `path` in their path by `status`."""
        self._refusals.append({"status": status, "path": path, "times": times, "message": message})

    def puts(self, oid: str) -> int:
        """How often an upload of an object, or of its first part, was begun."""
        wanted = (f"/objects/{oid}", f"/parts/{oid}/1")
        return sum(method == "PUT" and path in wanted for method, path in self.requests)

    @web.middleware
    async def _around(self, request, handler):
        for refusal in self._refusals:
            if refusal["times"] and refusal["path"] in request.path:
                refusal["times"] -= 1
                self.requests.append((request.method, request.path))
                return web.json_response({"error": refusal["message"]}, status=refusal["status"])
        return await super()._around(request, handler)

    async def _batch(self, request):
        answer = await super()._batch(request)
        for wanted in answer["objects"]:
            if self.part_bytes and wanted["size"] > self.part_bytes and "actions" in wanted:
                place = f"{self.storage}/parts/{wanted['oid']}"
                count = -(-wanted["size"] // self.part_bytes)
                header = {f"{number:05d}": f"{place}/{number}" for number in range(1, count + 1)}
                header["chunk_size"] = str(self.part_bytes)
                wanted["actions"] |= {"upload": {"href": place, "header": header}}
        return answer

    async def _commit(self, request):
        self.commits += 1
        while not self.open.is_set():
            await asyncio.sleep(0.01)
        return await super()._commit(request)

    async def _part(self, request):
        data = await self._body(request)
        if data is None:
            return {}
        self._parts[request.match_info["oid"], int(request.match_info["number"])] = data
        return web.Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    async def _complete(self, request):
        oid, parts = request.match_info["oid"], json.loads(await request.read())["parts"]
        data = [self._parts[oid, part["partNumber"]] for part in parts]
        if [f'"{hashlib.md5(part).hexdigest()}"' for part in data] != [part["etag"] for part in parts]:
            raise web.HTTPBadRequest(text=json.dumps({"error": "BadPart"}))
        return self._keep(oid, b"".join(data))
