"""What a path given by a user leads to, and single files that are written whole or not at all."""

import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

_DESCRIPTORS = re.compile(r"/dev/fd|/proc/(\d+)(/task/\d+)?/fd")  # folders of the open files of a process


def user_path(path: str | Path) -> Path:
    """Return a path with `~` and `~user` expanded; every path that a user gives to this package goes through here.

    Raises ValueError if there is no such user, so that no folder called `~` comes into being.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{expanded} begins with the home folder of a user who is not known; write it out in full.")
    return Path(expanded)


def make_folder(path: str | Path) -> Path:
    """Return the folder of that path, `~` expanded; made if it does not exist, where a link leads to as well."""
    folder = user_path(path)
    Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)
    return folder


def to_disk(path: Path) -> None:
    """Wait until the content of a file is on the disk itself, so that a name given to it later outlives a power cut."""
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def errors_name(path: Path, temporary: Path) -> Iterator[None]:
    """Put `path` into errors of the block where they name the temporary file, which nobody could look at later."""
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        chain: BaseException | None = error
        while chain is not None:
            for old, new in ((str(temporary), str(path)), (temporary.name, path.name)):
                chain.args = tuple(arg.replace(old, new) if isinstance(arg, str) else arg for arg in chain.args)
                if isinstance(chain, OSError) and isinstance(chain.filename, str | Path):
                    chain.filename = str(chain.filename).replace(old, new)
            chain = chain.__cause__ or chain.__context__
        raise


@contextmanager
def temporary_beside(path: str | Path) -> Iterator[Path]:
    """Give the path of a new hidden file or folder beside `path`, and remove it afterwards if it is still there.

    Errors name `path` instead.
    """
    path = Path(os.path.abspath(user_path(path)))  # "." has no name
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with errors_name(path, temporary):
            yield temporary
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the path of a new empty file; what is written there replaces `path` when the block ends without an error.

    A regular file is replaced in one step and keeps its mode and owner: readers see the old file or the new one, never
    a part; after an error the old one stays, and after a power cut one of the two. A link stays, and the file that it
    leads to is replaced, or made. Of a file with several names (hard links) the content is overwritten, so that all of
    them have the new one; a device, a pipe and an open file of this process (`/dev/stdout`) are written to. For these,
    nothing is written after an error in the block.

    Raises PermissionError for a file that nobody may write to, IsADirectoryError for a folder.
    """
    path = user_path(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:  # a new file, perhaps behind a link
        status = None
    descriptor = None if status is None else _own_descriptor(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path} is a folder; name a file in it.")
    if descriptor is None and (status is None or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)):
        with replacing_file(Path(os.path.realpath(path))) as temporary:
            yield temporary
        return
    if descriptor is None and status is not None and stat.S_ISREG(status.st_mode):
        check_writable(path)
    with TemporaryDirectory() as folder, errors_name(path, temporary := Path(folder) / path.name):
        temporary.touch()
        yield temporary
        if sys.stdout is not None:
            sys.stdout.flush()  # what was printed before stands before
        with (
            open(temporary, "rb") as source,
            open(path if descriptor is None else descriptor, "wb", closefd=descriptor is None) as target,
        ):
            shutil.copyfileobj(source, target)


def _own_descriptor(path: Path) -> int | None:
    """Return the number of the open file of this process that `path` is or links to, such as 1 of /dev/stdout.

    Opened by its path, a file that stdout is redirected to would be written from its beginning.
    """
    while True:
        match = _DESCRIPTORS.fullmatch(os.path.realpath(path.parent))
        if match and match[1] in (None, str(os.getpid())) and path.name.isdigit():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """As `replacing`, of a regular file or none; a link is replaced itself, as are all names but this of the file."""
    status = check_writable(path)
    with temporary_beside(path) as temporary:
        temporary.touch(0o666 if status is None else stat.S_IMODE(status.st_mode) | 0o200)
        mode = (status or temporary.stat()).st_mode  # as the umask asks; some writers make a new file of another mode
        yield temporary
        if status is not None and status.st_uid != temporary.stat().st_uid:
            with suppress(PermissionError):
                os.chown(temporary, status.st_uid, status.st_gid)
        temporary.chmod(stat.S_IMODE(mode))
        to_disk(temporary)
        os.replace(temporary, path)


def check_writable(path: Path) -> os.stat_result | None:
    """Return the status of a file, None if there is none; PermissionError if it is read-only, to the superuser too."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is read-only; name another file, or make it writable (chmod u+w).")
    return status
