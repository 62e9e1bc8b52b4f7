"""A file system that fails as it is told: a server of the kernel's FUSE protocol, for faults that no tmpfs can have.

``python failing_mount.py FOLDER MODE [TYPE]``, as root. MODE: ``errno=N``, no file can be made, for this error;
``hang``, no answer at all; ``forgets``, all that is read is zero; ``locks``, files cannot be locked; ``slow``, each
write of 128 KiB takes 20 ms. All but the first two take files. TYPE is the subtype that is shown, as ``sshfs``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import time

LOOKUP, FORGET, GETATTR, SETATTR, MKNOD, UNLINK, OPEN, READ, WRITE, STATFS, RELEASE = (
    1,
    2,
    3,
    4,
    8,
    10,
    14,
    15,
    16,
    17,
    18,
)
FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, SETLK, SETLKW, ACCESS, CREATE = 20, 25, 26, 27, 28, 29, 32, 33, 34, 35
BATCH_FORGET = 42
POSIX_LOCKS, BIG_WRITES, FLOCK_LOCKS = 1 << 1, 1 << 5, 1 << 10
GIB = 2**30


def mount(folder: str, subtype: str) -> int:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    kind = ("fuse." + subtype if subtype else "fuse").encode()
    if ctypes.CDLL(None, use_errno=True).mount(b"server:/export", os.fsencode(folder), kind, 0, options):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
    return device


def attributes(node: int, size: int) -> bytes:
    mode = 0o41777 if node == 1 else 0o100666
    return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def entry(node: int, contents: dict[int, bytearray]) -> bytes:
    return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + attributes(node, len(contents[node]))


def serve(device: int, mode: str) -> None:
    contents: dict[int, bytearray] = {}
    names: dict[bytes, int] = {}
    while True:
        request = os.read(device, 2**20 + 4096)
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        failure, reply = 0, b""
        if opcode in (FORGET, BATCH_FORGET):
            continue
        if opcode == INIT:
            flags = BIG_WRITES | (POSIX_LOCKS | FLOCK_LOCKS if mode == "locks" else 0)
            reply = struct.pack("<IIIIHHIIHH8I", 7, 31, 65536, flags, 12, 10, 2**17, 1, 32, 0, *[0] * 8)
        elif mode == "hang":
            continue
        elif opcode in (GETATTR, SETATTR):
            reply = struct.pack("<QII", 0, 0, 0) + attributes(node, len(contents.get(node, b"")))
        elif opcode == STATFS:
            reply = struct.pack("<5Q4I6I", *[4 * GIB // 4096] * 3, 9000, 9000, 4096, 255, 4096, 0, *[0] * 6)
        elif opcode == LOOKUP and request[40:] in names:
            reply = entry(names[request[40:]], contents)
        elif opcode == LOOKUP:
            failure = errno.ENOENT
        elif opcode == UNLINK:
            names.pop(request[40:], None)
        elif opcode == CREATE and not mode.startswith("errno="):
            names[request[56:]] = new = len(contents) + 2
            contents[new] = bytearray()
            reply = entry(new, contents) + struct.pack("<QII", 1, 0, 0)
        elif opcode in (OPEN, OPENDIR):
            reply = struct.pack("<QII", 1, 0, 0)
        elif opcode == WRITE:
            _, offset, count = struct.unpack_from("<QQI", request, 40)
            contents[node][offset : offset + count] = request[80 : 80 + count]
            time.sleep(0.02 if mode == "slow" else 0)
            reply = struct.pack("<II", count, 0)
        elif opcode == READ:
            _, offset, count = struct.unpack_from("<QQI", request, 40)
            reply = bytes(contents[node][offset : offset + count])
            reply = bytes(len(reply)) if mode == "forgets" else reply
        elif opcode in (SETLK, SETLKW):
            failure = errno.ENOLCK
        elif opcode not in (READDIR, RELEASE, RELEASEDIR, FSYNC, FLUSH, ACCESS):
            failure = int(mode.partition("=")[2]) if mode.startswith("errno=") else errno.ENOSYS
        os.write(device, struct.pack("<IiQ", 16 + len(reply), -failure, unique) + reply)


if __name__ == "__main__":
    opened = mount(sys.argv[1], sys.argv[3] if len(sys.argv) > 3 else "")
    print("mounted", flush=True)
    serve(opened, sys.argv[2])
