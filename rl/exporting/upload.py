"""An exported folder's way to the Hub: private unless told otherwise, gone on with where it broke off, under a tag."""

from __future__ import annotations

import glob
import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rollout.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Result = TypeVar("Result")

_WEIGHTS = (".safetensors", ".safetensors.index.json")
"""Ends of names. At the repo's top such files are deleted where the folder has them no longer: an old
`model.safetensors` would be loaded instead of new shards. Other files of the repo stay."""


class UploadError(UserError, ValueError):
    """The Hub can't be reached or says no: one line on why, and what to do."""


def tag_name(run: str, step: int | None = None) -> str:
    """The tag of a run, or of a step of it: its name, with what git allows in no tag replaced by a dash."""
    name = re.sub(r"[^\w.+=-]+|\.\.+", "-", run, flags=re.ASCII).strip("-.").removesuffix(".lock") or "run"
    return name if step is None else f"{name}-step-{step}"


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool = True,
    tag: str | None = None,
    move_tag: bool = False,
    message: str = "Export by Sawtooth",
    revision: str | None = None,
    attempts: int = 5,
    log: Callable[[str], Any] = print,
) -> str:
    """Sends a folder to a model repo of the Hub, which is made where it is missing, and returns its address there.

    What has arrived stays there: given again after any interruption, only the rest is sent. A folder that the repo
    holds already makes no commit.

    Args:
        repo_id: `user/name`.
        private: of a new repo. True also refuses a repo that is public.
        tag: put on what was sent. A tag on other content stops the upload before it begins, unless `move_tag`.
        revision: branch to commit to, made where it is missing; None: main.
        attempts: how often it is tried when the network fails; each request is also tried 6 times by the Hub's client.

    Raises:
        UploadError: one line: no token, no right to write, no network, a public repo, a tag on other content.
    """
    from huggingface_hub import HfApi

    files = sorted(path for path in Path(folder).rglob("*") if path.is_file()) if Path(folder).is_dir() else []
    if not files:
        raise UploadError(f"there is nothing to upload in {folder}: run `sawtooth export` first")
    check_reachable(repo_id)
    api = HfApi()

    def send() -> str:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        before = api.model_info(repo_id, revision=revision)
        if private and not before.private:
            raise UploadError(
                f"{repo_id} is public: make it private there, or say that it may be so (export.private: false)"
            )
        tagged = tag is not None and tag in {ref.name for ref in api.list_repo_refs(repo_id).tags}
        changed = _difference(api, repo_id, tag, Path(folder), files) if tagged else None
        if changed and not move_tag:
            raise UploadError(
                f"the tag {tag!r} of {repo_id} is on another {changed}: delete it there, name another one (export.tag) "
                "or move it (export.move_tag: true)"
            )
        names = [sibling.rfilename for sibling in before.siblings or []]
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message,
            revision=revision,
            delete_patterns=[glob.escape(name) for name in names if "/" not in name and name.endswith(_WEIGHTS)],
        )
        if changed:
            api.delete_tag(repo_id, tag=tag)
        if changed or (tag and not tagged):
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
        return f"commit {commit.oid[:8]}" if commit.oid != before.sha else "the repo holds it already"

    size = sum(path.stat().st_size for path in files)
    log(f"upload: {len(files)} files, {_size(size)}, to {api.endpoint}/{repo_id}{f' as {tag}' if tag else ''}")
    with _progress():
        log(f"upload: done, {_patiently(send, repo_id, attempts, log)}")
    return f"{api.endpoint}/{repo_id}" + (f"/tree/{tag or revision}" if tag or revision else "")


@contextmanager
def _progress() -> Iterator[None]:
    """Where the client can draw no bars (no terminal), it writes a line every half minute instead."""
    from huggingface_hub import logging

    before = logging.get_verbosity()
    if not sys.stderr.isatty():
        logging.set_verbosity_info()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def check_reachable(repo_id: str) -> None:
    """Sees what is wrong before anything is asked of the Hub.

    Raises:
        UploadError: the name is none, there is no token, or the client is offline.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UploadError(f"repo_id: {error}") from error
    if repo_id.count("/") != 1:
        raise UploadError(f"repo_id is {repo_id!r}: write user/name, as it stands on the Hub")
    if constants.HF_HUB_OFFLINE:
        raise UploadError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it")
    if get_token() is None:
        raise UploadError("there is no Hugging Face token here: run `hf auth login`, or set HF_TOKEN")


def _patiently(send: Callable[[], Result], repo_id: str, attempts: int, log: Callable[[str], Any]) -> Result:
    """`send()`, again where the network or the server failed, with ever longer waits between."""
    for attempt in range(1, attempts + 1):
        try:
            return send()
        except UploadError:
            raise
        except Exception as error:
            reason, again = _explain(error, repo_id)
            if reason is None:
                raise
            if not again:
                raise UploadError(reason) from error
            if attempt == attempts:
                kept = "what has arrived stays there, and the same command goes on from it"
                raise UploadError(f"{reason}, {attempts} times; {kept}") from error
            log(f"upload: {reason}; attempt {attempt + 1} of {attempts} in {2**attempt} s")
            time.sleep(2**attempt)
    raise ValueError(f"attempts is {attempts}; it must be at least 1")


def _explain(error: BaseException, repo_id: str) -> tuple[str | None, bool]:
    """One line on a failed request, and whether to try again. None: no request failed, the error is another one."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            return _of_status(cause.response.status_code, cause, repo_id)
    for cause in causes:
        if isinstance(cause, PermissionError) and type(cause).__module__ == "hf_xet":
            return f"the Hub's store does not accept the token ({_one_line(cause)}): it needs write access", False
        if isinstance(cause, (httpx.TransportError, ConnectionError, TimeoutError)):
            return f"the connection to the Hub failed ({_one_line(cause)})", True
    return None, False


def _of_status(status: int, error: Any, repo_id: str) -> tuple[str, bool]:
    owner = repo_id.partition("/")[0]
    said = error.server_message or _one_line(error)
    if status == 401:
        return "the Hub does not accept the token (401): run `hf auth login`, or set HF_TOKEN to a valid one", False
    if status == 403:
        return f"the token may not write to {repo_id} (403: {said}): it needs write access to {owner}", False
    if status == 404:
        return f"the Hub has no {repo_id} that this token can see (404): check the name and the token's rights", False
    if status in (408, 412, 429) or status >= 500:  # 412: another commit came between
        return f"the Hub answers {status} ({said})", True
    return f"the Hub refuses the upload to {repo_id} ({status}: {said})", False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from: the client wraps a failed file's error in one of its own."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _difference(api: HfApi, repo_id: str, tag: str, folder: Path, files: list[Path]) -> str | None:
    """The first file whose content under the tag is another one; None where the tag holds the whole folder."""
    there = {entry.path: entry for entry in api.list_repo_tree(repo_id, recursive=True, revision=tag)}
    for path in files:
        name = path.relative_to(folder).as_posix()
        entry = there.get(name)
        if entry is None or entry.size != path.stat().st_size:
            return name
        if _digest(path, git=entry.lfs is None) != (entry.blob_id if entry.lfs is None else entry.lfs.sha256):
            return name
    return None


def _digest(path: Path, git: bool) -> str:
    """SHA-256 of a file, as LFS names it, or the SHA-1 of a git blob."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if git else hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"
