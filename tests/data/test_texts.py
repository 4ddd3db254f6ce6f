import dataclasses
import json
import pickle
import tracemalloc

import numpy as np
import pytest

from ssl_jax.data import token_store
from ssl_jax.data.corpus import make_schedule, open_split
from ssl_jax.data.errors import BadFile, DataError, Unreadable
from ssl_jax.data.loader import batches
from ssl_jax.data.readers import text_files
from ssl_jax.data.tokenizers import ByteTokenizer, open_tokenizer

BOS, PAD, EOS = 0, 1, 2


def ids(text):
    return [b + 4 for b in text.encode()]


def words(tokens):
    return bytes(int(t) - 4 for t in tokens if t > 3).decode()


@pytest.fixture
def documents(tmp_path):
    """Three documents of 20, 0 and 9 bytes, one whose name is not that of a text, one nested."""
    for name, text in [
        ("a.txt", "one two three\nfour.\n"),
        ("b.md", ""),
        ("c.rst", "grün, ja"),
        ("d.py", "import this"),
        ("deep/e.txt", "end"),
    ]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return {"d": {"kind": "text_files", "path": str(tmp_path)}}


def read_all(corpus):
    return [corpus.read(i).tolist() for i in range(len(corpus))]


def test_a_stream_is_cut_into_blocks(documents, text_config):
    corpus = open_split(text_config(documents), "train")
    stream = [*ids("one two three\nfour.\n"), EOS, *ids("grün, ja"), EOS, *ids("end"), EOS]
    blocks = read_all(corpus)
    assert [len(b) for b in blocks] == [16, 16, 6] and all(b[0] == BOS for b in blocks)
    assert [t for b in blocks for t in b[1:]] == stream
    assert corpus.lengths.tolist() == [16, 16, 6] and corpus.vocab_size == 261
    assert [corpus.where(i).split("/")[-1] for i in range(3)] == [
        "a.txt, row 1",
        "a.txt, row 1",
        "c.rst, row 3",
    ]
    assert set(corpus.labels) == {-1}


def test_complete_documents_do_not_share_a_block(documents, text_config):
    source = {"d": {**documents["d"], "label": "folder"}}
    corpus = open_split(text_config(source, break_mode="complete_doc"), "train")
    a, c = ids("one two three\nfour.\n") + [EOS], ids("grün, ja") + [EOS]
    assert read_all(corpus) == [
        [BOS, *a[:15]],
        [BOS, *a[15:]],
        [BOS, *c],
        [BOS, *ids("end"), EOS],
    ]
    assert [corpus.classes[x] for x in corpus.labels][-1] == "deep" != corpus.column("folder")[0]


def test_a_batch_of_text(documents, text_config):
    config = text_config(documents, batch_size=3)
    corpus = open_split(config, "train")
    plan = make_schedule(corpus, config, seed=0, shuffle=False)
    batch, _ = next(batches(corpus, plan))
    assert {k: (v.shape, str(v.dtype)) for k, v in batch.items()} == {
        "id": ((3,), "uint32"),
        "label": ((3,), "int32"),
        "tokens": ((3, 16), "int32"),
        "tokens_len": ((3,), "int32"),
        "weight": ((3,), "float32"),
    }
    assert batch["tokens_len"].tolist() == [16, 16, 6]
    assert (batch["tokens"][2, 6:] == PAD).all() and words(batch["tokens"][2]) == "end"


def test_patterns_and_paragraphs(tmp_path, text_config, documents):
    only = open_split(text_config({"d": {**documents["d"], "pattern": ("*.py",)}}), "train")
    assert words(only.read(0)) == "import this"
    path = tmp_path / "a.txt"
    path.write_text("\nfirst\nof two\n\n \n\r\nsecond\n\nthird\n")
    source = {"kind": "text_files", "path": str(path), "documents": "paragraph"}
    for _ in range(2):  # found, then from the index
        corpus = open_split(text_config({"p": source}, break_mode="complete_doc"), "train")
        texts = [words(corpus.read(i)) for i in range(3)]
        assert [t.strip() for t in texts] == ["first\nof two", "second", "third"]
    assert corpus.where(1).endswith("a.txt, bytes 19 to 25, row 2")
    low, high = {**source, "part": (0.0, 0.5)}, {**source, "part": (0.5, 1.0)}
    options = {"break_mode": "complete_doc"}
    sizes = [len(open_split(text_config({"p": s}, **options), "train")) for s in (low, high)]
    assert sizes == [2, 1]


def test_text_is_tokenized_once_for_all_lengths(documents, text_config, monkeypatch, cache_folder):
    first = read_all(open_split(text_config(documents), "train"))
    monkeypatch.setattr(ByteTokenizer, "encode", lambda self, texts: pytest.fail("again"))
    assert read_all(open_split(text_config(documents), "train")) == first
    longer = read_all(open_split(text_config(documents, block_tokens=64), "train"))
    assert [len(b) for b in longer] == [36]
    assert len(list(cache_folder.glob("tokens-*.bin"))) == 1
    monkeypatch.undo()


def test_changed_text_is_tokenized_again(documents, text_config, tmp_path):
    open_split(text_config(documents), "train")
    (tmp_path / "deep" / "e.txt").write_text("another end")
    assert words(open_split(text_config(documents), "train").read(2)).endswith("another end")


def test_long_documents_are_read_in_pieces(tmp_path, text_config, monkeypatch):
    monkeypatch.setattr(text_files, "_BLOCK", 50)
    monkeypatch.setattr(token_store, "_BATCH", 70)
    text = "".join(f"line {i} äöü\n" for i in range(100))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    config = text_config({"d": {"kind": "text_files", "path": str(tmp_path)}}, block_tokens=4096)
    assert words(open_split(config, "train").read(0)) == text


def test_a_line_without_end_is_read_in_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_BLOCK", 50)
    monkeypatch.setattr(text_files.lines, "LIMIT", 100)
    for name, text in (("a", "wort \u00e4 " * 90), ("b", "\u00e4" * 400), ("c", "x\n" * 300)):
        (tmp_path / name).write_bytes(text.encode())
        whole = text_files.Documents(np.array([str(tmp_path / name)]), np.array([0]))
        part = dataclasses.replace(whole, start=np.array([0]), stop=np.array([len(text.encode())]))
        for documents in (whole, part):
            pieces = list(documents.read(0))
            assert "".join(pieces) == text and max(len(p.encode()) for p in pieces) <= 200


def test_a_document_without_the_mark_of_an_editor(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffa \ufeff\r\nb".encode())
    documents = text_files.Documents(np.array([str(tmp_path / "a")]), np.array([0]))
    assert "".join(documents.read(0)) == "a \ufeff\r\nb"
    (tmp_path / "a").write_bytes(b"a\0b")
    with pytest.raises(Unreadable, match="a NUL at byte 1"):
        list(documents.read(0))


def test_a_corpus_is_not_held_in_memory(tmp_path, text_config):
    with (tmp_path / "big.txt").open("w") as f:
        for i in range(60_000):
            f.write(f"{i} " + "x" * 100 + "\n")
    config = text_config({"d": {"kind": "text_files", "path": str(tmp_path)}}, block_tokens=512)
    tracemalloc.start()
    corpus = open_split(config, "train")
    corpus.read(9000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(corpus) > 12_000 and peak < 25e6
    assert len(pickle.dumps(corpus)) < 1e6
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(corpus)).read(77), corpus.read(77))


def test_what_is_not_text_is_named_or_left_out(documents, text_config, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good line\nbad \xff line\n")
    message = r"a.txt, row 1: not UTF-8 text: invalid start byte at byte 14"
    for _ in range(2):
        with pytest.raises(BadFile, match=message):
            open_split(text_config(documents), "train")
        corpus = open_split(text_config(documents, on_bad="skip"), "train")
        assert [(b.id, b.where.split("/")[-1]) for b in corpus.known_invalid] == [
            (-1, "a.txt, row 1")
        ]
        assert words(corpus.read(0)) == "grün, jaend"


@pytest.fixture
def table(tmp_path):
    rows = ["sentence1\tsentence2\tlabel\tscore", "ab\tcde\tyes\t1.5", "x" * 20 + "\t" + "y" * 5]
    rows[2] += "\tno\t"
    (tmp_path / "pairs.tsv").write_text("\n".join(rows) + "\n")
    return {"t": {"kind": "text_table", "path": str(tmp_path / "pairs.tsv")}}


def test_pairs_of_texts(table, text_config):
    corpus = open_split(text_config(table), "train")
    assert corpus.classes == ("no", "yes") and corpus.labels.tolist() == [1, 0]
    assert corpus.read(0).tolist() == [BOS, *ids("ab"), EOS, EOS, *ids("cde"), EOS]
    # the longer text is truncated
    assert corpus.read(1).tolist() == [BOS, *ids("x" * 7), EOS, EOS, *ids("y" * 5), EOS]
    long = [len(open_split(text_config(table, block_tokens=n), "train").read(1)) for n in (8, 64)]
    assert long == [8, 29]


def test_one_text_and_its_target(table, text_config):
    source = {"t": {**table["t"], "columns": ("sentence1",), "target": "score"}}
    config = text_config(source)
    corpus = open_split(config, "train")
    assert corpus.read(1).tolist() == [BOS, *ids("x" * 14), EOS]
    assert corpus.column("sentence2") == ["cde", "yyyyy"]
    plan = make_schedule(corpus, config, seed=0, shuffle=False)
    batch, _ = next(batches(corpus, plan))
    np.testing.assert_array_equal(batch["target"][:2], [[1.5], [np.nan]])


def test_a_row_without_text_is_named_or_skipped(table, text_config, tmp_path):
    with (tmp_path / "pairs.tsv").open("a") as f:
        f.write("\tz\tyes\t\n")
    message = r"pairs.tsv, row 4: empty: a text has no tokens"
    with pytest.raises(BadFile, match=message):
        open_split(text_config(table), "train")
    config = text_config(table, on_bad="skip")
    corpus = open_split(config, "train")
    with pytest.raises(BadFile, match=message):
        corpus.read(2)
    plan = make_schedule(corpus, config, seed=0, shuffle=False)
    arrays, bads = next(batches(corpus, plan))
    assert arrays["weight"].tolist() == [1, 1, 0, 0] and [b.id for b in bads] == [2]


def test_bytes_are_read_back_with_what_is_special():
    tokenizer = ByteTokenizer()
    (ids,) = tokenizer.encode(["né ✓"])
    assert tokenizer.decode(np.concatenate([[0], ids, [260, 2, 1]])) == "<s>né ✓<mask></s><pad>"
    assert tokenizer.decode(ids[1:2]) == "\N{REPLACEMENT CHARACTER}"  # half of an é


@pytest.fixture
def json_file(tmp_path):
    """Returns json_file(specials) -> the path of a word-level tokenizer."""
    library = pytest.importorskip("tokenizers")

    def make(specials=("<s>", "<pad>", "</s>", "<unk>", "<mask>")):
        words = [*specials, "one", "two", "three"]
        model = library.models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>")
        tokenizer = library.Tokenizer(model)
        tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
        # set in the files of some checkpoints, but unwanted for a corpus
        tokenizer.enable_truncation(2)
        tokenizer.enable_padding(length=9)
        path = tmp_path / "tokenizer.json"
        tokenizer.save(str(path))
        return str(path)

    return make


def test_a_tokenizer_from_a_file(documents, text_config, json_file):
    path = json_file()
    corpus = open_split(text_config(documents, tokenizer=path), "train")
    assert corpus.vocab_size == 8 and corpus.special == (0, 2, 1, 3, 4)
    assert corpus.read(0)[:7].tolist() == [BOS, 5, 6, 7, 3, 3, EOS]
    assert open_tokenizer(path).decode(np.array([0, 6, 3, 7])) == "<s> two <unk> three"
    bert = open_tokenizer(json_file(("<unk>", "[CLS]", "[SEP]")))
    assert bert.special == (1, 2, 2, 0, -1)


def test_config_errors(documents, table, text_config, json_file, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps({"model": 3}))
    cases = [
        (documents, {"break_mode": "eos"}, "break_mode is 'eos': use one of none, complete_doc"),
        (documents, {"block_tokens": 1}, "block_tokens is 1: use 8 or more"),
        (documents, {"tokenizer": "words"}, "tokenizer is 'words': use 'byte', or a JSON file"),
        (documents, {"tokenizer": str(tmp_path / "bad.json")}, "bad.json' is not a JSON file of"),
        (documents, {"tokenizer": json_file(("<unk>",))}, "has no token for 'bos': add one of <s>"),
        ({"d": {**documents["d"], "documents": "line"}}, {}, "documents is 'line': use 'file'"),
        ({"d": {**documents["d"], "pattern": ("*.c",)}}, {}, r"matches pattern=\('\*.c',\)"),
        (
            {"t": {**table["t"], "columns": ("text",)}},
            {},
            r"columns is \('text',\): name one or two",
        ),
        ({"d": {**documents["d"], "target": "folder"}}, {}, "folder is '.*', not a number"),
    ]
    for train, options, message in cases:
        with pytest.raises(DataError, match=message):
            open_split(text_config(train, **options), "train")


def test_without_the_library_byte_is_offered(documents, text_config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"pip install 'ssl_jax\[text\]', or set it to 'byte'"):
        open_split(text_config(documents, tokenizer="x.json"), "train")


def test_a_cache_that_cannot_be_written_is_an_error(documents, text_config, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_JAX_CACHE", str(tmp_path / "a.txt"))
    with pytest.raises(DataError, match=r"set the environment variable SSL_JAX_CACHE"):
        open_split(text_config(documents), "train")
