"""A client of luod: sessions that keep a program's live files while the program is replaced.

Needs Python 3.9 and nothing else. The protocol is described in docs/protocol.md.

    session = Luod(path).create_session("web", custody="hold")
    session.preserve_fd(listener.fileno(), token=1)
    ...                                     # this program ends, or dies; its next start:
    session = Luod(path).retrieve_session("web")
    listener = socket.socket(fileno=session.retrieve_fd(1))
    session.finish()
"""

import json
import os
import socket


class LuodError(OSError):
    """A refusal: `errno` as the kernel's orchestrator answers, `code` its name."""

    def __init__(self, error):
        super().__init__(-error.get("errno", 0), error["message"])
        self.code = error["code"]


class _Wire:
    """Lines of JSON on a unix socket; a line with "fds": n owns the next n descriptors."""

    def __init__(self, sock):
        self._socket = sock
        self._bytes = b""
        self._fds = []
        self._next = 0

    def ask(self, request, fds=()):
        self._next += 1
        request = {"id": self._next, **request}
        if fds:
            request["fds"] = len(fds)
        self._send(request, fds)
        while True:
            reply, owned = self._receive()
            if reply.get("type") == "restarted":
                # Another luod took over, and threw away what it found up to this word. The first of the two may end a line
                # that the last luod had begun to read.
                self._send({"type": "resume"})
                self._send({"type": "resume"})
                self._send({**request, "retry": True}, fds)
                continue
            if reply.get("type") == "refused":
                raise LuodError(reply["error"])
            if reply.get("id") != self._next:
                for fd in owned:
                    os.close(fd)
                continue
            if not reply["ok"]:
                raise LuodError(reply["error"])
            return reply, owned

    def _send(self, message, fds=()):
        line = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self._socket, [line], list(fds)) if fds else 0
        self._socket.sendall(line[sent:])

    def _receive(self):
        while b"\n" not in self._bytes:
            data, fds, flags, _ = socket.recv_fds(self._socket, 65536, 253, socket.MSG_CMSG_CLOEXEC)
            self._fds += fds
            if flags & socket.MSG_CTRUNC:
                raise OSError("descriptors were lost: this process has too few left")
            if not data:
                raise ConnectionError("luod closed the connection")
            self._bytes += data
        line, self._bytes = self._bytes.split(b"\n", 1)
        message = json.loads(line)
        count = message.get("fds", 0)
        owned, self._fds = self._fds[:count], self._fds[count:]
        return message, owned

    def close(self):
        self._socket.close()


class Session:
    """A session is its descriptor: the last close of it is what luod acts on."""

    def __init__(self, fd):
        self._socket = socket.socket(fileno=fd)
        self._wire = _Wire(self._socket)

    def fileno(self):
        return self._socket.fileno()

    def preserve_fd(self, fd, token):
        self._wire.ask({"type": "preserve_fd", "token": str(token)}, [fd])

    def unpreserve_fd(self, token):
        self._wire.ask({"type": "unpreserve_fd", "token": str(token)})

    def retrieve_fd(self, token):
        _, fds = self._wire.ask({"type": "retrieve_fd", "token": str(token)})
        return fds[0]

    def finish(self):
        self._wire.ask({"type": "finish"})

    def get_name(self):
        return self._wire.ask({"type": "get_name"})[0]["name"]

    def list(self):
        return self._wire.ask({"type": "list"})[0]["files"]

    def close(self):
        self._wire.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Luod:
    def __init__(self, path=None):
        path = path or os.environ["LIVEUPDATE_SOCKET"]
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        self._wire = _Wire(sock)

    def create_session(self, name, custody="release"):
        _, fds = self._wire.ask({"type": "create_session", "name": name, "custody": custody})
        return Session(fds[0])

    def retrieve_session(self, name):
        _, fds = self._wire.ask({"type": "retrieve_session", "name": name})
        return Session(fds[0])

    def sessions(self):
        return self._wire.ask({"type": "sessions"})[0]["sessions"]

    def drop_session(self, name):
        return self._wire.ask({"type": "drop_session", "name": name})[0]["dropped"]

    def close(self):
        self._wire.close()
