"""No spelling of a text hides a copy of it, and what is counted are letters, not bytes."""

import unicodedata
from collections.abc import Callable
from itertools import accumulate, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.contamination import build_index, contaminated, count_letters, fold, fold_character

ENGLISH = "The lighthouse keeper's daughter said: 'we shall row to the northern island before the tide turns.'"
RUSSIAN = "Смотритель маяка сказал: мы поплывём на северный остров раньше, чем начнётся отлив."
FRENCH = "Le gardien du phare dénonça la traversée prévue à l'été, répétée dès la marée montée."
GREEK = "Ο φύλακας του φάρου είπε ότι θα πλεύσουμε προς το βόρειο νησί πριν αλλάξει η παλίρροια."
GERMAN = (
    "Der Leuchtturmwärter grüßte und sagte, dass die Straße zur nördlichen Insel überschwemmt sei."
)
TURKISH = "Fener bekçisinin kızı, gelgit dönmeden kuzeydeki ıssız adaya kürek çekeceğimizi söyledi."
KOREAN = "등대지기의 딸은 썰물이 바뀌기 전에 북쪽 섬으로 노를 저어 가자고 말했다."
CHINESE = "灯塔看守人的女儿说我们要在退潮之前划船去北边的小岛而且绝不提早"
JAPANESE = "灯台守の娘は、潮が変わる前に北の島へ漕いで行こうと言いました。ガスの中でも。"
ARABIC = "قالت ابنة حارس المنارة إننا سنجدف إلى الجزيرة الشمالية قبل أن يتغير المد"
ALL = (ENGLISH, RUSSIAN, FRENCH, GREEK, GERMAN, TURKISH, KOREAN, CHINESE, JAPANESE, ARABIC)


def spaced(space: str) -> Callable[[str], str]:
    """The text with every space replaced."""
    return lambda text: text.replace(" ", space)


def between_all(sign: str) -> Callable[[str], str]:
    """The text with a mark after every character."""
    return lambda text: sign.join(text)


def full_width(text: str) -> str:
    """The text in full-width characters."""
    return "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in text)


def turkish_capitals(text: str) -> str:
    """The text in Turkish capitals."""
    return text.replace("i", "İ").upper()


def without_accents(text: str) -> str:
    """As many typists write capitals."""
    return "".join(
        part for part in unicodedata.normalize("NFD", text) if not unicodedata.combining(part)
    )


DISGUISES = {
    "as it is": str,
    "no-break space": spaced("\u00a0"),
    "thin space": spaced("\u2009"),
    "full-width space": spaced("\u3000"),
    "zero-width space": spaced("\u200b"),
    "em dashes": spaced(" — "),
    "line separators": spaced("\u2028"),
    "ellipses": spaced("… "),
    "bullets": spaced(" • "),
    "invisible letters": between_all("\u3164"),
    "half-width invisible letters": between_all("\uffa0"),
    "saltillos": lambda text: text.replace("'", "\ua78c"),
    "curly quotes": lambda text: text.replace("'", "\u2019"),
    "modifier apostrophes": lambda text: text.replace("'", "\u02bc"),
    "guillemets": lambda text: f"«{text}»",
    "soft hyphens": between_all("\u00ad"),
    "word joiners": between_all("\u2060"),
    "byte-order marks": spaced("\ufeff"),
    "composed": lambda text: unicodedata.normalize("NFC", text),
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "full-width letters": full_width,
    "capitals": str.upper,
    "title case": str.title,
    "markup": between_all("*"),
    "accents left out": without_accents,
    "ligatures": lambda text: text.replace("fi", "ﬁ").replace("ss", "ß"),
    "Turkish capitals": turkish_capitals,
    "stretched Arabic": lambda text: text.replace("ر", "ر\u0640\u0640"),
    "vowel points": lambda text: text.replace("ن", "ن\u064e"),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("text", ALL, ids=lambda text: text[:9])
def test_a_copy_is_found_in_every_spelling(text: str, disguise: str) -> None:
    copy = f"Nothing here is of that kind. {DISGUISES[disguise](text)} And on it goes."
    assert contaminated(build_index([text], 50), [b"another one", copy.encode()]) == [1]
    assert contaminated(build_index([DISGUISES[disguise](text)], 50), [text.encode()]) == [0]


def test_each_of_many_texts_is_found_in_its_document() -> None:
    index = build_index(ALL, 50)
    documents = [f"{text.upper()} {number}".encode() for number, text in enumerate(reversed(ALL))]
    assert contaminated(index, [b"clean", *documents, b"clean"]) == list(range(1, 11))
    assert index.too_short == 0


def test_no_run_crosses_from_one_document_into_the_next() -> None:
    first, second = RUSSIAN[:40], RUSSIAN[40:]
    assert contaminated(build_index([RUSSIAN], 50), [first.encode(), second.encode()]) == []


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("abc 12", 5),
        ("été", 3),
        ("ЁЖ", 2),
        ("灯塔", 4),
        ("ガス", 4),
        ("ｶﾞｽ", 4),
        ("등", 3),
        ("\u1103\u1173\u11bc", 3),
        ("ﬁ", 2),
        ("ß", 2),
        ("๓ปี", 2),
        ("— « » … 👍", 0),
        ("a\u0301\u0323", 1),
        ("½", 2),
    ],
)
def test_letters_are_counted_and_not_bytes(text: str, letters: int) -> None:
    assert count_letters(fold(text.encode()).tobytes()) == letters


@pytest.mark.parametrize(("shared", "found"), [(17, False), (24, False), (25, True)])
def test_twenty_five_chinese_characters_make_a_passage(shared: int, found: bool) -> None:
    """17 of them take 51 bytes, and an earlier version counted bytes."""
    assert (
        bool(contaminated(build_index([CHINESE], 50), [f"前文{CHINESE[:shared]}后文".encode()]))
        is found
    )


@pytest.mark.parametrize(("shared", "found"), [(49, False), (50, True)])
def test_fifty_letters_make_a_passage_in_every_alphabet(shared: int, found: bool) -> None:
    for text in (RUSSIAN, GREEK, FRENCH, ARABIC):
        letters = "".join(sign for sign in text if sign.isalnum())
        document = f"zz {letters[:shared]} qq".encode()
        assert bool(contaminated(build_index([text], 50), [document])) is found


@pytest.mark.parametrize(
    ("text", "too_short"), [(CHINESE[:24], 1), (CHINESE[:25], 0), ("a" * 49, 1), ("é" * 25, 1)]
)
def test_a_text_with_too_few_letters_is_counted_as_such(text: str, too_short: int) -> None:
    assert build_index([text], 50).too_short == too_short


TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8", exclude_characters="\0"),
        st.sampled_from("aÉßﬁ가각漢ガｶﾞΣςIıİ\u0301\u0345\u1100\u1161\u11a8ﷺ½ 9_"),
    ),
    max_size=40,
)


@given(TEXTS)
def test_folding_is_by_character_and_keeps_only_letters(text: str) -> None:
    folded = fold(text.encode()).tobytes().decode()
    assert folded == "".join(fold_character(character) for character in text)
    assert all(character.isalnum() for character in folded)


@given(TEXTS)
def test_texts_equal_under_nfkc_and_case_folding_fold_alike(text: str) -> None:
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    letters = "".join(character for character in normal if character.isalnum())
    kept = fold(text.encode()).tobytes()
    assert fold(normal.encode()).tobytes() == kept
    for form in ("NFC", "NFD", "NFKD"):
        assert fold(unicodedata.normalize(form, text).encode()).tobytes() == kept
    if text.isascii():
        assert kept.decode() == letters


@given(
    st.text("aé漢", max_size=30),
    st.lists(st.text("aé漢", max_size=30), max_size=3),
    st.integers(15, 20),
)
def test_contaminated_means_a_common_run_of_letters(test: str, texts: list[str], run: int) -> None:
    def runs(text: str) -> set[str]:
        folded = fold(text.encode()).tobytes().decode()
        letters = [0, *accumulate(1 + (sign == "漢") for sign in folded)]
        pairs = combinations(range(len(letters)), 2)
        return {
            folded[start:stop] for start, stop in pairs if letters[stop] - letters[start] >= run
        }

    found = contaminated(build_index([test], run), [text.encode() for text in texts])
    assert found == [number for number, text in enumerate(texts) if runs(text) & runs(test)]
