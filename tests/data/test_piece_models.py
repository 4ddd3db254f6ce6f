"""Word-piece models as files: what they cut and join, their search, and what is refused."""

import numpy as np
import pytest

from ssl_jax.core.config import ConfigError
from ssl_jax.data import piece_models, transcripts
from ssl_jax.data.errors import DataError
from ssl_jax.evals import decode

TEXTS = ["the theme of the thesis", "the other them", "other themes of mothers"] * 3


def column(texts):
    return np.array(texts, np.dtypes.StringDType())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer.json of the kind that sentencepiece models become."""
    library = pytest.importorskip("tokenizers")
    model = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
    model.pre_tokenizer = library.pre_tokenizers.Metaspace()
    trainer = library.trainers.BpeTrainer(
        vocab_size=30, special_tokens=["<unk>"], show_progress=False
    )
    model.train_from_iterator(TEXTS, trainer)
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.json"
    model.save(str(path))
    return str(path)


def test_texts_become_the_pieces_of_a_file_and_texts_again(tokenizer):
    config = {"spelling": tokenizer, "classes": (), "train": {}}
    vocabulary = transcripts.vocabulary(config, "train", None, [column(TEXTS)], tuple)
    assert vocabulary[0] == transcripts.BLANK and "<unk>" not in vocabulary[1:]
    tokens = transcripts.spell("the  themes", tokenizer, vocabulary)
    assert tokens[0].startswith("\u2581") and len(tokens) < len("the themes")
    assert transcripts.join(tokens, tokenizer) == "the themes"
    found, refused = transcripts.encode([column(["the hose", "the zoo"])], vocabulary, tokenizer)
    names = [vocabulary[i] for i in found[np.array([0])][0] if i >= 0]
    assert transcripts.join(names, tokenizer) == "the hose"
    # a piece outside the model
    assert "'<unk>', not in the vocabulary" in refused[1]


def test_words_of_a_search_end_where_the_next_begins(tmp_path):
    arpa = "\\data\\\n\\1-grams:\n-9 <unk>\n-1 </s>\n-1 AB\n-1 B\n\\end\\\n"
    (tmp_path / "lm.arpa").write_text(arpa)
    vocabulary = (transcripts.BLANK, "\u2581A", "B", "\u2581B")
    options = {"beam": 50, "lm": str(tmp_path / "lm.arpa"), "lm_weight": 1.0, "word_score": -0.5}
    search = decode.BeamSearch(decode.Options(**options), vocabulary, "pieces.model")
    log_probs = np.log(np.array([[0.01, 0.97, 0.01, 0.01], [0.1, 0.01, 0.45, 0.44]]))
    # "A B" has a word that the model does not know
    tokens, score = search.best(log_probs)
    assert [vocabulary[t] for t in tokens] == ["\u2581A", "B"]
    assert score == pytest.approx(np.log(0.97 * 0.45) - 1 - 0.5 - 1, abs=1e-6)
    tree = decode.Prefixes(search)
    place = tree.child(tree.child(0, 3), 3)  # "B B": one word is finished
    assert tree.nodes[place].word == "B" and tree.nodes[place].score == pytest.approx(-1.5)
    with pytest.raises(ConfigError, match="whose pieces do not show where a word ends: use ''"):
        decode.BeamSearch(decode.Options(beam=2, lexicon="words.txt"), vocabulary, "pieces.model")


@pytest.mark.parametrize("kind", ["model", "json"])
def test_a_file_that_cannot_be_used_is_named(kind, tmp_path):
    path = str(tmp_path / f"pieces.{kind}")
    with pytest.raises(DataError, match=r"spelling is '.*pieces.*', which does not exist: give"):
        piece_models.open_model(path)
    (tmp_path / f"pieces.{kind}").write_text("{}")
    with pytest.raises(DataError, match=r"cannot be read|names a file of .* not installed"):
        piece_models.open_model(path)


def test_pieces_without_the_mark_of_a_word_are_refused(tmp_path):
    library = pytest.importorskip("tokenizers")
    plain = library.Tokenizer(library.models.BPE({"a": 0, "b": 1}, []))
    plain.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="no piece that begins a word with"):
        piece_models.open_model(str(tmp_path / "tokenizer.json"))


def test_a_model_of_sentencepiece_is_read(tmp_path):
    library = pytest.importorskip("sentencepiece")
    prefix = str(tmp_path / "pieces")
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=prefix, vocab_size=25, minloglevel=2
    )
    found = piece_models.open_model(f"{prefix}.model")
    assert "<unk>" not in found.pieces and "".join(found.cut("the theme")).strip("\u2581")
    assert transcripts.join(found.cut("the theme"), f"{prefix}.model") == "the theme"
