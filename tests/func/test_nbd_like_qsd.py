# SPDX-License-Identifier: BSD-2-Clause
"""
The same bytes to bulkhead and to qemu-storage-daemon, on images of the same content, and each answer compared: every
option with right and wrong data, every information request, context queries, every command with every flag, ranges
that are empty, odd, too long or beyond the end. DIFFERENCES says where they may differ, and is the same list as the
section "Differences from qemu-storage-daemon" of docs/nbd-conformance.md.
"""

import hashlib
import pathlib
import re
import struct

import pytest

from support import images, process, qemu
from support import nbdraw
from support.images import KIB, MIB
from support.nbdraw import *
from support.nbdraw import Closed, NbdRaw

SIZE = 40 * MIB      # more than one request may ask for
DATA = images.pattern(256 * KIB, 17)
BASE, DEPTH = "base:allocation", "qemu:allocation-depth"


def names_of(*prefixes):
    return {value: name for name, value in vars(nbdraw).items() if name.startswith(prefixes)}


REPLIES = names_of("REP_")
ERRORS = {0: "ok", **{value: name for name, value in vars(nbdraw).items() if re.fullmatch("E[A-Z]+", name)}}
COMMANDS = names_of("CMD_READ", "CMD_WRITE", "CMD_DISC", "CMD_FLUSH", "CMD_TRIM", "CMD_CACHE", "CMD_BLOCK_STATUS")
FLAGS = {value: name for name, value in vars(nbdraw).items() if name.startswith("FLAG_") and name not in (
    "FLAG_FIXED_NEWSTYLE", "FLAG_NO_ZEROES")}


def flag_names(flags):
    return "+".join(FLAGS.get(1 << bit, f"bit {bit}")[5:] for bit in range(16) if flags & 1 << bit)


# ---- What an answer says. Texts for people, the order of information and the numbers of contexts are the server's. ----

def info_text(data):
    kind, rest = struct.unpack(">H", data[:2])[0], data[2:]
    if kind == INFO_EXPORT and len(rest) == 10:
        size, flags = struct.unpack(">QH", rest)
        return f"export {size} {flag_names(flags)}"
    if kind == INFO_BLOCK_SIZE and len(rest) == 12:
        return "blocks {} {} {}".format(*struct.unpack(">III", rest))
    return f"info {kind} {rest[:40]!r}"


def reply_text(option, kind, data):
    if kind & 0x80000000:
        return REPLIES.get(kind, hex(kind))
    if kind == REP_INFO:
        return info_text(data)
    if kind == REP_SERVER:
        length = struct.unpack(">I", data[:4])[0]
        return f"export {data[4:4 + length]!r} {data[4 + length:]!r}"
    if kind == REP_META_CONTEXT:
        number = f" {struct.unpack('>I', data[:4])[0]}" if option == OPT_LIST_META_CONTEXT else ""
        return f"context {data[4:].decode()}{number}"
    return f"{REPLIES.get(kind, hex(kind))}{data!r}" if data else REPLIES.get(kind, hex(kind))


def content_text(command, offset, length, chunks):
    if command == CMD_READ:
        data = bytearray(length)
        for kind, payload in chunks:
            at = struct.unpack(">Q", payload[:8])[0] - offset
            if kind == TYPE_OFFSET_DATA:
                data[at:at + len(payload) - 8] = payload[8:]
        return hashlib.sha1(data).hexdigest()[:8]
    extents = [list(struct.iter_unpack(">QQ", payload[8:]) if kind == TYPE_BLOCK_STATUS_EXT else
                    struct.iter_unpack(">II", payload[4:])) for kind, payload in chunks]
    return " ".join(str(sorted_out(one, length)) for one in extents)


def sorted_out(extents, length):
    """Neighbours of one state are one, and what lies behind the request does not count."""
    result = []
    for size, state in extents:
        size = min(size, length - sum(known for known, _ in result))
        if result and result[-1][1] == state:
            size += result.pop()[0]
        if size > 0:
            result.append((size, state))
    return result


def request_text(client, command, offset, length):
    """The reply to the one request in flight."""
    if client.extended:
        return chunks_text("extended", command, offset, length, client.chunks())
    magic, = struct.unpack(">I", client.recv(4))
    if magic == SIMPLE_REPLY_MAGIC:
        error, _ = struct.unpack(">IQ", client.recv(12))
        data = client.recv(length) if command == CMD_READ and error == 0 and not client.structured else b""
        return " ".join(filter(None, ("simple", ERRORS.get(error, str(error)), data and hashlib.sha1(data).hexdigest()[:8])))
    assert magic == STRUCTURED_REPLY_MAGIC, hex(magic)
    flags, kind, _, size = struct.unpack(">HHQI", client.recv(16))
    chunks = [(kind, client.recv(size))]
    if not flags & CHUNK_DONE:
        chunks += client.chunks()
    return chunks_text("structured", command, offset, length, chunks)


def chunks_text(form, command, offset, length, chunks):
    errors = [ERRORS[struct.unpack(">I", payload[:4])[0]] for kind, payload in chunks if kind & 0x8000]
    content = [chunk for chunk in chunks if chunk[0] != TYPE_NONE]
    if errors:
        return f"{form} {' '.join(errors)}"
    return f"{form} ok {content_text(command, offset, length, content) if content else ''}".strip()


# ---- Handshakes: a name, client flags, and options with their data ----

def name(raw, infos=(), count=None):
    return struct.pack(">I", len(raw)) + raw + struct.pack(f">H{len(infos)}H", len(infos) if count is None else count, *infos)


def queries(raw, *texts):
    return struct.pack(">I", len(raw)) + raw + struct.pack(">I", len(texts)) + \
        b"".join(struct.pack(">I", len(text)) + text for text in texts)


REPLY, EXTENDED = (OPT_STRUCTURED_REPLY, b""), (OPT_EXTENDED_HEADERS, b"")
GO = (OPT_GO, name(b"disk"))
BOTH = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES

QUERIES = {
    "none": (), "base": (b"base:allocation",), "depth": (b"qemu:allocation-depth",), "twice": (b"base:allocation",) * 2,
    "both": (b"qemu:allocation-depth", b"base:allocation"), "base:": (b"base:",), "qemu:": (b"qemu:",),
    "unknown leaf": (b"base:other",), "longer leaf": (b"base:allocation2",), "case": (b"BASE:allocation",),
    "unknown namespace": (b"x-other:thing", b"base:allocation"), "empty": (b"",), "colon": (b":",),
    "no colon": (b"base",), "no colon, unknown": (b"nothing",), "no bitmap": (b"qemu:dirty-bitmap:none",),
    "bitmaps": (b"qemu:dirty-bitmap:",), "longest": (b"x:" + b"y" * 4094,), "too long": (b"x:" + b"y" * 4095,),
    "no UTF-8": (b"x:\xff\xfe",), "NUL": (b"base:allocation\0",),
}


def handshakes():
    """{name: (client flags, [(option, data)])}; after what chooses an export follows NBD_CMD_DISC."""
    cases = {f"client flags {flags:#x}": (flags, [GO]) for flags in (0, 1, 2, 3, 4, 7, 1 << 16, 1 << 31)}
    for option in (0, OPT_ABORT, OPT_LIST, 4, OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY,
                   OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS, 12, 13, 100, 0xffffffff):
        for label, data in (("", b""), (" with data", b"x"), (" with 40 bytes", bytes(40)), (" with 5000 bytes", b"y" * 5000)):
            cases[f"option {option}{label}"] = (BOTH, [(option, data), GO])
        cases[f"option {option} without fixed newstyle"] = (0, [(option, b"")])
    for label, raw in (("known", b"disk"), ("read-only", b"rom"), ("unknown", b"other"), ("empty", b""),
                       ("with a NUL", b"disk\0"), ("no UTF-8", b"\xff\xfe"), ("longest", b"x" * 4096), ("too long", b"x" * 4097)):
        for flags in (0, FLAG_FIXED_NEWSTYLE, BOTH):
            cases[f"EXPORT_NAME {label}, flags {flags}"] = (flags, [(OPT_EXPORT_NAME, raw)])
        for option, text in ((OPT_INFO, "INFO"), (OPT_GO, "GO")):
            cases[f"{text} {label}"] = (BOTH, [(option, name(raw)), GO])
    cases["EXPORT_NAME with structured replies"] = (BOTH, [REPLY, (OPT_EXPORT_NAME, b"disk")])
    for option, text in ((OPT_INFO, "INFO"), (OPT_GO, "GO")):
        for info in (INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE, 4, 0xffff):
            cases[f"{text} asks for {info}"] = (BOTH, [(option, name(b"disk", [info])), GO])
        cases[f"{text} asks for all"] = (BOTH, [REPLY, (option, name(b"rom", [3, 2, 1, 0])), GO])
        cases[f"{text} asks twice"] = (BOTH, [(option, name(b"disk", [3, 3, 1, 1])), GO])
        cases[f"{text} asks for 100"] = (BOTH, [(option, name(b"disk", range(1000, 1100))), GO])
        for label, data in (("no count", name(b"disk")[:-2]), ("count too large", name(b"disk", [1], 2)),
                            ("count too small", name(b"disk", [1, 2], 1)), ("length too large", struct.pack(">I", 9) + b"disk\0\0"),
                            ("length 2^32-1", struct.pack(">I", 0xffffffff) + b"disk\0\0"), ("data left over", name(b"disk") + b"x")):
            cases[f"{text} with {label}"] = (BOTH, [(option, data), GO])
    for option, text in ((OPT_LIST_META_CONTEXT, "LIST_META"), (OPT_SET_META_CONTEXT, "SET_META")):
        for label, texts in QUERIES.items():
            cases[f"{text} {label}"] = (BOTH, [REPLY, (option, queries(b"deep", *texts)), GO])
        for label, data in (("without count", queries(b"disk")[:-4]), ("with a query missing", queries(b"disk", b"base:")[:-9]),
                            ("with a query cut", queries(b"disk", b"base:")[:-1]), ("of an unknown export", queries(b"other", b"base:")),
                            ("with data left over", queries(b"disk", b"base:") + b"x"), ("of 300 queries", queries(b"disk", *[b"base:allocation"] * 300)),
                            ("of 2^32-1 queries", struct.pack(">I", 4) + b"disk" + b"\xff" * 4)):
            cases[f"{text} {label}"] = (BOTH, [REPLY, (option, data), GO])
        cases[f"{text} without structured replies"] = (BOTH, [(option, queries(b"disk", b"base:allocation")), GO])
        cases[f"{text} of what is not offered"] = (BOTH, [REPLY, (option, queries(b"disk", b"qemu:allocation-depth")), GO])
    cases["STRUCTURED_REPLY twice"] = (BOTH, [REPLY, REPLY, GO])
    cases["LIST twice"] = (BOTH, [(OPT_LIST, b""), (OPT_LIST, b""), GO])
    cases["EXTENDED_HEADERS after STRUCTURED_REPLY"] = (BOTH, [REPLY, EXTENDED, GO])
    return cases


def leave(client):
    """From transmission; what comes before the end."""
    client.request(CMD_DISC)
    left = client.expect_closed()
    return f"then {left[:20]!r} and the end" if left else "then the end"


def infos_asked(option, data):
    """What a well-formed INFO or GO asks for, which is what every client must be told of."""
    if option not in (OPT_INFO, OPT_GO) or len(data) < 6 or len(data) < 6 + struct.unpack(">I", data[:4])[0]:
        return ()
    at = 6 + struct.unpack(">I", data[:4])[0]
    return [INFO_EXPORT, *(info for info, in struct.iter_unpack(">H", data[at:at + (len(data) - at) // 2 * 2]))]


def option_answer(client, option, data):
    """[what answers it, what comes along though nobody asked]"""
    client.option(option, data)
    replies = client.option_replies(option)
    asked = infos_asked(option, data)
    texts, unasked = [], []
    for kind, payload in replies[:-1]:
        wanted = kind != REP_INFO or struct.unpack(">H", payload[:2])[0] in asked
        (texts if wanted else unasked).append(reply_text(option, kind, payload))
    client.extended |= option == OPT_EXTENDED_HEADERS and replies[-1][0] == REP_ACK
    if option == OPT_GO and replies[-1][0] == REP_ACK:
        texts.append(leave(client))
    return ["; ".join(sorted(texts) + [reply_text(option, *replies[-1])]), "; ".join(sorted(unasked))]


def export_name_answer(client, data):
    client.option(OPT_EXPORT_NAME, data)
    size, flags = struct.unpack(">QH", client.recv(10))
    client.request(CMD_DISC)
    return [f"export {size} {flag_names(flags)}, {len(client.expect_closed())} zeroes"]


def handshake_answers(server, flags, options):
    """{step: answer}"""
    answers = {}
    with NbdRaw.unix(server.nbd_path) as client:
        try:
            step = "greeting"
            answers[step] = f"{client.hello(flags):#x}"
            for number, (option, data) in enumerate(options):
                step = f"step {number}"
                if option == OPT_EXPORT_NAME:
                    answers[step], = export_name_answer(client, data)
                    break
                answers[step], answers[f"{step}, unasked"] = option_answer(client, option, data)
                if "and the end" in answers[step] or "then the end" in answers[step]:
                    break
        except (Closed, BrokenPipeError, ConnectionResetError):
            answers[step] = "closed"
    return answers


# ---- Requests ----

RANGES = [(0, 512), (0, 0), (SIZE, 0), (SIZE + 1, 0), (SIZE, 1), (SIZE - 512, 512), (SIZE - 512, 1024), (1, 3), (MIB + 511, 4099),
          (0, 256 * KIB), (0, 32 * MIB), (0, 32 * MIB + 1), (0, SIZE), (0, SIZE + 1), (SIZE + 512, 512), (1 << 63, 512),
          ((1 << 64) - 1, 1), ((1 << 64) - 512, 1024), (0, 0xffffffff), ((1 << 64) - 1, 0xffffffff)]


# Only extended headers can say these.
LONG_RANGES = [(0, 1 << 32), (0, 1 << 63), (512, (1 << 64) - 1), (SIZE + 1, 1 << 32)]


def requests(form):
    """{name: (command, flags, offset, length)}"""
    cases = {}
    for command in [*range(9), 9, 100, 0xffff]:
        label = COMMANDS.get(command, str(command))
        if command == CMD_DISC:
            continue
        for flags in [0] + [1 << bit for bit in range(16)]:
            cases[f"{label} flags {flags:#x}"] = (command, flags, 64 * KIB, 8 * KIB)
        for offset, length in RANGES + (LONG_RANGES if form == "extended" else []):
            if command != CMD_WRITE or length <= 32 * MIB:  # what is larger is in test_a_write_longer_than_the_limit_is_refused
                cases[f"{label} {length} at {offset}"] = (command, 0, offset, length)
    cases["CMD_READ DF, all"] = (CMD_READ, CMD_FLAG_DF, 0, 32 * MIB)
    cases["CMD_BLOCK_STATUS REQ_ONE, all"] = (CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, 0, SIZE)
    cases["CMD_FLUSH without range"] = (CMD_FLUSH, 0, 0, 0)
    cases["CMD_FLUSH with FUA"] = (CMD_FLUSH, CMD_FLAG_FUA, 0, 0)
    cases["CMD_WRITE_ZEROES FAST_ZERO+NO_HOLE"] = (CMD_WRITE_ZEROES, CMD_FLAG_FAST_ZERO | CMD_FLAG_NO_HOLE, MIB, MIB)
    return cases


class Requester:
    """A client that comes back when it has been closed."""

    def __init__(self, server, export, form, contexts):
        self.open = lambda: NbdRaw.opened(server.nbd_path, export, structured=form == "structured",
                                          extended=form == "extended", contexts=contexts)
        self.client = self.open()

    def answer(self, command, flags, offset, length):
        data = bytes([length & 255 | 1]) * length if command == CMD_WRITE else b""
        if self.client.extended and command != CMD_WRITE and flags & CMD_FLAG_PAYLOAD_LEN:
            data = bytes(length)
        try:
            self.client.request(command, offset, length, flags, data)
            return request_text(self.client, command, offset, length)
        except (Closed, BrokenPipeError, ConnectionResetError):
            self.client.close()
            self.client = self.open()
            return "closed"


# ---- The comparison ----

@pytest.fixture
def qsd():
    """The version of qemu-storage-daemon."""
    process.need("qemu-storage-daemon")
    version = qemu.version("qemu-storage-daemon")
    if version not in qemu.KNOWN:
        pytest.skip(f"the differences are those from qemu-storage-daemon {qemu.KNOWN}, and here is {version}")
    return version


@pytest.fixture
def pair(qsd, new_server, image):
    """(bulkhead, qemu-storage-daemon), with the same exports of images with the same content."""
    servers = []
    for kind in ("bulkhead", "qsd"):
        server = new_server(kind=kind).start().nbd_start()
        for node in ("disk", "rom", "deep"):
            path = image(f"{kind}-{node}.img", size=SIZE, data=[(0, DATA), (MIB, DATA)])
            server.add_file(node, path, discard="unmap")
        server.export("disk", description="a test disk")
        server.export("rom", writable=False)
        server.export("deep", **{"allocation-depth": True})
        servers.append(server)
    return servers


OLD_HEADERS = "NBD_OPT_EXTENDED_HEADERS"  # before 8.2
FORM = "(simple|structured|extended)"
# The words of docs/nbd-conformance.md, and what they explain: (case, ours, theirs) as regular expressions.
DIFFERENCES = {
    "information that was not asked for": [(".*, unasked", "^$", "blocks|info 2")],
    "changes of a read-only export": [(f"{FORM} rom: CMD_(WRITE|TRIM|WRITE_ZEROES) .*", "EPERM", "EINVAL")],
    "writes beyond the end": [(f"{FORM} disk: CMD_(WRITE|WRITE_ZEROES) .*", "ENOSPC", "EINVAL")],
    "NBD_CMD_FLUSH with an offset or a length": [(f"{FORM} [a-z]+: CMD_FLUSH .*", "EINVAL", "ok")],
    "NBD_CMD_CACHE of more than 32 MiB": [(f"{FORM} [a-z]+: CMD_CACHE (33554433|41943040) at 0", "ok", "EINVAL")],
    "context queries without a colon, or too long": [
        ("(LIST|SET)_META (empty|no colon|no colon, unknown|too long): step 1", "INVALID", "REP_ACK")],
    "data behind the last context query": [
        ("(LIST|SET)_META with data left over: step 1", "INVALID", "REP_ACK"),
        ("(LIST|SET)_META with data left over: step 2.*", "", "closed|-"),
        ("option 9 with 40 bytes: step 0", "INVALID", "UNKNOWN")],
    "a NUL in a context query": [("(LIST|SET)_META NUL: step 1", "^REP_ACK", "INVALID")],
    "a NUL in the name of an export": [("(INFO|GO) with a NUL: step 0", "UNKNOWN", "INVALID"),
                                       ("EXPORT_NAME with a NUL, .*", "closed", "export")],
    "NBD_OPT_STRUCTURED_REPLY for the second time": [("STRUCTURED_REPLY twice: step 1", "^REP_ACK", "INVALID")],
    OLD_HEADERS: [("option 11.*: step 0", "REP_ACK|INVALID", "UNSUP"), ("option 11: step 1", "DF", ""),
                  ("EXTENDED_HEADERS after .*: step 1", "REP_ACK", "UNSUP")],
    "NBD_CMD_FLAG_REQ_ONE with several contexts": [
        (f"{FORM} deep: CMD_BLOCK_STATUS .*", r" ok \[\(262144, 0\)\] \[\(262144, 1\)\]$",
         r" ok \[\(262144, 0\)\] \[\(41943040, 1\)\]$")],
    "options with more data than can be right": [("option [67] with 5000 bytes: step 0", "TOO_BIG", "INVALID")],
}

IN_CLEAR = {
    "NBD_OPT_ABORT in clear where TLS is required": [("option 2.*: step 0", "REP_ACK", "TLS_REQD")],
    "NBD_OPT_STARTTLS with data where TLS is required": [("option 5 with .*: step 1.*", "TLS_REQD|^$", "closed|-")],
}


def explain(differences, label, ours, theirs):
    """The difference that this is; None if it is none of those that are known."""
    for key, patterns in differences.items():
        if any(re.fullmatch(case, label) and re.search(our, ours) and re.search(their, theirs) for case, our, their in patterns):
            return key
    return None


class Report:
    def __init__(self, differences):
        self.differences = differences
        self.seen = set()
        self.unknown = []

    def compare(self, label, ours, theirs):
        if ours == theirs:
            return
        key = explain(self.differences, label, ours, theirs)
        self.seen.add(key)
        if key is None:
            self.unknown.append(f"{label}\n    bulkhead: {ours}\n    qsd:      {theirs}")

    def check(self):
        assert not self.unknown, "\n".join(self.unknown)
        assert self.seen == set(self.differences), f"not seen: {set(self.differences) - self.seen}"


def compare_requests(report, pair, form, export, contexts, only=None):
    ours, theirs = (Requester(server, export, form, contexts) for server in pair)
    for label, request in requests(form).items():
        if only is not None and request[0] != only or export == "rom" and request[3] == 32 * MIB:  # once is enough
            continue
        report.compare(f"{form} {export}: {label}", ours.answer(*request), theirs.answer(*request))
    for one in (ours, theirs):
        one.client.disconnect()
        one.client.close()


def compare_handshakes(report, pair, only=""):
    for label, case in handshakes().items():
        if not re.match(only, label):
            continue
        ours, theirs = (handshake_answers(server, *case) for server in pair)
        for step in {**ours, **theirs}:
            report.compare(f"{label}: {step}", ours.get(step, "-"), theirs.get(step, "-"))


@pytest.mark.qemu
def test_each_answer_is_that_of_qemu_storage_daemon(qsd, pair, shm):
    extended = qsd >= (8, 2)
    report = Report({key: patterns for key, patterns in DIFFERENCES.items() if key != OLD_HEADERS or not extended})
    compare_handshakes(report, pair)
    for export in ("disk", "rom"):
        compare_requests(report, pair, "simple", export, ())
        compare_requests(report, pair, "structured", export, (BASE,))
        if extended:
            compare_requests(report, pair, "extended", export, (BASE,))
    for form in ("structured", "extended")[:1 + extended]:
        compare_requests(report, pair, form, "deep", (BASE, DEPTH), CMD_BLOCK_STATUS)
    for node in ("disk", "rom", "deep"):
        contents = {images.read(shm / f"{server.kind}-{node}.img") for server in pair}
        assert len(contents) == 1, f"{node}: the same requests made different images"
    report.check()


@pytest.mark.qemu
def test_each_answer_in_clear_where_tls_is_required(qsd, new_server, image):
    """After NBD_OPT_STARTTLS the next option is in place of TLS, and ends it."""
    report, servers = Report(IN_CLEAR), []
    for kind in ("bulkhead", "qsd"):
        server = new_server(kind=kind).start()
        server.qmp.cmd("object-add", {"qom-type": "tls-creds-anon", "id": "tls", "endpoint": "server"})
        server.nbd_start(**{"tls-creds": "tls"})
        server.add_file("disk", image(f"{kind}.img", size=MIB))
        server.export("disk", description="a test disk")
        servers.append(server)
    compare_handshakes(report, servers, "option|EXPORT_NAME known|GO known|client flags")
    report.check()


def test_the_page_has_these_differences():
    """docs/nbd-conformance.md has each, and no other, with a reason."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "nbd-conformance.md").read_text()
    section = page.split("## Differences from qemu-storage-daemon")[1].split("\nWhat takes")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")][2:]
    assert [row[0].replace("`", "") for row in rows] == [*DIFFERENCES, *IN_CLEAR]
    assert all(len(row) == 4 and all(row) for row in rows)
