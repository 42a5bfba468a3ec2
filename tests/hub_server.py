"""A small Hugging Face Hub over real HTTP: the real client libraries load from and push to it through HF_ENDPOINT.

It speaks what `huggingface_hub` 1.33 and `datasets` 5.2 use: repos with commits, branches and tags, and LFS uploads.
Left out: Xet, pull requests, paging, and the `.gitattributes` that the real Hub puts in a new repo. `hub_large.py` adds
multipart LFS and refusals.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

_DATE = "2026-01-01T00:00:00.000Z"
_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
_ERRORS = {400: web.HTTPBadRequest, 401: web.HTTPUnauthorized, 404: web.HTTPNotFound, 412: web.HTTPPreconditionFailed}
_ROUTES = """
GET /api/whoami-v2 whoami, POST /api/repos/create create, POST /api/validate-yaml validate,
GET {api} info, GET {api}/revision/{rev} info, GET {api}/refs refs,
GET {api}/tree/{rev} list, GET {api}/tree/{rev}/{path:.+} list, POST {api}/paths-info/{rev} paths,
POST {api}/tag/{rev} name, POST {api}/branch/{rev} name, DELETE {api}/tag/{tag} untag,
POST {api}/preupload/{rev} preupload, POST {api}/commit/{rev} commit,
GET /{user}/{name}/resolve/{rev}/{path:.+} resolve, GET /datasets/{user}/{name}/resolve/{rev}/{path:.+} resolve,
POST /{user}/{name}.git/info/lfs/objects/batch batch, POST /datasets/{user}/{name}.git/info/lfs/objects/batch batch,
GET /objects/{oid} object, PUT /objects/{oid} receive, POST /objects/{oid}/verify verify
""".replace("{api}", "/api/{kind:models|datasets}/{user}/{name}")


@dataclass
class Repo:
    key: str  # "datasets/user/name" or "models/user/name"
    private: bool
    refs: dict[str, str] = field(default_factory=dict)  # "heads/main" -> commit
    commits: dict[str, dict[str, dict]] = field(default_factory=dict)  # commit -> path -> description of the file

    def __post_init__(self):
        self.commit("main", {})

    def commit(self, branch: str, tree: dict[str, dict]) -> str:
        name = hashlib.sha1(repr((self.key, len(self.commits), tree)).encode()).hexdigest()
        self.commits[name], self.refs[f"heads/{branch}"] = tree, name
        return name

    def find(self, revision: str) -> str:
        return self.refs.get(f"heads/{revision}") or self.refs.get(f"tags/{revision}") or revision


def hub_environment(server: HubServer, home: Path) -> dict[str, str]:
    """Environment of a client process: its Hub is `server`, its caches are in `home`, it inherits nothing from HF_*."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "TRANSFORMERS_OFFLINE"}
    switches = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    here = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_TOKEN": "hf_test"}
    near = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return kept | switches | quiet | here | near | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def _error(status: int, code: str, **headers: str) -> web.HTTPException:
    return _ERRORS[status](text=json.dumps({"error": code}), headers={"X-Error-Code": code, **headers})


def _is_lfs(sample: bytes, size: int) -> bool:
    return b"\0" in sample[:512] or size > 10_000_000


def _card(readme: str) -> dict[str, Any] | None:
    matter = re.match(r"---\s*\n(.*?)\n---", readme, re.DOTALL)
    return yaml.safe_load(matter[1]) if matter else None


def _with_folders(tree: dict[str, dict]) -> dict[str, dict]:
    names = sorted({"/".join(p.split("/")[:n]) for p in tree for n in range(1, p.count("/") + 1)})
    return {name: {"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in names} | tree


class HubServer:
    """Data sets and models whose bytes lie in `root/objects`. Writes, and reads of a private repo, want any token."""

    routes = _ROUTES

    def __init__(self, root: Path):
        self.objects = root / "objects"
        self.objects.mkdir(parents=True, exist_ok=True)
        self.requests: list[tuple[str, str]] = []  # (method, path), in their order
        self.arrived: list[str] = []  # sha256 of each LFS object that arrived whole, in their order
        self.repos: dict[str, Repo] = {}
        self.broken = threading.Event()  # an upload was cut
        self._breaks, self._break_bytes, self._break_objects = 0, 0, 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.url, self.storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}"

    async def _start(self) -> int:
        app = web.Application(middlewares=[self._around], client_max_size=0)
        for method, path, handler in (line.split() for line in self.routes.split(",")):
            app.add_routes([getattr(web, method.lower())(path, getattr(self, f"_{handler}"))])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    def add(self, repo_id: str, repo_type: str, files: dict[str, bytes], private: bool = False) -> str:
        """Commits `files` to main, makes the repo where it is missing, and returns the commit."""
        key = f"{repo_type}s/{repo_id}"
        repo = self.repos.setdefault(key, Repo(key, private))
        before = repo.commits[repo.find("main")]
        return repo.commit("main", before | {path: self._store(path, data) for path, data in files.items()})

    def files(self, repo_id: str, repo_type: str, revision: str = "main") -> dict[str, bytes]:
        """What is committed on a branch or under a tag."""
        repo = self.repos[f"{repo_type}s/{repo_id}"]
        tree = repo.commits[repo.find(revision)]
        return {path: (self.objects / file["sha256"]).read_bytes() for path, file in tree.items()}

    def fail_uploads_after(self, n_bytes: int, n_objects: int = 0, times: int = 1) -> None:
        """Cuts the connections of the next `times` LFS uploads when `n_bytes` of one have come; smaller ones arrive.

        A cut waits until `n_objects` more objects have arrived whole. `times=0` ends it.
        """
        self._breaks, self._break_bytes, self._break_objects = times, n_bytes, len(self.arrived) + n_objects
        self.broken.clear()

    def _store(self, path: str, data: bytes) -> dict[str, Any]:
        """Describes a file as both listings of the Hub name it, that of a tree and that of a repo's siblings."""
        sha, size = hashlib.sha256(data).hexdigest(), len(data)
        if not (self.objects / sha).exists():
            (self.objects / sha).write_bytes(data)
        lfs = {"oid": sha, "sha256": sha, "size": size, "pointerSize": 134} if _is_lfs(data, size) else None
        text = _POINTER.format(sha, size).encode() if lfs else data
        oid = hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()
        names = {"type": "file", "path": path, "rfilename": path, "oid": oid, "blobId": oid, "sha256": sha}
        return names | {"size": size, "lfs": lfs, "etag": sha if lfs else oid}

    @web.middleware
    async def _around(self, request, handler):
        self.requests.append((request.method, request.path))
        answer = await handler(request)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)

    def _at(self, request: web.Request, write: bool = False) -> tuple[Repo, str, dict[str, dict]]:
        """The repo that a request is about, the commit that its revision names, and the files of that commit."""
        part, token = request.match_info, "Authorization" in request.headers
        kind = part.get("kind") or ("datasets" if request.path.startswith("/datasets/") else "models")
        repo = self.repos.get(f"{kind}/{part['user']}/{part['name']}")
        if repo is None or ((repo.private or write) and not token):
            raise _error(404 if token else 401, "RepoNotFound")
        commit = repo.find("main" if "/branch/" in request.path else part.get("rev", "main"))
        if commit not in repo.commits:
            raise _error(404, "RevisionNotFound")
        return repo, commit, repo.commits[commit]

    async def _whoami(self, request):
        if "Authorization" not in request.headers:
            raise _error(401, "Unauthorized")
        return {"type": "user", "name": "tester", "fullname": "Tester", "orgs": []}

    async def _create(self, request):
        await self._whoami(request)
        body = await request.json()
        key = f"{body.get('type') or 'model'}s/{body['organization'] or 'tester'}/{body['name']}"
        status = 409 if key in self.repos else 200
        self.repos.setdefault(key, Repo(key, body.get("visibility") == "private"))
        return web.json_response({"url": f"{self.url}/{key.removeprefix('models/')}"}, status=status)

    async def _validate(self, request):
        try:
            card = _card((await request.json())["content"])
        except yaml.YAMLError as error:
            return web.json_response({"errors": [{"message": str(error)}]}, status=400)
        return {"errors": [], "warnings": [] if card else [{"message": "empty or missing yaml metadata"}]}

    async def _info(self, request):
        repo, commit, tree = self._at(request)
        card = _card((self.objects / tree["README.md"]["sha256"]).read_text()) if "README.md" in tree else None
        facts = {"id": repo.key.split("/", 1)[1], "sha": commit, "private": repo.private, "cardData": card}
        facts |= {"lastModified": _DATE, "createdAt": _DATE, "gated": False, "tags": [], "siblings": [*tree.values()]}
        return json.loads(json.dumps(facts, default=str))  # a card may hold dates

    async def _refs(self, request):
        refs = [(ref.split("/", 1), commit) for ref, commit in self._at(request)[0].refs.items()]
        listed = [(kind, {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha}) for (kind, n), sha in refs]
        heads, tags = ([ref for kind, ref in listed if kind == wanted] for wanted in ("heads", "tags"))
        return {"branches": heads, "tags": tags, "converts": [], "pullRequests": []}

    async def _name(self, request):
        """Makes a tag or a branch."""
        (repo, commit, _), body = self._at(request, write=True), await request.json()
        ref = f"tags/{body['tag']}" if "/tag/" in request.path else f"heads/{request.match_info['rev']}"
        status = 409 if ref in repo.refs else 200
        repo.refs.setdefault(ref, repo.find(body.get("startingPoint", commit)))
        return web.json_response({}, status=status)

    async def _untag(self, request):
        del self._at(request, write=True)[0].refs[f"tags/{request.match_info['tag']}"]
        return {}

    async def _list(self, request):
        path, deep = request.match_info.get("path", ""), request.query.get("recursive", "").lower() == "true"
        start = f"{path}/" if path else ""
        below = {p: entry for p, entry in _with_folders(self._at(request)[2]).items() if p.startswith(start)}
        if path and not below:
            raise _error(404, "EntryNotFound")
        return [entry for p, entry in below.items() if deep or "/" not in p.removeprefix(start)]

    async def _paths(self, request):
        entries, asked = _with_folders(self._at(request)[2]), (await request.post()).getall("paths", [])
        return [entries[path] for path in asked if path in entries]

    async def _resolve(self, request):
        """The bytes of a text file; for an LFS file, as on the real Hub, a redirect to the host of the objects."""
        _, commit, tree = self._at(request)
        file, headers = tree.get(request.match_info["path"]), {"X-Repo-Commit": commit}
        if file is None:
            raise _error(404, "EntryNotFound", **headers)
        headers |= {"X-Linked-ETag": f'"{file["etag"]}"', "X-Linked-Size": str(file["size"])}
        if file["lfs"]:
            raise web.HTTPFound(f"{self.storage}/objects/{file['sha256']}", headers=headers)
        return web.FileResponse(self.objects / file["sha256"], headers=headers)

    async def _object(self, request):
        return web.FileResponse(self.objects / request.match_info["oid"])  # aiohttp does the ranges

    async def _preupload(self, request):
        tree, answers = self._at(request, write=True)[2], []
        for file in (await request.json())["files"]:
            mode = "lfs" if _is_lfs(base64.b64decode(file["sample"]), file["size"]) else "regular"
            known = tree.get(file["path"], {}).get("etag")
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
        return {"files": answers}

    async def _batch(self, request):
        self._at(request, write=True)
        answers = []
        for wanted in (await request.json())["objects"]:
            url = f"{self.storage}/objects/{wanted['oid']}"
            actions = {"actions": {"upload": {"href": url}, "verify": {"href": f"{url}/verify"}}}
            answers.append(wanted | ({} if (self.objects / wanted["oid"]).exists() else actions))
        return {"transfer": "basic", "objects": answers}

    async def _receive(self, request):
        data = await self._body(request)
        return {} if data is None else self._keep(request.match_info["oid"], data)

    async def _body(self, request: web.Request) -> bytes | None:
        """The bytes of an upload; None where it was cut."""
        data = bytearray()
        async for chunk in request.content.iter_chunked(1 << 16):
            data += chunk
            if self._breaks and len(data) >= self._break_bytes:
                self._breaks -= 1
                while len(self.arrived) < self._break_objects:
                    await asyncio.sleep(0.01)
                request.transport.abort()
                self.broken.set()
                return None
        return bytes(data)

    def _keep(self, oid: str, data: bytes) -> dict[str, Any]:
        if hashlib.sha256(data).hexdigest() != oid:
            raise _error(400, "BadDigest")
        (self.objects / oid).write_bytes(data)
        self.arrived.append(oid)
        return {}

    async def _verify(self, request):
        path = self.objects / request.match_info["oid"]
        if not path.exists() or path.stat().st_size != (await request.json())["size"]:
            raise _error(404, "ObjectNotFound")
        return {}

    async def _commit(self, request):
        repo, parent, before = self._at(request, write=True)
        tree = dict(before)
        header, *lines = [json.loads(line) for line in (await request.read()).splitlines()]
        if header["value"].get("parentCommit", parent) != parent:
            raise _error(412, "ParentCommitMoved")
        for operation, value in [(line["key"], line["value"]) for line in lines]:
            path = value["path"]
            if operation == "file":
                tree[path] = self._store(path, base64.b64decode(value["content"]))
            elif operation != "lfsFile":  # deletedFile, deletedFolder
                tree = {p: file for p, file in tree.items() if p != path and not p.startswith(path.rstrip("/") + "/")}
            elif (self.objects / value["oid"]).exists():
                tree[path] = self._store(path, (self.objects / value["oid"]).read_bytes())
            else:
                raise _error(400, "LfsObjectMissing")
        commit = repo.commit(request.match_info["rev"], tree)
        return {"commitOid": commit, "commitUrl": f"{self.url}/{repo.key.removeprefix('models/')}/commit/{commit}"}
