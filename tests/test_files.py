"""What a path leads to: links, pipes, devices, files of some mode; `~`; errors that name it and no temporary file.

Pipes and links stand in for /dev/stdout, which a mistake here would replace for the whole machine.
"""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.bm25.ranking import Ranking
from lib.report.common import save_results
from lib.studies.results import Results
from lib.support.files import make_folder, replacing, temporary_beside, user_path
from lib.support.folders import load_folder, save_folder, save_parts, update_manifest

ROOT = Path(__file__).parent.parent
NAME = "thing.json"


def write(path, text: str = "new") -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def save(folder, data: bytes = b"a") -> None:
    save_folder(folder, NAME, 1, {}, {"a.bin": lambda path: path.write_bytes(data)})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "folder" / "file.txt"
    path.parent.mkdir()
    path.write_text("old")
    return path


def test_a_link_stays_and_its_target_is_replaced(tmp_path, file):
    link, link_to_link = tmp_path / "link", tmp_path / "link to link"
    link.symlink_to("folder/file.txt")
    link_to_link.symlink_to(link)
    write(link_to_link)
    assert link_to_link.is_symlink()
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert names(tmp_path) | names(file.parent) == {"link", "link to link", "folder", "file.txt"}


def test_a_link_that_leads_nowhere_makes_its_target(tmp_path, file):
    (tmp_path / "link").symlink_to("folder/later.txt")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (file.parent / "later.txt").read_text() == "new"


def test_links_in_a_circle_are_an_error(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"a'$"):
        write(tmp_path / "a")


def test_all_names_of_a_file_have_the_new_text(tmp_path, file):
    (tmp_path / "other").hardlink_to(file)
    with pytest.raises(RuntimeError), replacing(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    write(file)
    assert (tmp_path / "other").read_text() == "new"
    assert (tmp_path / "other").samefile(file)


def test_a_pipe_is_written_to(tmp_path):
    pipe, texts = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: texts.append(pipe.read_text()))
    reader.start()
    Ranking(["q"], [["d"]], [np.array([1.0])]).write_trec(pipe)
    reader.join()
    assert texts == ["q Q0 d 1 1 latent-terms\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == {"pipe"}


def test_a_terminal_is_written_to():
    main, terminal = os.openpty()
    try:
        write(os.ttyname(terminal))
        assert os.read(main, 10) == b"new"
    finally:
        os.close(main)
        os.close(terminal)


SCRIPT = """
import sys
from lib.support.files import replacing

print("before")
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("new\\n")
print("after")
"""


@pytest.mark.parametrize("kind", ["pipe", "file"])
@pytest.mark.parametrize("target", ["/proc/self/fd/1", "/dev/fd/1"])
def test_the_standard_output_is_written_in_order(tmp_path, kind, target):
    (tmp_path / "stdout").symlink_to(target)  # as /dev/stdout is one
    with open(tmp_path / "redirected", "w+") as file:
        output = file if kind == "file" else subprocess.PIPE
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "stdout")]
        run = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True)
        assert run.returncode == 0, run.stderr
        file.seek(0)
        assert (run.stdout or file.read()) == "before\nnew\nafter\n"
    assert names(tmp_path) == {"stdout", "redirected"}


def test_after_an_error_nothing_is_written_to_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RuntimeError), replacing(tmp_path / "pipe") as temporary:  # without a reader it would wait
        temporary.write_text("half")
        raise RuntimeError


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder"):
        write(tmp_path)


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o664, 0o755])
def test_a_file_keeps_its_mode(file, bits):
    file.chmod(bits)

    def recreate(path):  # as safetensors does
        path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    with replacing(file) as temporary:
        assert not mode(temporary) & ~bits  # nobody else reads it while it is written
        recreate(temporary)
    assert mode(file) == bits
    with replacing(file.with_name("new.txt")) as temporary:
        recreate(temporary)
    umask = os.umask(0)
    os.umask(umask)
    assert mode(file.with_name("new.txt")) == 0o666 & ~umask


def test_the_files_of_a_folder_keep_their_modes(tmp_path):
    save(tmp_path)
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    save(tmp_path, b"new")
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
    update_manifest(tmp_path, NAME, 1, {"k": 2})
    assert mode(tmp_path / NAME) == 0o600
    (tmp_path / NAME).chmod(0o644)
    save(tmp_path, b"newer")
    assert sorted(map(mode, tmp_path.iterdir())) == [0o600, 0o644]


def test_a_file_keeps_its_owner(file):
    owner = (1234, 1235) if os.geteuid() == 0 else (os.getuid(), os.getgid())  # only the superuser gives files away
    os.chown(file, *owner)
    write(file)
    assert (file.stat().st_uid, file.stat().st_gid) == owner


def test_what_is_read_only_stays(tmp_path, file):
    file.chmod(0o444)
    (tmp_path / "link").symlink_to(file)
    for path in (file, tmp_path / "link"):
        with pytest.raises(PermissionError, match=r"file\.txt is read-only"):
            write(path)
    assert file.read_text() == "old"
    save(file.parent / "saved")
    (file.parent / "saved" / NAME).chmod(0o444)
    for change in (lambda path: save(path, b"new"), lambda path: update_manifest(path, NAME, 1, {"k": 2})):
        with pytest.raises(PermissionError, match=f"{NAME} is read-only"):
            change(file.parent / "saved")
    assert load_folder(file.parent / "saved", NAME, 1)[1]["a.bin"].read_bytes() == b"a"


def test_a_folder_behind_links(tmp_path):
    (tmp_path / "link").symlink_to("later")
    save(tmp_path / "link", b"1")  # the folder is made where the link leads
    (tmp_path / "link" / NAME).rename(tmp_path / "elsewhere.json")
    (tmp_path / "link" / NAME).symlink_to(tmp_path / "elsewhere.json")
    save(tmp_path / "link", b"2")
    assert load_folder(tmp_path / "later", NAME, 1)[1]["a.bin"].read_bytes() == b"2"
    assert not (tmp_path / "later" / NAME).is_symlink()  # elsewhere the files that it names are not


def test_a_copy_of_a_folder_by_hard_links_stays_whole(tmp_path):
    save(tmp_path / "a")
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "a").iterdir():
        (tmp_path / "copy" / path.name).hardlink_to(path)
    save(tmp_path / "a", b"new")
    assert load_folder(tmp_path / "copy", NAME, 1)[1]["a.bin"].read_bytes() == b"a"


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(make_folder("~/work"))
    assert user_path("~") == tmp_path
    assert user_path("a~/~b") == Path("a~/~b")
    write("~/file.txt")
    save("~/saved")
    assert load_folder("~/saved", NAME, 1)[1]["a.bin"].parent == tmp_path / "saved"
    with temporary_beside("~/file.txt") as temporary:
        assert temporary.parent == tmp_path
    assert names(tmp_path) == {"work", "file.txt", "saved"}
    assert names(tmp_path / "work") == set()
    with pytest.raises(ValueError, match="~nobody-of-that-name"):
        write("~nobody-of-that-name/file.txt")


def fails(error):
    def writer(path):
        raise error(path)

    return writer


@pytest.mark.parametrize(
    "writer",
    [
        lambda path: save_parts(path, [np.array([{}])]),
        lambda path: (path.unlink(), path.mkdir(), os.open(path, os.O_WRONLY)),
        lambda path: (path / "below").write_text(""),
        fails(lambda path: OSError(f"cannot write {path}")),
        fails(lambda path: RuntimeError(f"{path.name} is odd")),
    ],
)
def test_errors_name_no_temporary_file(tmp_path, writer):
    with pytest.raises((OSError, ValueError, RuntimeError)) as in_file, replacing(tmp_path / "file.txt") as temporary:
        writer(temporary)
    with pytest.raises((OSError, ValueError, RuntimeError)) as in_folder:
        save_folder(tmp_path, NAME, 1, {}, {"a.bin": writer})
    for error, name in ((in_file, "file.txt"), (in_folder, "a.bin")):
        assert name in str(error.value)
        chain = [error.value, error.value.__cause__, error.value.__context__]
        assert not [text for text in map(str, chain) if ".tmp" in text or "/." in text]
    assert names(tmp_path) == set()


@pytest.mark.parametrize("path", ["no/file.txt", "plain/file.txt"])
def test_a_folder_that_is_not_there_is_named(tmp_path, path):
    (tmp_path / "plain").touch()
    with pytest.raises(OSError, match=r"file\.txt") as error:
        write(tmp_path / path)
    assert ".tmp" not in str(error.value)


def test_tables_go_to_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    save_results(pd.DataFrame({"a": [1]}), Path("~/figures"), "table", {})
    assert Results("~/figures")["table"]["a"].tolist() == [1]
    assert names(tmp_path) == {"home"}
