"""Text files that users give: which files of a folder are data, and one reader of lines for all of them."""

import codecs
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.support.files import user_path

_FIRST_BYTES = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"\x1f\x8b": "a gzip file, whose name must end in .gz",
}
_NO_DATA = re.compile(r"\..*|~\$.*|#.*#|.*~", re.DOTALL)


def is_data(parts: Iterable[str]) -> bool:
    """Whether a file is data, by the parts of its path below the folder that a user gave.

    Not data are hidden files and what hidden folders hold (.DS_Store, ._a.txt, .#a.txt, .a.txt.swp), and files that
    editors keep beside an open one (~$a.txt, #a.txt#, a.txt~).
    """
    return not any(map(_NO_DATA.fullmatch, parts))


def data_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files below a folder that match a pattern of `Path.glob` and are data (`is_data`), sorted by path."""
    paths = (path for path in folder.glob(pattern) if is_data(path.relative_to(folder).parts))
    return sorted(path for path in paths if path.is_file())


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield ("FILE, line N", line) for every line that is not blank of a UTF-8 file, plain or .gz.

    Lines end at LF or CRLF only. ASCII white space behind a line is dropped, and a byte order mark before it; all else
    stays. A ValueError names file and line of what is not UTF-8 (such as UTF-16) and where a .gz file breaks off.
    """
    path, number = user_path(path), 0
    name = str(path)
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                line = raw.removeprefix(codecs.BOM_UTF8).rstrip().decode()  # of bytes, it drops white space of ASCII
                if "\0" in line:
                    kind = "holds a NUL byte, as UTF-16 and binary files do"
                    raise ValueError(f"{path}, line {number} {kind}; convert the file to UTF-8, or drop the byte.")
                if line and not line.isspace():
                    yield f"{name}, line {number}", line
    except UnicodeDecodeError as error:
        first = error.object if number == 1 else b""
        kind = next((f" but {kind}" for start, kind in _FIRST_BYTES.items() if first.startswith(start)), "")
        message = f"{path}, line {number} is not UTF-8{kind} ({error}); convert the file to UTF-8."
        raise ValueError(message) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = f"{path} breaks off after line {number}, or is no gzip file ({error}); get it again."
        raise ValueError(message) from error


def columns_of(line: str) -> list[str]:
    """Return the columns of a line of a TREC file, which ASCII white space separates, and nothing else."""
    spaced = line.replace("\t", " ")
    if spaced.isprintable():  # then it has no other white space than " ", of ASCII or not
        return spaced.split()
    return [column.decode() for column in line.encode().split()]
