# SPDX-License-Identifier: BSD-2-Clause
"""NBD clients that nobody here wrote, against exports of bulkhead."""

import json

import pytest

from support import images
from support.images import MIB
from support.process import need, output, run

pytestmark = pytest.mark.contract


def test_nbdinfo_shows_size_and_flags(nbd, image):
    need("nbdinfo")
    nbd.add_file("disk", image(size=16 * MIB))
    nbd.export("disk", description="a test disk")
    info = json.loads(output("nbdinfo", "--json", nbd.uri("disk")))["exports"][0]
    assert info["export-name"] == "disk"
    assert info["export-size"] == 16 * MIB
    assert info["is_read_only"] is False
    assert info["can_flush"] and info["can_fua"] and info["can_trim"] and info["can_zero"] and info["can_df"]
    assert info["can_multi_conn"] is True
