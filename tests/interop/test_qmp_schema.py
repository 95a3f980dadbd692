# SPDX-License-Identifier: BSD-2-Clause
"""
query-qmp-schema beside qemu-storage-daemon's: every command, event and member that both have is of the same type, what
QSD does not require is not required, and what QSD always returns is always returned.
"""

import pytest

from support import process, qemu

pytestmark = [pytest.mark.qemu, pytest.mark.control]

# A difference, the versions of QSD that have it, and its reason.
BEFORE_10, FROM_10, ALWAYS = lambda version: version < (10, 0), lambda version: version >= (10, 0), lambda version: True
LOADED = "7.2's members, which no longer exist: object-add takes the one value that they could have"
LISTFILE = "QSD calls it authz-listfile in its schema, and then finds no type of that name: it cannot be made there"
ALLOWED = [
    ("query-named-block-nodes returns []: 'node-name' is optional there", ALWAYS, "QSD always sets it"),
    ("query-named-block-nodes returns []: member 'active' is not there", BEFORE_10, "since 10.0"),
    ("nbd-server-start takes : member 'handshake-max-seconds' is not there", BEFORE_10, "since 10.0"),
    ("object-add takes (authz-list-file): member 'filename' is not there", ALWAYS, LISTFILE),
    ("object-add takes (authz-list-file): member 'refresh' is not there", ALWAYS, LISTFILE),
    ("object-add takes (authz-list).qom-type: has values ['authz-list-file'] that are not there", ALWAYS, LISTFILE),
    *((f"object-add takes ({kind}): member 'loaded' is not there", FROM_10, LOADED)
      for kind in ("secret", "tls-creds-anon", "tls-creds-psk", "tls-creds-x509")),
]


class Schema:
    """The answer to query-qmp-schema, by name."""

    def __init__(self, qmp):
        self.infos = {info["name"]: info for info in qmp.cmd("query-qmp-schema")}

    def entities(self, kind):
        return {name: info for name, info in self.infos.items() if info["meta-type"] == kind}

    def kind(self, name):
        """A type as JSON sees it."""
        info = self.infos[name]
        return info["json-type"] if info["meta-type"] == "builtin" else info["meta-type"]

    def members(self, name, case=None):
        """All members of an object type; with the variant for a value of its tag, if it has one."""
        info = self.infos[name]
        members = {member["name"]: member for member in info["members"]}
        for variant in info.get("variants", []):
            if variant["case"] == case:
                members.update(self.members(variant["type"]))
        return members

    def cases(self, name):
        return {variant["case"] for variant in self.infos[name].get("variants", [])}

    def alternates(self, name):
        return {self.kind(member["type"]): member["type"] for member in self.infos[name]["members"]}


class Comparison:
    """Walks two schemas side by side and collects what differs."""

    def __init__(self, ours, theirs):
        self.ours, self.theirs = ours, theirs
        self.seen = set()
        self.differences = set()

    def differ(self, path, text):
        self.differences.add(f"{path}: {text}")

    def types(self, path, our, their):
        if (our, their) in self.seen:
            return
        self.seen.add((our, their))
        kind = self.ours.kind(our)
        if kind != self.theirs.kind(their):
            self.differ(path, f"is {kind}, there {self.theirs.kind(their)}")
        elif kind == "enum":
            extra = {value for value in self.ours.infos[our]["values"] if not value.startswith("__org.bulkhead_")}
            extra -= set(self.theirs.infos[their]["values"])
            if extra:
                self.differ(path, f"has values {sorted(extra)} that are not there")
        elif kind == "array":
            self.types(path + "[]", self.ours.infos[our]["element-type"], self.theirs.infos[their]["element-type"])
        elif kind == "alternate":
            theirs = self.theirs.alternates(their)
            for branch, name in self.ours.alternates(our).items():
                if branch not in theirs:
                    self.differ(path, f"may be {branch}, not there")
                else:
                    self.types(path, name, theirs[branch])
        elif kind == "object":
            for case in sorted(self.ours.cases(our)) or [None]:  # a type is told of where it is met first
                self.objects(f"{path}{f'({case})' if case else ''}", self.ours.members(our, case),
                             self.theirs.members(their, case))

    def objects(self, path, our, their):
        for name, member in our.items():
            if name.startswith("__"):
                continue
            if name not in their:
                self.differ(path, f"member '{name}' is not there")
                continue
            optional, there = "default" in member, "default" in their[name]
            if optional != there:
                self.differ(path, f"'{name}' is {'optional' if there else 'required'} there")
            self.types(f"{path}.{name}", member["type"], their[name]["type"])
        for name, member in their.items():
            if name not in our and "default" not in member:
                self.differ(path, f"member '{name}', always there, is missing")


@pytest.fixture
def schemas(new_server):
    process.need("qemu-storage-daemon")
    return tuple(Schema(new_server(kind=kind).start().qmp) for kind in ("bulkhead", "qsd"))


def standard(names):
    return sorted(name for name in names if not name.startswith("__"))


def test_commands_take_and_return_what_qsd_does(schemas):
    ours, theirs = schemas
    found = set()
    for name in standard(ours.entities("command")):
        our, their = ours.infos[name], theirs.entities("command")[name]
        sent, returned = Comparison(ours, theirs), Comparison(ours, theirs)
        sent.types(f"{name} takes ", our["arg-type"], their["arg-type"])
        returned.types(f"{name} returns ", our["ret-type"], their["ret-type"])
        found |= sent.differences | returned.differences
    version = qemu.version("qemu-storage-daemon")
    if version in qemu.KNOWN:
        assert found == {difference for difference, there, _ in ALLOWED if there(version)}
    else:
        assert found <= {difference for difference, _, _ in ALLOWED}


def test_events_carry_what_qsd_says(schemas):
    ours, theirs = schemas
    found = set()
    for name in standard(ours.entities("event")):
        comparison = Comparison(ours, theirs)
        comparison.types(name, ours.infos[name]["arg-type"], theirs.entities("event")[name]["arg-type"])
        found |= comparison.differences
    assert not found, sorted(found)


def test_everything_of_our_own_has_the_downstream_prefix(schemas):
    ours, theirs = schemas
    for kind in ("command", "event"):
        for name in set(ours.entities(kind)) - set(theirs.entities(kind)):
            assert name.startswith("__org.bulkhead_"), name
