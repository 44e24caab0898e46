"""A page to a folder: static files, and its data as scripts, since a page that is opened from disk may not fetch."""

import json
import shutil
from html import escape
from pathlib import Path

from lib.browse.data import Page
from lib.support.files import make_folder, remove, temporary_beside, user_path

STATIC = Path(__file__).parent / "static"
MARKER = "latent-terms-page.json"  # by which a folder is known as a page, which may be replaced
FORMAT_VERSION = 1


def check_target(folder: str | Path, replace: bool) -> Path:
    """Return the path of a folder that a page may be written to.

    Raises FileExistsError if it holds anything: unless `replace` is true and it is an earlier page, for nothing else is
    ever removed.
    """
    folder = user_path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return folder
    if not (folder / MARKER).is_file():
        raise FileExistsError(f"{folder} holds something else than a page; give a folder that is empty or not there.")
    if not replace:
        raise FileExistsError(f"{folder} holds a page; give another folder, or replace it with --force.")
    return folder


def write_page(page: Page, folder: str | Path, *, replace: bool = False) -> Path:
    """Write a page to `folder`, whole or not at all, and return the path of its index.html. Errors as `check_target`.

    The same model and collection give the same bytes.
    """
    folder = check_target(folder, replace)
    make_folder(folder.parent)
    with temporary_beside(folder) as temporary:
        (temporary / "data").mkdir(parents=True)
        for path in sorted(STATIC.iterdir()):
            shutil.copyfile(path, temporary / path.name)
        index = temporary / "index.html"
        title = escape(f"Latent terms of {page.name}".encode("utf-8", "replace").decode())
        index.write_text(index.read_text("utf-8").replace("TITLE", title), "utf-8")
        for name, content in page.shards():
            text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            (temporary / "data" / f"{name}.js").write_text(f'page.receive("{name}",{text});\n', "utf-8")
        (temporary / MARKER).write_text(json.dumps({"format_version": FORMAT_VERSION}) + "\n", "utf-8")
        check_target(folder, replace)
        remove(folder)
        temporary.rename(folder)
    return folder / "index.html"
