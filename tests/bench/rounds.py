# SPDX-License-Identifier: BSD-2-Clause
"""What all benchmarks have in common: who is measured when, and what is told of several samples."""

import statistics


def rounds(options, kinds):
    """Each server once a round, options.repeats times; the first one of a round rotates."""
    for number in range(options.repeats):
        shift = number % len(kinds)
        yield from kinds[shift:] + kinds[:shift]


def summary(samples, key):
    """Median, least, greatest."""
    values = [sample[key] for sample in samples]
    return statistics.median(values), min(values), max(values)
