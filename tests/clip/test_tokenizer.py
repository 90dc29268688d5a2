import pytest

from clip import decode, encode, tokenize
from clip.tokenizer import EOT, SOT


def test_ids_of_clips_vocabulary():
    # The published ids of "a photo of a cat": any CLIP port gives these.
    assert encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert tokenize("a cat", 6).tolist() == [[SOT, 320, 2368, EOT, 0, 0]]


def test_text_is_cleaned_and_lower_cased():
    assert encode("  A   Photo&amp;more ") == encode("a photo&more")
    assert encode("caf\u00c3\u00a9") == encode("caf\u00e9")  # ftfy mends broken encodings


def test_decode_inverts_encode():
    assert decode([SOT, *encode("a boeing 737-200"), EOT]) == "a boeing 7 3 7 - 2 0 0"


def test_long_texts_raise_or_are_cut():
    with pytest.raises(ValueError, match="needs 12 tokens, the context holds 8: 'a a a"):
        tokenize("a " * 10, 8)
    assert tokenize("a " * 10, 8, truncate=True).tolist() == [[SOT, 320, 320, 320, 320, 320, 320, EOT]]
