"""One reader for every file of records or text: what can be read is read, and the rest is named in
one line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from assets.records import Once, Skipped, checked_records, parsed, read_records, read_text
from core.errors import UserError

RECORDS = [{"n": 1, "text": "one"}, {"n": 2, "text": "two\u2028and \u0085 a half"}]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()
CYRILLIC = "Мой дядя самых честных правил, когда не в шутку занемог.\n"
ARABIC = "كان يا ما كان في قديم الزمان ملك عادل.\n"
"""As UTF-16 without a mark both are valid UTF-8 too, of control characters."""
SKIPPABLE = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
Pack = Callable[[bytes], bytes]


def cr(content: bytes) -> bytes:
    """With the line ends of an old Mac."""
    return content.replace(b"\n", b"\r")


def crlf(content: bytes) -> bytes:
    """With the line ends of Windows."""
    return content.replace(b"\n", b"\r\n")


def long_window(content: bytes) -> bytes:
    """As `zstd --long=28` writes it from a pipe: the window is in the header, and the size is
    not."""
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(content) + packer.flush()


READ = {
    "plain.jsonl": LINES,
    "bom.jsonl": b"\xef\xbb\xbf" + LINES,
    "cr.jsonl": cr(LINES),
    "crlf.jsonl": crlf(LINES),
    "no-end.jsonl": LINES.rstrip(),
    "packed.JSONL.GZ": gzip.compress(LINES),
    "packed.jsonl.zst": zstandard.compress(LINES),
    "cr.jsonl.gz": gzip.compress(cr(LINES)),
    "bom.jsonl.zst": zstandard.compress(b"\xef\xbb\xbf" + LINES),
    "members.jsonl.gz": gzip.compress(LINES[:9]) + gzip.compress(LINES[9:]),
    "padded.jsonl.gz": gzip.compress(LINES) + bytes(512),
    "frames.jsonl.zst": SKIPPABLE
    + zstandard.compress(LINES[:9])
    + SKIPPABLE
    + zstandard.compress(LINES[9:]),
    "long.jsonl.zst": long_window(LINES),
}


@pytest.mark.parametrize("name", READ)
def test_the_same_records_come_of_every_way_to_write_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(READ[name])
    expected = list(enumerate(RECORDS, start=1))
    assert list(read_records(tmp_path / name)) == list(checked_records(tmp_path / name)) == expected
    frame = zstandard.get_frame_parameters(READ["long.jsonl.zst"])
    assert frame.window_size == 1 << 28, "more than zstd reads unless asked"


def test_line_numbers_count_every_line_and_blank_ones_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n {"a": 1}\r\r\t\r\n{"a": 2}\n\n')
    assert list(read_records(path)) == [(2, {"a": 1}), (5, {"a": 2})]


def dictionary_packed(content: bytes, named: bool = True) -> bytes:
    """With a dictionary that is not in the file; not `named`: whose id is not there either."""
    samples = [f'{{"text": "number {number} of {number * 7}"}}'.encode() for number in range(2000)]
    dictionary = zstandard.train_dictionary(2000, samples)
    packer = zstandard.ZstdCompressor(dict_data=dictionary, write_dict_id=named)
    return packer.compress(content)


# an empty frame, a window of 2^32
WIDE = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(32 - 10) << 3]) + b"\x01\x00\x00"
REFUSED: dict[str, tuple[bytes, str]] = {
    "gz-cut.jsonl.gz": (gzip.compress(LINES)[:-9], "broken or cut off"),
    "zst-cut.jsonl.zst": (zstandard.compress(LINES)[:-3], "broken or cut off"),
    "flipped.jsonl.gz": (gzip.compress(LINES)[:-8] + bytes(8), "broken or cut off .CRC"),
    "gz-more.jsonl.gz": (
        gzip.compress(LINES) + b"more",
        "the archive ends, and bytes of another kind follow.*gzip -dc",
    ),
    "zst-more.jsonl.zst": (
        zstandard.compress(LINES) + b"more",
        "the archive ends, and bytes of another kind.*zstd -dc",
    ),
    "plain.jsonl.gz": (LINES, "holds other data where gzip data is expected"),
    "zst.jsonl.gz": (zstandard.compress(LINES), "holds zstd data where gzip data is expected"),
    "gz.jsonl": (gzip.compress(LINES), "holds gzip data where UTF-8 text is expected"),
    "twice.jsonl.gz": (
        gzip.compress(gzip.compress(LINES)),
        "holds gzip data where UTF-8 text is expected",
    ),
    "utf16.jsonl": (LINES.decode().encode("utf-16"), "holds UTF-16 text.*iconv -f UTF-16 -t UTF-8"),
    "16-be.jsonl": (LINES.decode().encode("utf-16-be"), "holds UTF-16BE text.*iconv -f UTF-16BE"),
    "16-le.jsonl": (LINES.decode().encode("utf-16-le"), "holds UTF-16LE text.*iconv -f UTF-16LE"),
    "32-be.jsonl": (LINES.decode().encode("utf-32-be"), "holds UTF-32BE text.*iconv -f UTF-32BE"),
    "32-le.jsonl": (LINES.decode().encode("utf-32-le"), "holds UTF-32LE text.*iconv -f UTF-32LE"),
    "32-le.jsonl.gz": (gzip.compress(LINES.decode().encode("utf-32-le")), "holds UTF-32LE text"),
    "cyrillic.jsonl": (CYRILLIC.encode("utf-16-le"), "holds UTF-16LE text"),
    "arabic.jsonl": (ARABIC.encode("utf-16-be"), "holds UTF-16BE text"),
    "short.jsonl": ("[]".encode("utf-32-be"), "holds UTF-32BE text"),
    "utf32.jsonl": (LINES.decode().encode("utf-32"), "holds UTF-32 text"),
    "empty.jsonl.gz": (b"", "cut off .it is empty"),
    "dictionary.jsonl.zst": (
        dictionary_packed(LINES),
        r"compressed with a dictionary \(id \d+\).*zstd -d -D DICTIONARY",
    ),
    "unnamed.jsonl.zst": (
        dictionary_packed(LINES, named=False),
        "needs a dictionary that it does not name.*zstd -d -D DICTIONARY",
    ),
    "wide.jsonl.zst": (WIDE, "compressed with a window of more than the 2,048 MiB that zstd reads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_on_from_is_refused_in_one_line_with_what_to_do(
    tmp_path: Path, name: str
) -> None:
    content, problem = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    for reader in (read_text, lambda path: list(read_records(path))):
        with pytest.raises(UserError, match=f"{tmp_path}/{name}.*{problem}") as stopped:
            reader(tmp_path / name)
        assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": ', "broken_json: Expecting value at character 7"),
        (b'{"a": 1}{"a": 2}', "broken_json: Extra data"),
        (b'{"a": "\xff"}', "undecodable: the byte 0xff is not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "undecodable"),
        (b"[" * 100_000, "broken_json: nested too deep"),
        (b"[", "broken_json.*a JSON array, not JSON Lines"),
        (b"9" * 5000, "broken_json"),
        (b"\0\0\0\0", "broken_json"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_bad_line_is_one_skipped_record_and_an_error_where_every_line_counts(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    first, (number, bad), last = read_records(path)
    assert (first, last) == ((1, {"a": 1}), (3, {"a": 2})) and number == 2
    assert isinstance(bad, Skipped) and str(bad).startswith(reason.split(".*")[0])
    with pytest.raises(UserError, match=f"{path}, line 2: {reason}.*Fix the line, or remove it"):
        list(checked_records(path))


def test_of_two_fields_of_one_name_neither_is_taken_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"answer": 0, "deep": [{"a": 1, "a": 2}]}\n')
    with pytest.raises(UserError, match="line 1: broken_json: two fields 'a' in one object"):
        list(checked_records(path))


def test_lone_surrogates_are_replaced_at_every_depth_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        rb'{"\ud800": ["\udc00x", {"a": "\ud83d\ude00"}], "n": NaN}' b'\n{"a": "\xc3\xa9"}\n'
    )
    (_, first), (_, second) = checked_records(path)
    assert first["?"] == ["?x", {"a": "😀"}] and second == {"a": "é"}
    assert "lone surrogates became question marks in 1 records" in capsys.readouterr().err
    assert parsed(rb'"\ud800"') == "\ud800", "raw_corpus counts them itself"


@pytest.mark.parametrize("pack", [bytes, crlf, cr, lambda text: b"\xef\xbb\xbf" + text])
@pytest.mark.parametrize(
    ("ending", "close"),
    [(".txt", bytes), (".TXT.GZ", gzip.compress), (".csv.zst", zstandard.compress)],
)
def test_a_text_is_the_same_however_it_is_written(
    tmp_path: Path, pack: Pack, ending: str, close: Pack
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(close(pack("é one\n\ntwo\u2028\n".encode())))
    assert read_text(path) == "é one\n\ntwo\u2028\n"


def test_a_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\ncafé\n".encode("latin-1"))
    with pytest.raises(
        UserError, match="a.txt, line 2: the byte 0xe9 is not UTF-8.*iconv -f LATIN1 -t UTF-8"
    ):
        read_text(tmp_path / "a.txt")


def test_zero_bytes_of_a_text_are_dropped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\0two\0")
    assert read_text(tmp_path / "a.txt") == "onetwo"
    assert "a.txt: 2 zero bytes dropped" in capsys.readouterr().err


def test_a_few_zero_bytes_make_no_text_wide(tmp_path: Path) -> None:
    for content in (b"a\0b", b"\0one\n", b"one\0\0two\n", b"\0" * 8 + b"one"):
        (tmp_path / "zeros.txt").write_bytes(content)
        assert read_text(tmp_path / "zeros.txt") == content.decode().replace("\0", "")


SPELLINGS = ['"te/xt é"', r'"te\/xt é"', r'"\u0074e\u002Fxt\u0020\u00e9"', r'"te/xt \u00E9"']


@pytest.mark.parametrize("first", SPELLINGS)
@pytest.mark.parametrize("second", SPELLINGS)
def test_a_key_is_the_same_key_however_it_is_spelled(first: str, second: str) -> None:
    once = Once(["te/xt é"])
    twice = once.parsed(f'{{{first}: 1, "a": [2], {second} : 3}}'.encode())
    assert str(twice) == "broken_json: two fields 'te/xt é' in one object"
    apart = f'{{{first}: 1, "a": {{{second}: 2}}}}'.encode()
    assert once.parsed(apart) == {"te/xt é": 1, "a": {"te/xt é": 2}}
    assert once.parsed(b'{"a": 1, "a": 2}') == {"a": 2}, "no field that matters"
