# SPDX-License-Identifier: BSD-2-Clause
"""
A bare NBD client that sends exactly the bytes it is told to, right or wrong. Names and numbers are those of the NBD
specification (doc/proto.md).
"""

import socket
import struct

TIMEOUT = 30

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REQUEST_MAGIC = 0x21E41C71
EXTENDED_REPLY_MAGIC = 0x6E8A278C

# Handshake flags
FLAG_FIXED_NEWSTYLE = 1
FLAG_NO_ZEROES = 2

# Options
OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10
OPT_EXTENDED_HEADERS = 11

# Option replies
REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_ERR_UNSUP = 0x80000001
REP_ERR_POLICY = 0x80000002
REP_ERR_INVALID = 0x80000003
REP_ERR_PLATFORM = 0x80000004
REP_ERR_TLS_REQD = 0x80000005
REP_ERR_UNKNOWN = 0x80000006
REP_ERR_BLOCK_SIZE_REQD = 0x80000008
REP_ERR_TOO_BIG = 0x80000009
REP_ERR_EXT_HEADER_REQD = 0x8000000A

INFO_EXPORT = 0
INFO_NAME = 1
INFO_DESCRIPTION = 2
INFO_BLOCK_SIZE = 3

# Transmission flags
FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_FUA = 1 << 3
FLAG_SEND_TRIM = 1 << 5
FLAG_SEND_WRITE_ZEROES = 1 << 6
FLAG_SEND_DF = 1 << 7
FLAG_CAN_MULTI_CONN = 1 << 8
FLAG_SEND_CACHE = 1 << 10
FLAG_SEND_FAST_ZERO = 1 << 11
FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12

# Commands and their flags
CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_CACHE = 5
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7
CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3
CMD_FLAG_FAST_ZERO = 1 << 4
CMD_FLAG_PAYLOAD_LEN = 1 << 5

# Errors on the wire
EPERM = 1
EIO = 5
ENOMEM = 12
EINVAL = 22
ENOSPC = 28
EOVERFLOW = 75
ENOTSUP = 95
ESHUTDOWN = 108

# Structured reply chunks
CHUNK_DONE = 1
TYPE_NONE = 0
TYPE_OFFSET_DATA = 1
TYPE_OFFSET_HOLE = 2
TYPE_BLOCK_STATUS = 5
TYPE_BLOCK_STATUS_EXT = 6
TYPE_ERROR = 32769
TYPE_ERROR_OFFSET = 32770


class Closed(Exception):
    """The server closed the connection."""


class NbdRaw:
    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(TIMEOUT)
        self.structured = False
        self.extended = False
        self.next_cookie = 1

    @classmethod
    def unix(cls, path):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        sock.connect(str(path))
        return cls(sock)

    @classmethod
    def inet(cls, port, host="127.0.0.1"):
        return cls(socket.create_connection((host, port), TIMEOUT))

    @classmethod
    def opened(cls, path, name, structured=False, extended=False, contexts=()):
        """A client in transmission."""
        client = cls.unix(path)
        client.hello()
        if structured:
            client.structured_reply()
        if extended:
            client.extended_headers()
        if contexts:
            replies = client.set_meta_context(name, contexts)
            assert [r[0] for r in replies[:-1]] == [REP_META_CONTEXT] * (len(replies) - 1), replies
        client.go(name)
        return client

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    # ---- Bytes ----

    def send(self, data):
        self.sock.sendall(data)

    def recv(self, length):
        data, have = bytearray(length), 0
        while have < length:
            try:
                more = self.sock.recv_into(memoryview(data)[have:])
            except ConnectionResetError:
                more = 0
            if not more:
                raise Closed(f"after {have} of {length} bytes")
            have += more
        return bytes(data)

    def expect_closed(self):
        """The server closes the connection (and sends nothing more than it must)."""
        left = b""
        try:
            while more := self.sock.recv(65536):
                left += more
        except ConnectionResetError:
            pass
        return left

    # ---- Handshake ----

    def hello(self, flags=FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES):
        magic, opt, server_flags = struct.unpack(">QQH", self.recv(18))
        assert magic == NBDMAGIC and opt == IHAVEOPT, f"{magic:x} {opt:x}"
        self.send(struct.pack(">I", flags))
        return server_flags

    def option(self, option, data=b"", magic=IHAVEOPT, length=None):
        self.send(struct.pack(">QII", magic, option, len(data) if length is None else length) + data)

    def option_reply(self):
        """(option, type, data)"""
        magic, option, kind, length = struct.unpack(">QIII", self.recv(20))
        assert magic == OPTION_REPLY_MAGIC, f"{magic:x}"
        assert length <= 65536 + 16
        return option, kind, self.recv(length)

    def option_replies(self, option):
        """All replies to one option up to the ACK or error: [(type, data)]"""
        replies = []
        while True:
            replied, kind, data = self.option_reply()
            assert replied == option
            replies.append((kind, data))
            if kind == REP_ACK or kind & 0x80000000:
                return replies

    def ask(self, option, data=b""):
        self.option(option, data)
        return self.option_replies(option)

    def structured_reply(self):
        assert self.ask(OPT_STRUCTURED_REPLY) == [(REP_ACK, b"")]
        self.structured = True

    def extended_headers(self):
        assert self.ask(OPT_EXTENDED_HEADERS) == [(REP_ACK, b"")]
        self.extended = True

    @staticmethod
    def name_data(name, infos=()):
        raw = name.encode()
        return struct.pack(">I", len(raw)) + raw + struct.pack(f">H{len(infos)}H", len(infos), *infos)

    @staticmethod
    def context_data(name, queries):
        raw = name.encode()
        data = struct.pack(">I", len(raw)) + raw + struct.pack(">I", len(queries))
        for query in queries:
            data += struct.pack(">I", len(query)) + query.encode()
        return data

    def set_meta_context(self, name, queries):
        return self.ask(OPT_SET_META_CONTEXT, self.context_data(name, queries))

    def go(self, name, infos=(), option=OPT_GO):
        """GO or INFO that must work: {info type: data}; size and flags are kept."""
        replies = self.ask(option, self.name_data(name, infos))
        assert replies[-1][0] == REP_ACK, f"{replies[-1][0]:x} {replies[-1][1]}"
        result = {struct.unpack(">H", data[:2])[0]: data[2:] for kind, data in replies if kind == REP_INFO}
        self.size, self.flags = struct.unpack(">QH", result[INFO_EXPORT])
        return result

    # ---- Transmission ----

    def request(self, command, offset=0, length=0, flags=0, data=b"", cookie=None, magic=None):
        """Send a request, compact or extended as negotiated; its cookie."""
        if cookie is None:
            cookie = self.next_cookie
            self.next_cookie += 1
        if magic is None:
            magic = EXTENDED_REQUEST_MAGIC if self.extended else REQUEST_MAGIC
        form = ">IHHQQQ" if self.extended else ">IHHQQI"
        self.send(struct.pack(form, magic, flags, command, cookie, offset, length) + data)
        return cookie

    def simple_reply(self, length=0):
        """(error, cookie, data of that length unless it is an error)"""
        magic, error, cookie = struct.unpack(">IIQ", self.recv(16))
        assert magic == SIMPLE_REPLY_MAGIC, f"{magic:x}"
        return error, cookie, b"" if error else self.recv(length)

    def extended_chunk(self):
        """One extended reply chunk: (flags, type, cookie, offset, payload)"""
        magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQQ", self.recv(32))
        assert magic == EXTENDED_REPLY_MAGIC, f"{magic:x}"
        assert length < 1 << 26
        return flags, kind, cookie, offset, self.recv(length)

    def chunk(self):
        """One structured or extended reply chunk: (flags, type, cookie, payload)"""
        if self.extended:
            flags, kind, cookie, _, payload = self.extended_chunk()
            return flags, kind, cookie, payload
        magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.recv(20))
        assert magic == STRUCTURED_REPLY_MAGIC, f"{magic:x}"
        return flags, kind, cookie, self.recv(length)

    def chunks(self):
        """The chunks of one request up to the one that says DONE: [(type, payload)]"""
        result = []
        while True:
            flags, kind, _, payload = self.chunk()
            result.append((kind, payload))
            if flags & CHUNK_DONE:
                return result

    def reply_error(self, length=0):
        """Whichever reply comes for a request: its error, 0 for success."""
        if self.extended:
            errors = [payload for kind, payload in self.chunks() if kind & 0x8000]
            return struct.unpack(">I", errors[0][:4])[0] if errors else 0
        head = self.recv(4)
        if head == struct.pack(">I", SIMPLE_REPLY_MAGIC):
            error, _ = struct.unpack(">IQ", self.recv(12))
            if error == 0:
                self.recv(length)
            return error
        flags, kind, _, size = struct.unpack(">HHQI", self.recv(16))
        payload = self.recv(size)
        error = struct.unpack(">I", payload[:4])[0] if kind & 0x8000 else 0
        if not flags & CHUNK_DONE:
            return self.reply_error() or error
        return error

    def read(self, offset, length):
        """Read with simple replies."""
        assert not self.structured
        self.request(CMD_READ, offset, length)
        error, _, data = self.simple_reply(length)
        assert error == 0, error
        return data

    def write(self, offset, data, flags=0, payload_flag=True):
        if self.extended and payload_flag:
            flags |= CMD_FLAG_PAYLOAD_LEN
        self.request(CMD_WRITE, offset, len(data), flags, data)
        return self.reply_error()

    def disconnect(self):
        self.request(CMD_DISC)
        assert self.expect_closed() == b""
