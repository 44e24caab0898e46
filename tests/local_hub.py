"""A stand-in for the Hugging Face hub on this machine, which answers the requests of its client as the hub does."""

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret"


class LocalHub(ThreadingHTTPServer):
    """Repositories as files by path, of each branch; `requests` records what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = defaultdict(lambda: {"main": {}})
        self.requests: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs to take this for the hub, with a cache of its own in `home`."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_TOKEN": TOKEN}

    def add(self, repo_id: str, folder: Path, patterns: str = "*") -> None:
        """Put the files of a folder into a repository."""
        paths = [path for path in Path(folder).rglob("*") if path.is_file() and fnmatch(path.name, patterns)]
        self.repositories[repo_id]["main"] |= {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _sha(*parts: bytes) -> str:
    return hashlib.sha1(b"\0".join(parts)).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *_) -> None:
        pass

    def _answer(self, status: int = 200, content: object = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self._answer(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def _files(self, repo_id: str, revision: str) -> dict[str, bytes] | None:
        if repo_id not in self.server.repositories:
            return self._missing("RepoNotFound")
        branches = self.server.repositories[repo_id]
        for name, files in branches.items():
            if revision in (name, self._commit(files)):
                return files
        return self._missing("RevisionNotFound")

    def _commit(self, files: dict[str, bytes]) -> str:
        return _sha(*(part for name, data in sorted(files.items()) for part in (name.encode(), data)))

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/(.+))?", path):
            files = self._files(match[1], match[3] or "main")
            if files is not None:
                siblings = [{"rfilename": name} for name in files]
                self._answer(content={"id": match[1], "sha": self._commit(files), "siblings": siblings})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            files = self._files(match[1], match[2])
            if files is not None:
                entries = files.items()
                self._answer(content=[{"type": "file", "path": n, "size": len(d), "oid": _sha(d)} for n, d in entries])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            files = self._files(match[1], match[2])
            if files is not None and match[3] not in files:
                self._missing("EntryNotFound")
            elif files is not None:
                data = files[match[3]]
                self._answer(content=data, ETag=f'"{_sha(data)}"', X_Repo_Commit=self._commit(files))
        else:
            self._answer(404, {"error": f"no such address: {path}"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            content = json.loads(body)
            repo_id = f"{content.get('organization') or 'me'}/{content['name']}"
            self.server.repositories[repo_id]  # made
            self._answer(content={"url": f"{self.server.endpoint}/{repo_id}"})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            branches = self.server.repositories[match[1]]
            branches[match[2]] = dict(branches["main"])
            self._answer(content={})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/.+", path):
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._answer(content={"files": files})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            files = self.server.repositories[match[1]][match[2]]
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "deletedFile":
                    files.pop(value["path"])
            commit = self._commit(files)
            url = f"{self.server.endpoint}/{match[1]}/commit/{commit}"
            self._answer(content={"commitUrl": url, "commitOid": commit, "success": True})
        else:
            self._answer(404, {"error": f"no such address: {path}"})
