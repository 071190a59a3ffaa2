"""The sample's language: a document depends only on its number, and recall helps in it."""

from itertools import islice

from assets.sample_corpus import NAMES, ORDINARY_WORDS, SampleDomain, document_words, records

DOMAIN = SampleDomain(set_name="RedPajamaBook", words=3000, median_length=600, spread=0.3)


def test_a_document_does_not_depend_on_what_was_made_before() -> None:
    third = list(islice(records("book", DOMAIN, 0), 3))[2]["text"]
    assert third == " ".join(document_words("book", DOMAIN, 0, 2))


def test_inside_a_document_a_name_decides_the_next_word() -> None:
    words = document_words("book", DOMAIN, 0, 0)
    names = set(NAMES)
    titles = {}
    i = 0
    while i < len(words):
        if words[i] in names:
            title = tuple(words[i : i + 3])
            for name in title:
                assert titles.setdefault(name, title) == title
            i += 3
        else:
            i += 1
    assert len(titles) > 30


def test_the_needles_sentence_is_nowhere_in_it() -> None:
    text = " ".join(" ".join(document_words("book", DOMAIN, 0, i)) for i in range(20))
    assert "answer is the name" not in text


def test_every_word_is_a_name_or_an_ordinary_word() -> None:
    assert not set(NAMES) & set(ORDINARY_WORDS)
    assert set(document_words("c4", DOMAIN, 1, 5)) <= {*NAMES, *ORDINARY_WORDS, "."}


def test_the_tail_holds_its_share_of_the_words() -> None:
    domain = SampleDomain(
        set_name="x", words=1, median_length=40, spread=0.3, tail_share=0.4, longest=2000
    )
    lengths = [len(document_words("x", domain, 0, i)) for i in range(1500)]
    share = sum(length for length in lengths if length >= 256) / sum(lengths)
    assert 0.3 < share < 0.5
