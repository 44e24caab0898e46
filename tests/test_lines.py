"""Which files are data, and the one reader of lines."""

import gzip
import sys

import pytest

from lib.support.lines import columns_of, data_files, read_lines

NOT_DATA = ["._a.txt", ".a.txt", ".#a.txt", ".~lock.a.txt#", ".a.txt.swp", "~$a.txt", "#a.txt#", "a.txt~", ".DS_Store"]
NOT_DATA += [".hidden/a.txt", ".ipynb_checkpoints/a.txt", "deeper/._a.txt", "deeper/.git/a.txt", "__MACOSX/._a.txt"]
DATA = ["#1.txt", "a#.txt", "a.b.txt", "a~b.txt", "deeper/a.txt", "~a.txt"]


def test_hidden_files_and_those_of_editors_are_no_data(tmp_path):
    folder = tmp_path / ".corpora" / "mine~"  # what the user named is read, whatever its name
    for name in NOT_DATA + DATA:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "b.txt").mkdir()
    assert data_files(folder, "**/*") == sorted(folder / name for name in DATA)
    assert data_files(folder) == sorted(folder / name for name in DATA if "/" not in name)


def lines_of(tmp_path, content: bytes, name="a.txt") -> list[str]:
    (tmp_path / name).write_bytes(content)
    return [line for _, line in read_lines(tmp_path / name)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"one", ["one"]),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\n\r\ntwo\r\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\ntwo\n", ["one", "two"]),
        (b"one\n\xef\xbb\xbftwo\n", ["one", "two"]),  # two files, one behind the other
        (b"\xef\xbb\xbf\none", ["one"]),
        (b"\n \t\n\xc2\xa0\none\n\n", ["one"]),
        (b" one \t\n", [" one"]),
        ("\u00a0one\u00a0\u3000\n".encode(), ["\u00a0one\u00a0\u3000"]),
        ("a\u2028b\x85c\x0bd\x1ce\rf\n".encode(), ["a\u2028b\x85c\x0bd\x1ce\rf"]),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.GZ"])
def test_lines(tmp_path, content, expected, name):
    content = content if name == "a.txt" else gzip.compress(content, mtime=0)
    assert lines_of(tmp_path, content, name) == expected


def test_a_line_is_named_by_its_number_in_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\n\none\n\ntwo")
    assert list(read_lines(str(tmp_path / "a.txt"))) == [
        (f"{tmp_path / 'a.txt'}, line 3", "one"),
        (f"{tmp_path / 'a.txt'}, line 5", "two"),
    ]


@pytest.mark.parametrize(
    ("content", "name", "match"),
    [
        ("one".encode("utf-16"), "a.txt", "a.txt, line 1 is not UTF-8 but UTF-16"),
        (b"\xfe\xff" + "one".encode("utf-16-be"), "a.txt", "line 1 .* UTF-16"),
        ("one\ntwo".encode("utf-16-le"), "a.txt", "line 1 holds a NUL .*UTF-16"),
        ("\u4e2d\u6587\n\u4e2d".encode("utf-16-be"), "a.txt", r"line 1 .*UTF-(8|16)"),
        ("one".encode("utf-32"), "a.txt", "line 1 .* UTF-16"),
        ("one".encode("utf-16"), "a.gz", "a.gz, line 1 is not UTF-8 but UTF-16"),
        ("one\ntw\u00f6".encode("latin-1"), "a.txt", "line 2 is not UTF-8 .*convert"),
        (b"one\nt\0wo", "a.txt", "line 2 holds a NUL"),
        (gzip.compress(b"one", mtime=0), "a.txt", r"line 1.*gzip.*\.gz"),
        (b"one\n", "a.gz", "a.gz .*no gzip file"),
        (gzip.compress(b"one\n" * 9, mtime=0)[:-8], "a.gz", "a.gz breaks off"),
    ],
)
def test_what_is_no_utf8_is_refused_with_file_and_line(tmp_path, content, name, match):
    content = gzip.compress(content, mtime=0) if name == "a.gz" and content.startswith(b"\xff") else content
    with pytest.raises(ValueError, match=match):
        lines_of(tmp_path, content, name)


def test_only_ascii_white_space_separates_columns():
    assert columns_of(" q\u00a01 \t Q0\x0b\x0cd\u20032\r") == ["q\u00a01", "Q0", "d\u20032"]
    assert columns_of("a\x1cb\x85c\u2028d") == ["a\x1cb\x85c\u2028d"]
    spaces = [space for space in map(chr, range(sys.maxunicode + 1)) if space.isspace()]
    assert len(spaces) == 29
    for space in spaces:
        assert columns_of(f"a{space}b c") == ["a", "b", "c"] if space in " \t\n\r\v\f" else [f"a{space}b", "c"]
