# SPDX-License-Identifier: BSD-2-Clause
"""What docs/threat-model.md and docs/sandbox.md claim is held by tests, which they name: these exist."""

import pytest

from support import pages

pytestmark = pytest.mark.control

SECTION = "Which test holds it"


@pytest.fixture(params=["threat-model.md", "sandbox.md"])
def page(request):
    return (pages.TOP / "docs" / request.param).read_text()


def test_every_test_that_the_page_names_exists(page):
    assert len(pages.named_tests(page)) > 20
    assert not pages.missing_tests(page)


def test_every_claim_of_the_list_names_a_test(page):
    rows = pages.table(page, SECTION)
    assert len(rows) > 15
    for claim, tests in rows:
        assert claim and pages.named_tests(tests), claim


def test_every_layer_has_a_claim():
    """Of both pages: whatever a layer stops is tried."""
    text = (pages.TOP / "docs" / "threat-model.md").read_text()
    layers = {name for row in pages.table(text, "The layers of a worker, and what each stops") for name in row[0].split(", ")}
    claims = " ".join(claim for claim, _ in pages.table((pages.TOP / "docs" / "sandbox.md").read_text(), SECTION))
    assert len(layers) > 10
    assert not [layer for layer in layers if layer not in claims]
