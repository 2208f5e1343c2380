"""What a compressor needs, on what it has seen and on what it cannot know."""

import random

import pytest

from wnseq.data.text import compressed_bits_per_byte, open_corpus


def test_what_was_seen_costs_nothing_and_what_is_random_costs_eight_bits():
    generator = random.Random(0)
    first, second = generator.randbytes(20_000), generator.randbytes(20_000)
    assert compressed_bits_per_byte(first, first) < 0.5
    assert compressed_bits_per_byte(first, second) == pytest.approx(8, rel=0.01)
    assert compressed_bits_per_byte(first + second, first) < 0.5


def test_the_embedded_text_is_prose_and_its_test_part_is_new():
    parts = open_corpus("python").parts
    assert 1.5 < compressed_bits_per_byte(parts["train"].read(), parts["test"].read()) < 2.2
