# SPDX-License-Identifier: BSD-2-Clause
"""
One nbdsh script for each option of the handshake and each command and flag of the transmission phase. A script's asserts
run inside nbdsh; the image is looked at from outside afterwards where that tells more.
"""

import textwrap

import pytest

from support import images
from support.images import KIB, MIB
from support.process import need, run

pytestmark = pytest.mark.contract
OWN_ERRORS = pytest.mark.own("proto.md wants ENOSPC and EPERM here; qemu-storage-daemon says EINVAL to every bad request")

SIZE = 16 * MIB
DATA = images.pattern(1 * MIB, 1)  # at 1 MiB; the rest of the image is a hole


@pytest.fixture
def path(image):
    return image(data=[(1 * MIB, DATA)])


@pytest.fixture
def shell(nbd, path):
    """Runs a script in nbdsh with `uri` set, and `h`, a handle that is not connected."""
    need("nbdsh")
    nbd.add_file("disk", path, discard="unmap")
    nbd.export("disk", description="a test disk")

    def script(text, name="disk"):
        prelude = "import nbd, errno\nuri = %r\nMIB = 1 << 20\n" % nbd.uri(name)
        prelude += textwrap.dedent("""
            def fails(code, function, *args, **kwargs):
                try:
                    function(*args, **kwargs)
                except nbd.Error as error:
                    assert error.errnum == code, f"{error.errno}, not {errno.errorcode[code]}"
                else:
                    raise AssertionError(f"did not fail with {errno.errorcode[code]}")

            """)
        run("nbdsh", "-c", prelude + textwrap.dedent(text))

    script.server = nbd
    return script


# ---- Options of the handshake ----

@pytest.mark.parametrize("flags", [0, 2], ids=["zeroes", "no-zeroes"])
def test_export_name_of_an_old_client(shell, flags):
    """A client without fixed newstyle: NBD_OPT_EXPORT_NAME is all it can ask."""
    shell(f"""
        h.set_handshake_flags({flags})
        h.connect_uri(uri)
        assert h.get_size() == {SIZE} and h.get_protocol() == "newstyle"
        assert not h.get_structured_replies_negotiated()
        assert h.pread(512, 0) == bytes(512)
    """)


def test_go(shell):
    shell(f"""
        h.connect_uri(uri)
        assert h.get_size() == {SIZE} and h.get_protocol() == "newstyle-fixed"
        assert h.get_structured_replies_negotiated()
    """)


def test_info_then_go(shell):
    shell(f"""
        h.set_opt_mode(True)
        h.connect_uri(uri)
        h.set_full_info(True)
        h.opt_info()
        assert h.get_size() == {SIZE}
        assert h.get_export_description() == "a test disk"
        assert h.get_canonical_export_name() == "disk"
        h.opt_go()
        assert h.pread(512, 0) == bytes(512)
    """)


def test_info_of_an_unknown_export_keeps_the_connection(shell):
    shell(f"""
        h.set_opt_mode(True)
        h.connect_uri(uri)
        h.set_export_name("other")
        fails(errno.ENOENT, h.opt_info)
        fails(errno.ENOENT, h.opt_go)
        h.set_export_name("disk")
        h.opt_go()
        assert h.get_size() == {SIZE}
    """)


def test_block_size_info(shell):
    shell("""
        h.connect_uri(uri)
        assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
        assert h.get_block_size(nbd.SIZE_PREFERRED) == 4096
        assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 * MIB
    """)


def test_list(shell, image):
    shell.server.add_file("second", image("second.img", size=MIB))
    shell.server.export("second")
    shell("""
        h.set_opt_mode(True)
        h.connect_uri(uri)
        names = {}
        assert h.opt_list(lambda name, description: names.update({name: description}) or 0) == 2
        assert names == {"disk": "a test disk", "second": ""}, names
        h.opt_go()
    """)


def test_abort(shell):
    shell("""
        h.set_opt_mode(True)
        h.connect_uri(uri)
        h.opt_abort()
        assert h.aio_is_closed()
        h = nbd.NBD()
        h.connect_uri(uri)
    """)


def test_without_structured_replies(shell):
    shell("""
        h.set_request_structured_replies(False)
        h.connect_uri(uri)
        assert not h.get_structured_replies_negotiated() and not h.can_df()
        assert h.pread(3 * MIB, 0)[:MIB] == bytes(MIB)
        h.set_strict_mode(0)
        fails(errno.EINVAL, h.pread_structured, 512, 0, lambda *a: 0, nbd.CMD_FLAG_DF)
    """)


def test_meta_contexts(shell):
    shell("""
        h.set_opt_mode(True)
        h.connect_uri(uri)
        def ask(*queries):
            found = []
            h.clear_meta_contexts()
            for query in queries:
                h.add_meta_context(query)
            assert h.opt_list_meta_context(lambda name: found.append(name) or 0) == len(found)
            return found
        assert "base:allocation" in ask()
        assert ask("base:") == ["base:allocation"]
        assert ask("base:allocation") == ["base:allocation"]
        assert ask("base:other") == []
        assert ask("unknown:") == []
        assert ask("unknown:context", "base:allocation") == ["base:allocation"]
        h.clear_meta_contexts()
        h.add_meta_context("base:allocation")
        h.add_meta_context("unknown:context")
        h.opt_go()
        assert h.can_meta_context("base:allocation")
        assert not h.can_meta_context("unknown:context")
    """)


def test_contexts_that_are_chosen(shell, image):
    """Several, and wildcards, which choose nothing."""
    shell.server.add_file("deep", image("deep.img", data=[(MIB, DATA)]))
    shell.server.export("deep", **{"allocation-depth": True})
    shell(f"""
        def extents(*queries):
            h = nbd.NBD()
            for query in queries:
                h.add_meta_context(query)
            h.connect_uri(uri)
            found = dict()
            if any(h.can_meta_context(query) for query in queries):
                h.block_status(2 * MIB, 0, lambda name, start, entries, error: found.update({{name: entries[1::2]}}) or 0)
            return found
        assert extents("base:allocation", "qemu:allocation-depth").keys() == {{"base:allocation", "qemu:allocation-depth"}}
        assert extents("base:allocation", "x:y", "qemu:dirty-bitmap:z") == {{"base:allocation": [3, 0]}}
        assert extents("qemu:allocation-depth").keys() == {{"qemu:allocation-depth"}}
        assert extents("base:", "qemu:", "base:other") == {{}}
    """, name="deep")


def test_starttls_where_there_is_none(shell):
    """The server says no; a client that wants no less leaves, another goes on in clear."""
    shell("""
        if not h.supports_tls():
            raise SystemExit(0)
        h.set_tls(nbd.TLS_ALLOW)
        h.connect_uri(uri)
        assert not h.get_tls_negotiated() and h.pread(512, 0) == bytes(512)
        h = nbd.NBD()
        h.set_tls(nbd.TLS_REQUIRE)
        try:
            h.connect_uri(uri)
        except nbd.Error:
            pass
        else:
            raise AssertionError("connected")
    """)


@pytest.mark.own("extended headers came with QEMU 8.2")
def test_extended_headers(shell):
    """libnbd has them since 1.18."""
    probe = run("nbdsh", "-c", "import sys; sys.exit(0 if hasattr(h, 'get_extended_headers_negotiated') else 77)", status=None)
    if probe.returncode == 77:
        pytest.skip("libnbd is too old for extended headers (tests/func/test_nbd_extended.py speaks them itself)")
    shell(f"""
        h.add_meta_context("base:allocation")
        h.connect_uri(uri)
        assert h.get_extended_headers_negotiated() and h.can_block_status_payload()
        found = []
        h.block_status_64({SIZE}, 0, lambda name, start, entries, error: found.extend(entries) or 0)
        assert found == [(MIB, 3), (MIB, 0), ({SIZE} - 2 * MIB, 3)], found
        h.block_status_filter({SIZE}, 0, ["base:allocation"], lambda *a: 0)
        h.zero({SIZE}, 0)
        assert h.pread(512, MIB) == bytes(512)
        h.set_strict_mode(0)
        fails(errno.EINVAL, h.pwrite, bytes(512), 0, nbd.CMD_FLAG_DF)
        fails(errno.EINVAL, h.zero, 1 << 40, 0)
    """)


def test_block_status_without_a_context_is_refused(shell):
    shell("""
        h.connect_uri(uri)
        h.set_strict_mode(0)
        fails(errno.EINVAL, h.block_status, MIB, 0, lambda *a: 0)
        assert h.pread(512, 0) == bytes(512)
    """)


# ---- Commands and their flags ----

def test_pread(shell, path):
    shell(f"""
        h.connect_uri(uri)
        image = open("{path}", "rb").read()
        for offset, length in ((0, 1), (MIB - 1, 2), (MIB + 77, 4099), ({SIZE} - 1, 1), (0, {SIZE})):
            assert h.pread(length, offset) == image[offset:offset + length], (offset, length)
    """)


def test_pread_structured_tells_holes_and_df_is_one_chunk(shell, path):
    shell(f"""
        h.connect_uri(uri)
        image = open("{path}", "rb").read()
        def read(flags):
            chunks = []
            h.pread_structured(3 * MIB, 0, lambda data, offset, status, err: chunks.append((offset, bytes(data), status)),
                               flags)
            result = bytearray(b"?" * (3 * MIB))
            for offset, data, status in chunks:
                result[offset:offset + len(data)] = data
            assert result == image[:3 * MIB]
            return chunks
        assert nbd.READ_DATA in {{status for _, _, status in read(0)}}
        h.set_strict_mode(0)
        assert len(read(nbd.CMD_FLAG_DF)) == 1
    """)


def test_pwrite_and_fua(shell, path):
    shell("""
        h.connect_uri(uri)
        h.pwrite(b"plain", 12345)
        h.pwrite(b"fua", 54321, nbd.CMD_FLAG_FUA)
        assert h.pread(5, 12345) == b"plain" and h.pread(3, 54321) == b"fua"
    """)
    assert images.read(path, 12345, 5) == b"plain" and images.read(path, 54321, 3) == b"fua"


def test_flush(shell):
    shell("h.connect_uri(uri); assert h.can_flush(); h.pwrite(b'x', 0); h.flush()")


def test_trim_and_fua(shell, path):
    shell("""
        h.connect_uri(uri)
        h.trim(512 * 1024, MIB)
        h.trim(128 * 1024, MIB + 768 * 1024, nbd.CMD_FLAG_FUA)
        h.trim(1, 1)
        assert h.pread(512 * 1024, MIB) == bytes(512 * 1024)
    """)
    assert images.allocated(path) == 384 * KIB
    assert images.read(path, MIB + 512 * KIB, 256 * KIB) == DATA[512 * KIB:768 * KIB]


def test_zero_deallocates_unless_no_hole(shell, path):
    shell("""
        h.connect_uri(uri)
        h.zero(256 * 1024, MIB)
        h.zero(256 * 1024, MIB + 512 * 1024, nbd.CMD_FLAG_NO_HOLE)
        h.zero(4096, MIB + 900 * 1024, nbd.CMD_FLAG_FUA)
        h.zero(1, MIB + 1000 * 1024 + 1)
    """)
    expected = bytearray(DATA)
    for offset, length in ((0, 256 * KIB), (512 * KIB, 256 * KIB), (900 * KIB, 4096), (1000 * KIB + 1, 1)):
        expected[offset:offset + length] = bytes(length)
    assert images.read(path, MIB, MIB) == bytes(expected)
    assert images.allocated(path) == 1 * MIB - 256 * KIB - 4096


def test_fast_zero_either_works_or_says_so(shell, path):
    shell("""
        h.connect_uri(uri)
        assert h.can_fast_zero()
        try:
            h.zero(256 * 1024, MIB, nbd.CMD_FLAG_FAST_ZERO)
            assert h.pread(256 * 1024, MIB) == bytes(256 * 1024)
        except nbd.Error as error:
            assert error.errnum in (errno.ENOTSUP, errno.EOPNOTSUPP)
            assert h.pread(256 * 1024, MIB) != bytes(256 * 1024)
    """)


def test_cache(shell):
    shell("h.connect_uri(uri); assert h.can_cache(); h.cache(MIB, 512); h.cache(1, 0)")


def test_block_status_and_req_one(shell):
    shell(f"""
        h.add_meta_context("base:allocation")
        h.connect_uri(uri)
        def extents(length, offset, flags=0):
            found = []
            def take(context, start, entries, error):
                assert context == "base:allocation" and start == offset
                found.extend(zip(entries[::2], entries[1::2]))
                return 0
            h.block_status(length, offset, take, flags)
            return found
        hole = nbd.STATE_HOLE | nbd.STATE_ZERO
        assert extents({SIZE}, 0) == [(MIB, hole), (MIB, 0), ({SIZE} - 2 * MIB, hole)]
        assert extents({SIZE}, 0, nbd.CMD_FLAG_REQ_ONE) == [(MIB, hole)]
        assert extents(2 * MIB, MIB + 4096)[0] == (MIB - 4096, 0)
        assert extents(4096, MIB)[0] == (4096, 0)
    """)


# ---- Illegal requests: an error, and the connection lives ----

@pytest.mark.parametrize("request_text,code", [
    ("h.pread, 512, SIZE", "EINVAL"),
    ("h.pread, 513, SIZE - 512", "EINVAL"),
    ("h.pread, 512, (1 << 63) - 512", "EINVAL"),
    ("h.pread, 64 * MIB, 0", "EINVAL"),
    pytest.param("h.pwrite, bytes(512), SIZE", "ENOSPC", marks=OWN_ERRORS),
    pytest.param("h.pwrite, bytes(513), SIZE - 512", "ENOSPC", marks=OWN_ERRORS),
    ("h.trim, 512, SIZE", "EINVAL"),
    pytest.param("h.zero, 512, SIZE", "ENOSPC", marks=OWN_ERRORS),
    ("h.cache, 512, SIZE", "EINVAL"),
    ("h.block_status, 512, SIZE, lambda *a: 0", "EINVAL"),
    ("h.pread, 512, 0, 1 << 15", "EINVAL"),
    ("h.pwrite, bytes(512), 0, nbd.CMD_FLAG_DF", "EINVAL"),
    ("h.flush, nbd.CMD_FLAG_NO_HOLE", "EINVAL"),
    ("h.trim, 512, 0, nbd.CMD_FLAG_FAST_ZERO", "EINVAL"),
])
def test_illegal_request(shell, request_text, code, path):
    shell(f"""
        SIZE = {SIZE}
        h.add_meta_context("base:allocation")
        h.connect_uri(uri)
        h.set_strict_mode(0)
        fails(errno.{code}, {request_text})
        assert h.pread(16, MIB) == {DATA[:16]!r}
    """)
    assert images.read(path, MIB, MIB) == DATA


@pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])
def test_each_flag_that_a_command_does_not_have(shell, structured):
    """Bit by bit; libnbd itself lets the four upper bits alone."""
    shell(f"""
        h.set_request_structured_replies({structured})
        if {structured}:
            h.add_meta_context("base:allocation")
        h.connect_uri(uri)
        h.set_strict_mode(0)
        fua, no_hole, df, one, fast = 1, 2, 4, 8, 16
        status = (h.block_status, 512, 0, lambda *a: 0)
        for good, function, *args in ((fua | df * {structured}, h.pread_structured, 512, 0, lambda *a: 0), (fua, h.pwrite, bytes(512), 0),
                                      (fua, h.flush), (fua, h.trim, 512, 0), (fua, h.cache, 512, 0),
                                      (fua | no_hole | fast, h.zero, 512, 0), (fua | one, *status))[:7 if {structured} else 6]:
            for bit in range(12):
                if good >> bit & 1 == 0:
                    fails(errno.EINVAL, function, *args, 1 << bit)
            function(*args, fua)
        assert h.pread(512, MIB) == {DATA[:512]!r}
    """)


@OWN_ERRORS
@pytest.mark.parametrize("request_text", ["h.pwrite, bytes(512), 0", "h.trim, 512, 0", "h.zero, 512, 0"])
def test_writes_to_a_read_only_export(nbd, path, request_text):
    need("nbdsh")
    nbd.add_file("disk", path)
    nbd.export("disk", writable=False)
    run("nbdsh", "-u", nbd.uri("disk"), "-c", textwrap.dedent(f"""
        import errno
        h.set_strict_mode(0)
        try:
            h.{request_text[2:].replace(", ", "(", 1)})
        except nbd.Error as error:
            assert error.errnum == errno.EPERM, error
        else:
            raise AssertionError("was carried out")
        assert h.pread(16, 1 << 20) == {DATA[:16]!r}
    """))


# ---- Many requests and connections ----

def test_the_largest_request_is_32_mib(nbd, image):
    need("nbdsh")
    path = image("big.img", size=80 * MIB)
    nbd.add_file("disk", path)
    nbd.export("disk")
    run("nbdsh", "-u", nbd.uri("disk"), "-c", textwrap.dedent("""
        size = 32 << 20
        data = bytes(range(256)) * (size // 256)
        h.pwrite(data, 5)
        assert h.pread(size, 5) == data
        h.zero(80 << 20, 0)
        assert h.pread(size, 5) == bytes(size)
    """))


def test_many_requests_in_flight(shell):
    shell("""
        h.connect_uri(uri)
        buffers, cookies = [], []
        for i in range(400):
            cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i & 255]) * 5000), 8 * MIB + i * 5000))
        while h.aio_in_flight():
            h.poll(-1)
        assert all(h.aio_command_completed(cookie) for cookie in cookies)
        for i in range(400):
            buffers.append(nbd.Buffer(5000))
            h.aio_pread(buffers[-1], 8 * MIB + i * 5000)
        while h.aio_in_flight():
            h.poll(-1)
        for i in range(400):
            assert buffers[i].to_bytearray() == bytearray([i & 255]) * 5000, i
    """)


def test_a_flushed_write_is_seen_by_another_connection(shell):
    shell("""
        handles = [nbd.NBD() for _ in range(8)]
        for handle in handles:
            handle.connect_uri(uri)
            assert handle.can_multi_conn()
        for i, handle in enumerate(handles):
            handle.pwrite(bytes([i + 1]) * 4096, 0)
            handle.flush()
            for other in handles:
                assert other.pread(4096, 0) == bytes([i + 1]) * 4096
    """)


def test_the_name_defaults_to_the_node_name(shell, image):
    shell.server.add_file("nameless", image("nameless.img", size=MIB))
    shell.server.qmp.cmd("block-export-add", {"type": "nbd", "id": "e2", "node-name": "nameless"})
    shell("h.connect_uri(uri); assert h.get_size() == MIB and h.is_read_only()", name="nameless")


def test_a_name_and_a_description_of_4096_bytes(shell, image):
    """NBD_MAX_STRING of the specification."""
    name = "n" * 4096
    shell.server.add_file("long", image("long.img", size=MIB))
    shell.server.export("long", name=name, description="d" * 4096)
    shell(f"""
        h.set_full_info(True)
        h.set_export_name("n" * 4096)
        h.connect_unix({str(shell.server.nbd_path)!r})
        assert h.get_size() == MIB and h.get_export_description() == "d" * 4096
    """)


def test_the_size_is_rounded_up_to_512_with_zeros(shell, image):
    shell.server.add_file("odd", image("odd.img", size=1000, seed=9))
    shell.server.export("odd")
    shell(f"""
        h.add_meta_context("base:allocation")
        h.connect_uri(uri)
        assert h.get_size() == 1024
        assert h.pread(1024, 0) == {images.pattern(1000, 9)!r} + bytes(24)
        extents = []
        h.block_status(1024, 0, lambda context, start, entries, error: extents.extend(entries) or 0)
        assert sum(extents[::2]) == 1024, extents
    """, name="odd")
