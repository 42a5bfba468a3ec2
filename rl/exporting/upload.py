"""Upload an exported folder to the Hub: private by default, under a tag; the same command resumes a broken upload."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_WEIGHTS = (".safetensors", ".safetensors.index.json")
"""Endings of weights. Those at the repo's top that the folder no longer has are deleted: an old `model.safetensors`
would be loaded instead of new shards. Other files of the repo stay."""

_RESUME = "uploaded files are kept; run the same command again to resume"


class UploadError(UserError):
    """The upload failed or was refused: one line with the reason and the remedy."""


def tag_name(run: str, step: int | None = None) -> str:
    """Return the tag of a run or of one of its steps: the name, with dashes for characters that git forbids there."""
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
    log: Callable[[str], Any] = print,
) -> str:
    """Upload a folder to a model repo on the Hub, created if missing. Returns its URL.

    The Hub's client retries long operations (files and, with Xet, commits). Files that have arrived are not sent
    again, even after a kill. A folder that the repo already contains makes no commit.

    Args:
        repo_id: `user/name`.
        private: for a new repo. True also refuses an existing public repo.
        tag: for the upload. If it is on other content, nothing is sent unless `move_tag`.
        revision: branch to commit to, created if missing; None: main.

    Raises:
        UploadError: no token, no right to write, no network, a public repo, a tag on other content.
    """
    from huggingface_hub import HfApi

    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    if not files:
        raise UploadError(f"there is nothing to upload in {folder}: run `sawtooth export` first")
    check_reachable(repo_id)
    api = HfApi()
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    log(f"upload: {len(files)} files, {megabytes:,.0f} MB, to {api.endpoint}/{repo_id}{f' as {tag}' if tag else ''}")
    with _progress(), _one_line_errors(repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        before = api.model_info(repo_id, revision=revision)
        if private and not before.private:
            raise UploadError(f"{repo_id} is public: make it private there, or allow it (export.private: false)")
        tagged = tag is not None and tag in {ref.name for ref in api.list_repo_refs(repo_id).tags}
        changed = _first_difference(api, repo_id, tag, folder) if tagged else None
        if changed and not move_tag:
            raise UploadError(
                f"the tag {tag!r} of {repo_id} is on a different {changed}: delete it there, name another one "
                "(export.tag) or move it (export.move_tag: true)"
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
    log(f"upload: done, {f'commit {commit.oid[:8]}' if commit.oid != before.sha else 'already in the repo'}")
    return f"{api.endpoint}/{repo_id}" + (f"/tree/{tag or revision}" if tag or revision else "")


def check_reachable(repo_id: str) -> None:
    """Check all that needs no request to the Hub.

    Raises:
        UploadError: a malformed name, no token, or the client is offline.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UploadError(f"repo_id: {error}") from error
    if repo_id.count("/") != 1:
        raise UploadError(f"repo_id is {repo_id!r}: write user/name, as on the Hub")
    if constants.HF_HUB_OFFLINE:
        raise UploadError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it")
    if get_token() is None:
        raise UploadError("no Hugging Face token found: run `hf auth login`, or set HF_TOKEN")


@contextmanager
def _progress() -> Iterator[None]:
    """Let the client write a line every half minute if it can't draw progress bars (no terminal)."""
    from huggingface_hub import logging

    before = logging.get_verbosity()
    if not sys.stderr.isatty():
        logging.set_verbosity_info()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _first_difference(api: HfApi, repo_id: str, tag: str, folder: Path) -> str | None:
    """Return the folder's first file that is missing or different under the tag; None if there is none."""
    found = api.verify_repo_checksums(repo_id, revision=tag, local_dir=folder)
    return min([*(mismatch["path"] for mismatch in found.mismatches), *found.extra_paths], default=None)


@contextmanager
def _one_line_errors(repo_id: str) -> Iterator[None]:
    """Raise an UploadError in place of any failed request. Other errors keep their traceback."""
    try:
        yield
    except UploadError:
        raise
    except Exception as error:
        reason = _reason(error, repo_id)
        if reason is None:
            raise
        raise UploadError(reason) from error


def _reason(error: BaseException, repo_id: str) -> str | None:
    """Explain a failed request in one line; None if no request failed."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None:  # the client wraps a failed file's error in one of its own
        text = " ".join(str(cause).split())[:200] or type(cause).__name__
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            return _of_status(cause.response.status_code, cause.server_message or text, repo_id)
        if isinstance(cause, PermissionError) and type(cause).__module__ == "hf_xet":
            return f"the Hub's store does not accept the token ({text}): it needs write access"
        if isinstance(cause, (httpx.TransportError, ConnectionError, TimeoutError)):
            return f"the connection to the Hub failed ({text}); {_RESUME}"
        cause = cause.__cause__ or cause.__context__
    return None


def _of_status(status: int, message: str, repo_id: str) -> str:
    owner = repo_id.partition("/")[0]
    if status == 401:
        return "the Hub does not accept the token (401): run `hf auth login`, or set HF_TOKEN to a valid one"
    if status == 403:
        return f"the token may not write to {repo_id} (403: {message}): it needs write access to {owner}"
    if status == 404:
        return f"the Hub has no {repo_id} that this token can see (404): check the name and the token's rights"
    if status in (408, 412, 429) or status >= 500:  # 412: another commit came between
        return f"the Hub returned {status} ({message}); {_RESUME}"
    return f"the Hub refuses the upload to {repo_id} ({status}: {message})"
