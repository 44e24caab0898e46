"""Folders from and to the Hugging Face hub: what `LatentTerms`, `BM25Index` and `SparseAutoencoder` save.

A repository is downloaded as files and read as any other folder. Only the kinds of files in `PATTERNS` are fetched,
and nothing of them is executed.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, validate_repo_id

from lib.support.files import errors_name, user_path

# What our folders are made of, and what retrievers have besides: a tokenizer without a tokenizer.json (WordPiece, BPE,
# SentencePiece), a chat template, ColBERT's settings; in any folder.
PATTERNS = ["*.json", "*.safetensors", "*.npy", "*vocab.txt", "*merges.txt", "*.model", "*.jinja", "*artifact.metadata"]


def find_folder(
    place: str | Path, manifest_name: str, *, revision: str | None = None, token: str | bool | None = None
) -> Path:
    """Return `place` if it is a folder, else the folder with the files of the hub repository of that id.

    An id is a str such as "organisation/name"; a `Path` is never looked for on the hub. `manifest_name` ("index.json")
    is a file that every such repository has; `revision` is a branch, tag or commit, None the main branch; `token` is an
    access token, None the one saved on this machine, False none at all.

    Raises FileNotFoundError if there is neither such a folder nor such a repository or revision, and for a repository
    without the manifest; PermissionError if the token does not open the repository; ConnectionError if the files are
    not on this machine and the hub cannot be reached; ValueError if a revision is given for a folder.
    """
    folder = user_path(place)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision is {revision!r}, but {place} is a folder and has none; leave it out.")
        return folder
    if not _may_be_id(place):
        raise FileNotFoundError(f"There is no folder {place}; give one that was saved by this package, or a hub id.")
    folder = download(str(place), revision=revision, token=token)
    if not (folder / manifest_name).is_file():
        name = place if revision is None else f"{place} at revision {revision!r}"
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing of ours"
        raise FileNotFoundError(f"{name} has no {manifest_name} (it has {names}); give what push_to_hub made.")
    return folder


def download(
    repo_id: str,
    patterns: Sequence[str] = PATTERNS,
    *,
    place: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """Return the folder with the files of a hub repository whose paths match `patterns`; raises as `find_folder`.

    `place` is the folder that was looked for before, None that of the id.
    """
    absent = f"There is no folder {Path(place or repo_id).absolute()}"
    name = repo_id if revision is None else f"{repo_id} at revision {revision!r}"
    silent = _silence()
    settings = {"revision": revision, "token": token, "local_files_only": silent is not None}
    try:
        folder = huggingface_hub.snapshot_download(repo_id, allow_patterns=list(patterns), **settings)
    except HFValidationError as error:
        raise FileNotFoundError(f"{absent}, and {repo_id} is no id on the hub ({error}).") from error
    except GatedRepoError as error:
        raise PermissionError(f"{name} is gated; ask for access on the hub and pass a token that has it.") from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"The hub has {repo_id}, but no revision {revision!r}; look it up there.") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{absent}, nor a hub repository {repo_id} that this token may read; look it up, or pass a token."
        ) from error
    except (LocalEntryNotFoundError, HTTPError, ConnectionError) as error:
        if _is_refusal(error) or _is_refusal(error.__cause__):  # the library wraps a 403
            raise PermissionError(f"The hub refuses {name} with this token ({error}); pass one that may.") from error
        raise ConnectionError(
            f"{absent}, {name} is not whole in {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} "
            f"{_why(silent or error)}. Connect and unset HF_HUB_OFFLINE, or copy the folder here and give its path."
        ) from error
    return Path(folder)


def _silence() -> HTTPError | None:
    """Return the error if the hub does not answer within seconds; the client itself may wait for minutes or for ever.

    HF_HUB_ETAG_TIMEOUT sets the seconds, by default 10.
    """
    if constants.HF_HUB_OFFLINE:
        return None  # nothing is sent
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except HTTPError as error:
        return error
    return None


def _why(error: Exception) -> str:
    """Return in a few words why the hub was of no help."""
    if constants.HF_HUB_OFFLINE:
        return "is not asked, since HF_HUB_OFFLINE is set"
    cause = error.__cause__ or error
    return f"failed ({type(cause).__name__}: {str(cause).partition(chr(10))[0]})"


def upload(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    private: bool | None = None,
    message: str,
) -> str:
    """Save into a new folder and upload it, in one commit; return the address of the commit.

    The repository is made if it does not exist. The files of an earlier upload, which are named after their digests,
    are removed in the same commit; all others stay, so a model, its index and a README.md can share a repository.

    Raises ValueError for an id that is none, and for a model whose retriever is a folder of this machine, which others
    cannot read; PermissionError if the token is missing or may not write; ConnectionError if the hub is out of reach.

    Parameters
    ----------
    save : callable
        Writes the folder it is given.
    repo_id : str
        Id of the repository, such as "organisation/name".
    revision : str, optional
        A branch, made if it does not exist; None is the main branch.
    token : str or bool, optional
        Access token that may write; None is the one saved on this machine.
    private : bool, optional
        Whether a new repository is private; None is what the account or organisation has set.
    message : str
        Message of the commit.
    """
    if not _may_be_id(repo_id):
        raise ValueError(f"repo_id is {str(repo_id)!r}; it must be an organisation and a name, such as 'me/my-terms'.")
    with TemporaryDirectory() as folder:
        with errors_name(Path(repo_id), Path(folder)):
            save(Path(folder))
        _check_retriever(Path(folder))
        try:
            if silent := _silence():
                raise silent
            huggingface_hub.create_repo(repo_id, token=token, private=private, exist_ok=True)
            if revision is not None:
                huggingface_hub.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
            commit = huggingface_hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                token=token,
                revision=revision,
                commit_message=message,
                delete_patterns=_earlier_names(Path(folder)),
            )
        except (LocalTokenNotFoundError, HTTPError, ConnectionError) as error:
            if isinstance(error, (LocalTokenNotFoundError, RepositoryNotFoundError)) or _is_refusal(error):
                raise PermissionError(f"{repo_id} cannot be written ({error}); pass a token that may.") from error
            remedy = "Connect, unset HF_HUB_OFFLINE, or mend what the message says, and push again."
            reason = f"{repo_id} could not be uploaded: {constants.ENDPOINT} {_why(error)}"
            raise ConnectionError(f"{reason}. {remedy}") from error
    return str(commit.commit_url)


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the hub answered that the token is wrong or not enough."""
    return isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)


def _check_retriever(folder: Path) -> None:
    """Raise a ValueError if `folder` has a model whose retriever is a folder of this machine."""
    manifest = folder / "latent_terms.json"
    if not manifest.is_file():
        return
    content = json.loads(manifest.read_text("utf-8"))
    name = content["encoder"]["model"]
    if "retriever" in content["files"]:
        return
    if Path(name).is_absolute() or Path(name).is_dir():
        raise ValueError(
            f"The retriever is the folder {name}, not a hub id. Push with_retriever=True, or upload it with "
            f"SentenceTransformer({name!r}).push_to_hub(id), load the model with encoder=TokenEncoder(id), push that."
        )


def _earlier_names(folder: Path) -> list[str]:
    """Return patterns of the names that the files of `folder` had in earlier saves."""
    matches = (re.fullmatch(r"(.+-)[0-9a-f]{12}(\.\w+)?", path.name) for path in sorted(folder.iterdir()))
    return [match[1] + "[0-9a-f]" * 12 + (match[2] or "/*") for match in matches if match]


def _may_be_id(place: str | Path) -> bool:
    """Whether it has the form of an id on the hub, "organisation/name"."""
    if not isinstance(place, str) or place.count("/") != 1:
        return False
    try:
        validate_repo_id(place)
    except HFValidationError:
        return False
    return True
