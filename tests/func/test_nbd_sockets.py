# SPDX-License-Identifier: BSD-2-Clause
"""Where the NBD server listens: the members of an inet address, and names that have several."""

import os
import socket

import pytest

from support import process
from support.images import MIB
from support.nbdraw import *
from support.nbdraw import Closed, NbdRaw

V4, V6 = "127.0.0.1", "::1"


def free_ports(count, host=V4):
    """The first of so many ports in a row that nobody has."""
    for first in range(20000 + os.getpid() % 20000, 60000, count):
        socks = []
        try:
            for port in range(first, first + count):
                socks.append(socket.socket())
                socks[-1].bind(("0.0.0.0", port))
                with socket.socket(socket.AF_INET6) as six:
                    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    six.bind(("::", port))
            return first
        except OSError:
            continue
        finally:
            for sock in socks:
                sock.close()
    pytest.skip("no free ports")


@pytest.fixture
def v6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind((V6, 0))
    except OSError:
        pytest.skip("no IPv6 loopback")


@pytest.fixture
def disk(server, image):
    server.add_file("disk", image(size=MIB))
    return server


def listen(server, port, host="", **members):
    server.nbd_start({"type": "inet", "data": {"host": host, "port": str(port), **members}})
    server.export("disk")


def serves(port, host=V4):
    """Whether a client is served there; False: nobody listens, or (a process that is just starting) without a word."""
    try:
        client = NbdRaw.inet(port, host)
    except ConnectionRefusedError:
        return False
    with client:
        try:
            client.hello()
        except Closed:
            return False
        client.go("disk")
        assert client.read(0, 512) == bytes(512)
        client.disconnect()
    return True


@pytest.mark.contract
@pytest.mark.parametrize("members, families", [
    ({}, {V4, V6}), ({"ipv4": True}, {V4}), ({"ipv6": True}, {V6}), ({"ipv4": False}, {V6}), ({"ipv6": False}, {V4}),
    ({"ipv4": True, "ipv6": True}, {V4, V6}), ({"ipv4": True, "ipv6": False}, {V4}), ({"ipv4": False, "ipv6": True}, {V6})], ids=str)
def test_families(disk, v6, members, families):
    """The empty host is every address of the machine."""
    port = free_ports(1)
    listen(disk, port, **members)
    assert {host for host in (V4, V6) if serves(port, host)} == families


@pytest.mark.contract
def test_no_family_is_left(disk):
    address = {"type": "inet", "data": {"host": "", "port": "0", "ipv4": False, "ipv6": False}}
    assert disk.qmp.error("nbd-server-start", {"addr": address}).cls == "GenericError"


@pytest.mark.contract
def test_every_address_of_a_name(new_server, v6, image, tmp):
    """With a hosts file of its own, in which a name has three."""
    if os.getuid() != 0:
        pytest.skip("a hosts file of its own needs root")
    hosts = tmp / "hosts"
    hosts.write_text(f"127.0.0.1 many\n127.0.0.2 many\n{V6} many\n")
    hosts.chmod(0o644)
    if process.run("unshare", "-m", "mount", "--bind", hosts, "/etc/hosts", status=None).returncode != 0:
        pytest.skip("cannot mount")
    server = new_server()
    server.prefix = ["unshare", "-m", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
    server.start()
    server.add_file("disk", image(size=MIB))
    port = free_ports(1)
    listen(server, port, "many")
    assert [serves(port, host) for host in (V4, "127.0.0.2", V6, "127.0.0.3")] == [True, True, True, False]
    server.qmp.cmd("nbd-server-stop")
    assert not any(serves(port, host) for host in (V4, "127.0.0.2", V6))


@pytest.mark.contract
def test_a_range_of_ports(disk):
    """The first that is free."""
    port = free_ports(3)
    with socket.socket() as taken:
        taken.bind((V4, port))
        taken.listen()
        listen(disk, port, V4, to=port + 2)
        assert [serves(port + 1), serves(port + 2)] == [True, False]


@pytest.mark.contract
def test_a_range_of_ports_that_are_all_taken(disk):
    port = free_ports(2)
    with socket.socket() as first, socket.socket() as second:
        for sock, number in ((first, port), (second, port + 1)):
            sock.bind((V4, number))
            sock.listen()
        address = {"type": "inet", "data": {"host": V4, "port": str(port), "to": port + 1}}
        assert disk.qmp.error("nbd-server-start", {"addr": address}).cls == "GenericError"
    listen(disk, port, V4)
    assert serves(port)


def keep_alive_timer(client, port):
    """Whether the server's end of a connection has a timer of the kind that keeps connections alive, by /proc/net/tcp."""
    ours = client.sock.getsockname()[1]
    with open("/proc/net/tcp") as table:
        for row in [line.split() for line in list(table)[1:]]:
            local, remote = (int(address.split(":")[1], 16) for address in row[1:3])
            if (local, remote) == (port, ours):
                return row[5].split(":")[0] == "02"
    raise AssertionError("the connection is not in /proc/net/tcp")


@pytest.mark.contract
@pytest.mark.parametrize("members, wanted", [
    ({}, False), ({"keep-alive": False}, False),
    pytest.param({"keep-alive": True}, True, marks=pytest.mark.own("QEMU 7.2 takes the member, and does it for clients only"))], ids=str)
def test_keep_alive(disk, members, wanted):
    port = free_ports(1)
    listen(disk, port, V4, **members)
    with NbdRaw.inet(port) as client:
        client.hello()
        client.go("disk")
        assert client.read(0, 512) == bytes(512)
        process.wait_for(lambda: keep_alive_timer(client, port) == wanted, "the timer of the connection")
        client.disconnect()


@pytest.mark.contract
@pytest.mark.parametrize("members", [
    pytest.param({"port": "65536"}, marks=pytest.mark.own("QEMU takes it for port 0")),
    pytest.param({"port": ""}, marks=pytest.mark.own("QEMU takes it for port 0")),
    {"port": "1", "host": "no.such.host.invalid"}, {"port": "0", "more": 1}, {"port": "0", "host": "localhost", "numeric": "yes"},
    {"port": "9", "to": 65536}], ids=str)
def test_wrong_addresses_are_refused(disk, members):
    address = {"type": "inet", "data": {"host": V4, **members}}
    assert disk.qmp.error("nbd-server-start", {"addr": address}).cls == "GenericError"
    disk.nbd_start()


@pytest.mark.contract
def test_an_inherited_tcp_socket(new_server, image):
    with socket.create_server((V4, 0)) as listener:
        port = listener.getsockname()[1]
        server = new_server().start("--nbd-server", f"addr.type=fd,addr.str={listener.fileno()}", pass_fds=(listener.fileno(),))
    server.add_file("disk", image(size=MIB))
    server.export("disk")
    assert serves(port)


@pytest.mark.contract
def test_all_on_the_command_line(new_server, image):
    port = free_ports(3)
    server = new_server().start(
        "--blockdev", f"file,node-name=disk,filename={image(size=MIB)}",
        "--nbd-server", f"addr.type=inet,addr.host={V4},addr.port={port},addr.to={port + 2},addr.ipv4=on,addr.keep-alive=on,max-connections=2",
        "--export", "nbd,id=e,node-name=disk,name=disk,writable=on")
    with NbdRaw.inet(port) as client:
        client.hello()
        client.go("disk")
        assert serves(port)
        if server.kind == "bulkhead":
            process.wait_for(lambda: keep_alive_timer(client, port), "the timer of the connection")
        client.disconnect()
    assert list(server.exports()) == ["e"]
