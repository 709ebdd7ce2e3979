"""A counter on a TCP port that survives its own death: run it under any supervisor, kill it as you like.

    LIVEUPDATE_SOCKET=/run/luod/host.sock python3 counter.py

The count lives in a memfd and clients queue up in the listener; luod keeps both while the program is away. Each connection
is answered with the count and the program's pid, one line.
"""

import mmap
import os
import socket

from luod import Luod, LuodError

LISTENER, COUNT = 1, 2
luod = Luod()


def first():
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "0"))))
    memory = os.memfd_create("count")
    os.ftruncate(memory, 8)
    return listener, memory


try:
    session = luod.retrieve_session("counter")
    listener = socket.socket(fileno=session.retrieve_fd(LISTENER))
    memory = session.retrieve_fd(COUNT)
except LuodError as error:
    if error.code != "ENOENT":
        raise
    listener, memory = first()
    session = luod.create_session("counter", custody="hold")
    session.preserve_fd(listener.fileno(), LISTENER)
    session.preserve_fd(memory, COUNT)

# The session is not finished, ever: whatever ends this program, luod has it again, and the next start finds it.
count = mmap.mmap(memory, 8)
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        value = int.from_bytes(count[:8], "little") + 1
        count[:8] = value.to_bytes(8, "little")
        connection.sendall(f"{value} {os.getpid()}\n".encode())
