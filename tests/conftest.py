# SPDX-License-Identifier: BSD-2-Clause
"""
Fixtures of the functional tests. They start real servers as the service account, and check after every test that no
process, socket or mount is left over and that no sanitizer complained.

    pytest --build build [--engine threads|io_uring] [--server qsd] [--qemu build/qemu10] [--keep]
"""

import os
import pathlib
import pwd
import resource
import shutil
import signal
import tempfile

import pytest

from support import images, process, qemu
from support.server import ACCOUNT, Server, give_to_account

TOP = pathlib.Path(__file__).resolve().parent.parent
# One test, set-up included; a soak takes what it was told to.
TEST_SECONDS = 180 + int(float(os.environ.get("BULKHEAD_STRESS_SECONDS", "0")))


def pytest_addoption(parser):
    parser.addoption("--build", default=os.environ.get("BULKHEAD_BUILD", str(TOP / "build")), help="build tree to test")
    parser.addoption("--engine", default="auto", choices=["auto", "threads", "io_uring"], help="force this I/O engine")
    parser.addoption("--server", default="bulkhead", choices=["bulkhead", "qsd"],
                     help="qsd: run the tests marked 'contract' against qemu-storage-daemon, to test the tests")
    parser.addoption("--qemu", metavar="DIR",
                     help="run the tests marked 'qemu' with the programs in DIR/bin (see tests/fetch-qemu10.sh)")
    parser.addoption("--keep", action="store_true", help="keep the folders of the tests")


def pytest_configure(config):
    process.become_subreaper()
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"  # nbdsh needs the distribution's python3
    if os.getuid() == 0:
        try:
            pwd.getpwnam(ACCOUNT)
        except KeyError:
            pytest.exit(f"the account '{ACCOUNT}' does not exist: run ./dev test, or useradd --system {ACCOUNT}", 4)
    if config.getoption("qemu") is not None:
        qemu.use(pathlib.Path(config.getoption("qemu")).resolve(), config.add_cleanup)


def pytest_report_header(config):
    return f"QEMU: {qemu.version()}"


def pytest_collection_modifyitems(config, items):
    if config.getoption("server") == "qsd":
        def keep(item):
            return item.get_closest_marker("contract") and not item.get_closest_marker("own")
    elif config.getoption("qemu") is not None:
        def keep(item):
            return item.get_closest_marker("qemu")
    else:
        return
    config.hook.pytest_deselected(items=[item for item in items if not keep(item)])
    items[:] = [item for item in items if keep(item)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """A test that hangs fails instead of stopping the run."""
    qemu.marked = item.get_closest_marker("qemu") is not None or item.config.getoption("server") == "qsd"

    def expired(*unused):
        pytest.fail(f"took more than {TEST_SECONDS} s", pytrace=True)

    old = signal.signal(signal.SIGALRM, expired)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Show the server's log with a failure, and let fixtures know of it."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    item.failed = True
    for server in getattr(item, "servers", []):
        report.sections.append((f"log of {server.kind}, pid {server.popen.pid if server.popen else '?'}",
                                server.log_text()[-8000:]))


def _folder(request, parent):
    """A folder of the service account with a short path (socket paths have at most 107 bytes)."""
    path = tempfile.mkdtemp(prefix="bh-", dir=parent)
    os.chmod(path, 0o755)
    give_to_account(path)
    return pathlib.Path(path)


@pytest.fixture
def tmp(request):
    """A folder on disk that the service account owns."""
    path = _folder(request, "/tmp")
    yield path
    if not request.config.getoption("keep"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def shm(request):
    """The same on tmpfs."""
    path = _folder(request, "/dev/shm")
    yield path
    if not request.config.getoption("keep"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def build(request):
    return pathlib.Path(request.config.getoption("build")).resolve()


@pytest.fixture
def engine(request):
    return request.config.getoption("engine")


@pytest.fixture
def new_server(request, tmp):
    """A factory of servers that are not started yet; those that run at the end of the test are stopped and checked."""
    kind = request.config.getoption("server")
    if kind == "qsd":
        process.need("qemu-storage-daemon")
    request.node.servers = []

    def factory(**kwargs):
        directory = tmp / f"s{len(request.node.servers)}"
        directory.mkdir()
        give_to_account(directory)
        kwargs.setdefault("kind", kind)
        server = Server(build=pathlib.Path(request.config.getoption("build")).resolve(), directory=directory,
                        engine=request.config.getoption("engine"), **kwargs)
        request.node.servers.append(server)
        return server

    yield factory
    try:
        for server in request.node.servers:
            if server.popen is not None and not server.stopped:
                server.stop()
        assert not process.running_clients(), f"the test left clients running: {process.running_clients()}"
    finally:
        process.end_strays()


@pytest.fixture
def server(new_server):
    """A running server with a QMP connection and nothing else."""
    return new_server().start()


@pytest.fixture
def nbd(server):
    """A running server whose NBD server listens on a unix socket."""
    return server.nbd_start()


@pytest.fixture
def image(shm):
    """A factory of images on tmpfs."""
    def factory(name="disk.img", size=16 * images.MIB, **kwargs):
        return images.make(shm / name, size, **kwargs)

    return factory


@pytest.fixture
def disk_image(tmp):
    """A factory of images on the disk's file system."""
    def factory(name="disk.img", size=16 * images.MIB, **kwargs):
        return images.make(tmp / name, size, **kwargs)

    return factory


@pytest.fixture
def descriptors():
    """As many as this process may have, for a test with many clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def reachable_build(build, tmp):
    """The binaries in a folder that the service account can reach, wherever the build tree lies."""
    folder = tmp / "bin"
    folder.mkdir()
    for program in build.iterdir():
        if program.name.startswith("bulkhead") and program.is_file() and os.access(program, os.X_OK):
            shutil.copy(program, folder)
    return folder
