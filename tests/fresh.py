"""Processes that start in milliseconds: forks of one that has imported what takes seconds."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent

# The first function that numba compiles, or takes from its cache, costs a second, and every later one little.
COMPILER = "import numba; numba.njit(lambda: None)()"

# What takes long, and what no call of this library can have forgotten to import: lib itself, huggingface_hub,
# transformers and sentence_transformers are left to each fork. Nothing is computed, so no pool of threads has started.
HEAVY = f"""
import sys, scipy.sparse, torch
import sklearn.metrics, torch._dynamo, torch.distributed.tensor  # transformers and sentence_transformers import them
{COMPILER}
assert sys.modules.keys().isdisjoint(["lib", "huggingface_hub", "transformers", "sentence_transformers"])
"""

PARENT = """
import atexit, json, os, socket, sys, threading, traceback
names = {"__name__": "__main__"}
exec(sys.argv[2], names)
with socket.socket(fileno=int(sys.argv[1])) as connection:
    while True:
        data, files, *_ = socket.recv_fds(connection, 1 << 20, 3)
        if not data:
            sys.exit()
        order = json.loads(data)
        if "wait" in order:
            answer = os.waitpid(*order["wait"])
        elif answer := os.fork():
            os.setpgid(answer, answer)
        else:
            break
        for file in files:
            os.close(file)
        connection.sendall(json.dumps(answer).encode())
for standard, file in enumerate(files):
    os.dup2(file, standard)
    os.close(file)
os.chdir(order["folder"])
os.environ.update(order["environment"])
sys.path[1:1] = filter(None, order["environment"].get("PYTHONPATH", "").split(os.pathsep))
sys.argv = ["-c", *order["arguments"]]
code = 0
try:
    exec(compile(order["script"], "<script>", "exec"), names)
    threading._shutdown()  # waits for threads
except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
    print(end.code or "", end="", file=sys.stderr)
except BaseException:
    code = 1
    traceback.print_exc()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # without taking apart all that was imported, which would take longer than most scripts
"""


class Fork:
    """A running script, in a process group of its own: what `subprocess.Popen` is to a command."""

    stdin = stdout = stderr = None

    def __init__(self, parent: "Parent", pid: int):
        self.parent, self.pid = parent, pid
        self.returncode: int | None = None

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            pid, status = self.parent.ask({"wait": [self.pid, options]})
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        return self.poll(0)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Parent:
    """A process that has run `imports`; its forks run scripts, with the names that are imported."""

    def __init__(self, imports: str, **environment: str):
        self.connection, theirs = socket.socketpair()
        command = [sys.executable, "-c", PARENT, str(theirs.fileno()), imports]
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=kept | environment)
        theirs.close()

    def ask(self, order: dict, files: list[int] = ()):
        socket.send_fds(self.connection, [json.dumps(order).encode()], files)
        return json.loads(self.connection.recv(1 << 10))

    def close(self) -> None:
        self.connection.close()
        self.process.wait()

    def start(self, script: str, *arguments, files: list[int], folder: Path = ROOT, **environment: str) -> Fork:
        """Start a script with these descriptors as standard input, output and error."""
        order = {"script": script, "arguments": [*map(str, arguments)], "folder": str(folder)}
        return Fork(self, self.ask(order | {"environment": {"PYTHONPATH": str(ROOT)} | environment}, files))

    def run(self, script: str, *arguments, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
        """Run a script to its end, with nothing to read."""
        with open(os.devnull) as nothing, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            files = [file.fileno() for file in (nothing, out, err)]
            code = self.start(script, *arguments, files=files, folder=folder, **environment).wait()
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(script, code, out.read(), err.read())


def fork_kernels() -> Callable[[], None]:
    """Let the kernels of nbmake's notebooks be forks of one process that has imported what they all import, but lib.

    Returns what ends that process.
    """
    from jupyter_client.provisioning import local_provisioner

    parents: list[Parent] = []

    def launch(command: list[str], cwd: str, env: dict[str, str], **_) -> Fork:
        if not parents:
            imports = f"{HEAVY}\nimport ipykernel.kernelapp, matplotlib.pyplot, sentence_transformers"
            parents.append(Parent(imports, MPLBACKEND="module://matplotlib_inline.backend_inline"))  # as kernels set it
        script = "ipykernel.kernelapp.launch_new_instance()"
        arguments = command[command.index("ipykernel_launcher") + 1 :]
        arguments.append(f"--IPKernelApp.parent_handle={parents[0].process.pid}")  # it ends with its parent
        return parents[0].start(script, *arguments, files=[0, 1, 2], folder=Path(cwd), **env)

    local_provisioner.launch_kernel = launch
    return lambda: [parent.close() for parent in parents]
