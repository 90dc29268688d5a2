import pytest

from clip import decode, encode, token_text, tokenize
from clip.tokenizer import EOT, SOT, VOCAB_SIZE


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


def test_how_tokens_read_alone():
    assert [token_text(i) for i in encode("a photo of a cat")] == ["a", "photo", "of", "a", "cat"]
    pieces = [token_text(i) for i in encode("photographologist")]
    assert len(pieces) > 1 and all(piece.endswith("-") for piece in pieces[:-1])
    assert "".join(piece.removesuffix("-") for piece in pieces) == "photographologist"
    assert [token_text(i) for i in (SOT, EOT)] == ["<start_of_text>", "<end_of_text>"]
    told = [token_text(i) for i in range(VOCAB_SIZE)]
    assert all(text and text.isprintable() and not any(map(str.isspace, text)) for text in told)
    assert len(set(told)) > 0.99 * VOCAB_SIZE  # `!-` is a piece and a token
