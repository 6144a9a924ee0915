"""A Hugging Face Hub on the loopback address: what huggingface_hub asks it for, of repositories in memory.

Source: the requests that huggingface_hub 1.0 to 2.4 make, and the headers that they read from the answers.

Large files are redirected to another host, as to the Hub's content delivery network: "localhost" is one to a client.

Leaves out: logging in, uploads, the Xet protocol.
"""

import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".model")  # stored as LFS objects, which have a SHA-256
PLACES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "XDG_CACHE_HOME",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)
FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "spiece.model", "tokenizer_config.json")
REPO, WEIGHTS = "owner/tiny", "model.safetensors"
NOT_READ = dict.fromkeys(("pytorch_model.bin", "flax_model.msgpack", "model.onnx", "README.md"), b"not read")
CHUNK = 1 << 14  # bytes, in which the client receives; 10 MB usually


@dataclass
class Repository:
    """Commits, their files, and what goes wrong."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False
    cuts: list[int] = field(default_factory=list)  # the byte of a file where the connection breaks, once for each
    damage: set[str] = field(default_factory=set)  # files that are sent with another content than announced


@dataclass
class Hub:
    """What is served, and what was asked for: (method, path) and the bytes of each file's content that were sent."""

    repositories: dict[str, Repository]
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    url: str = ""

    @property
    def fetched(self):
        """The names of the files whose content was sent."""
        return sorted(self.sent)

    def forget(self):
        """Begin a new count."""
        self.requests.clear()
        self.sent.clear()


def commit_of(files):
    """A commit's hash that only these files have."""
    return hashlib.sha1(repr(sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())).encode())


def repository(folder, **more):
    """The files of a folder as the first commit of a branch "main"; and other files or other contents."""
    files = {path.name: path.read_bytes() for path in Path(folder).iterdir()} | more
    commit = commit_of(files).hexdigest()
    return Repository({commit: files}, {"main": commit})


def sha256_of(data):
    return hashlib.sha256(data).hexdigest()


def blob_id_of(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code):
        self.answer(status, b"{}", X_Error_Code=code, X_Error_Message=code)

    def find(self, repo, revision):
        """The repository, the commit and its files; None after an answer that there is none."""
        found = self.hub.repositories.get(repo)
        if found is None:
            return self.error(404, "RepoNotFound")
        commit = found.refs.get(revision, revision)
        if commit not in found.commits:
            return self.error(404, "RevisionNotFound")
        return found, commit, found.commits[commit]

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self.info(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/(resolve|cdn)/([^/]+)/(.+)", path):
            self.file(*match.groups())
        else:
            self.error(404, "EntryNotFound")

    do_HEAD = do_GET

    def info(self, repo, revision):
        if found := self.find(repo, revision):
            _, commit, files = found
            siblings = []
            for name, data in files.items():
                entry = {"rfilename": name, "size": len(data), "blobId": blob_id_of(data)}
                if name.endswith(LARGE):
                    entry["lfs"] = {"sha256": sha256_of(data), "size": len(data), "pointerSize": 130}
                siblings.append(entry)
            self.answer(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode())

    def file(self, repo, place, revision, name):
        if not (found := self.find(repo, revision)):
            return
        source, commit, files = found
        if source.gated or name not in files:  # whose list of files everybody may read
            self.error(*((403, "GatedRepo") if source.gated else (404, "EntryNotFound")))
            return
        data, large = files[name], name.endswith(LARGE)
        headers = {"X_Repo_Commit": commit, "ETag": f'"{sha256_of(data) if large else blob_id_of(data)}"'}
        if large and place == "resolve":
            headers |= {"X_Linked_Etag": headers["ETag"], "X_Linked_Size": len(data)}
            other_host = self.hub.url.replace("127.0.0.1", "localhost")
            self.answer(302, Location=f"{other_host}/{repo}/cdn/{commit}/{name}", **headers)
            return
        if self.command == "HEAD":
            self.answer(200, data, **headers)
            return
        if name in source.damage:
            data = bytes([data[0] ^ 1]) + data[1:]
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        end = len(data)
        if large and source.cuts:
            end = min(end, max(start, source.cuts.pop(0)))
        self.hub.sent[name] = self.hub.sent.get(name, 0) + end - start
        if end == len(data):
            self.answer(206 if start else 200, data[start:], **headers)
            return
        self.send_response(206 if start else 200)
        for key, value in (headers | {"Content_Length": len(data) - start}).items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data[start:end])
        self.wfile.flush()
        self.close_connection = True


@contextlib.contextmanager
def serve(repositories):
    """Serve {"owner/name": Repository} for as long as the block runs."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
