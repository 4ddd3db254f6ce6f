"""The units of a classifier are those named in the files next to it; nothing is guessed."""

import json

import numpy as np
import pytest
from hub_cases import VOCAB, config_json, golden

from ssl_jax.core import config as config_lib
from ssl_jax.hub import families, files, vocabulary
from ssl_jax.hub.speech import BLANK, LETTERS
from ssl_jax.hub.table import WeightsError
from ssl_jax.stages import weights

# the files that the usual fine-tuning tutorial produces
LOWER = {c: i for i, c in enumerate("'abcdefghijklmnopqrstuvwxyz")}
TUTORIAL = LOWER | {"|": 27, "[UNK]": 28, "[PAD]": 29}
ADDED = {"<s>": 30, "</s>": 31}


def tokens(config, rows, **beside):
    """Returns the units according to config.json and the files of the given names."""
    names = {
        "vocab": vocabulary.VOCAB,
        "added": vocabulary.ADDED,
        "special": "special_tokens_map.json",
    }
    names["tokenizer"] = vocabulary.TOKENIZER
    tokenizer = {names[k]: v for k, v in beside.items()}
    return vocabulary.tokens({"tokenizer": tokenizer, **config}, rows, "config.json")


def decoder(tokens):
    """Returns tokens in the form of added tokens in tokenizer_config.json."""
    return {"added_tokens_decoder": {str(i): {"content": t} for t, i in tokens.items()}}


@pytest.mark.parametrize(
    "beside", [{"added": ADDED}, {"tokenizer": decoder(ADDED) | {"pad_token": "[PAD]"}}]
)
def test_added_tokens_are_read(beside):
    found = tokens({"vocab_size": 32, "pad_token_id": 29}, 32, vocab=TUTORIAL, **beside)
    assert found == (BLANK, *LOWER, "|", "[UNK]", "<s>", "</s>")


def test_the_published_vocabulary_is_that_of_letters():
    assert tokens({"vocab_size": 32, "pad_token_id": 0}, 32, vocab=VOCAB) == LETTERS
    assert tokens({}, 32, vocab=VOCAB) == LETTERS


def test_languages_are_chosen_by_the_tokenizer():
    vocab = {"eng": {"<pad>": 0, "a": 1}, "deu": {"<pad>": 0, "ß": 1, "a": 2}}
    assert tokens({}, 3, vocab=vocab, tokenizer={"target_lang": "deu"}) == (BLANK, "ß", "a")
    assert tokens({}, 2, vocab={"eng": vocab["eng"]}) == (BLANK, "a")
    with pytest.raises(WeightsError, match=r"has 2 languages \(eng, deu\), and target_lang .*None"):
        tokens({}, 3, vocab=vocab)
    with pytest.raises(WeightsError, match=r"target_lang of tokenizer_config.json is 'fra'"):
        tokens({}, 3, vocab=vocab, tokenizer={"target_lang": "fra"})


SMALL = {"<pad>": 0, "a": 1, "b": 2}
WRONG = {
    "none": ({}, 32, {}, "a classifier of 32 tokens, and no file next to it names"),
    "only added": ({}, 2, {"added": ADDED}, "no file next to it names them"),
    "too few": ({"pad_token_id": 29}, 32, {"vocab": TUTORIAL}, "has 32 rows, .* has 30 tokens"),
    "too many": ({}, 2, {"vocab": SMALL}, "has 2 rows, .* has 3 tokens"),
    "vocab_size": (
        {"vocab_size": 4},
        3,
        {"vocab": SMALL},
        "has 3 rows, its config has vocab_size 4",
    ),
    "shared": ({}, 3, {"vocab": SMALL | {"c": 2}}, "gives 'c' and 'b' the number 2"),
    "hole": ({}, 4, {"vocab": SMALL | {"c": 4}}, "no token of its vocab.json has the number 3"),
    "two numbers": ({}, 3, {"vocab": SMALL, "added": {"b": 3}}, "the numbers 2 and 3"),
    "no number": ({}, 3, {"vocab": SMALL | {"b": "2"}}, "gives 'b' the number '2'"),
    "truth": ({}, 3, {"vocab": SMALL | {"a": True}}, "gives 'a' the number True"),
    "blank": (
        {"pad_token_id": 1},
        3,
        {"vocab": SMALL},
        "pad_token_id is 1, and its tokenizer's padding token '<pad>' has the number 0",
    ),
    "blank unsaid": (
        {},
        30,
        {"vocab": TUTORIAL},
        r"pad_token_id is 0, .* '\[PAD\]' has the number 29",
    ),
    "pad renamed": (
        {"pad_token_id": 0},
        3,
        {"vocab": SMALL, "special": {"pad_token": {"content": "b"}}},
        "padding token 'b' has the number 2",
    ),
    "pad unknown": ({}, 3, {"vocab": SMALL, "tokenizer": {"pad_token": "_"}}, "number None"),
    "blank outside": ({"pad_token_id": 9}, 2, {"vocab": {"a": 0, "b": 1}}, "no token has that"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_vocabulary_that_does_not_fit_is_refused(name):
    config, rows, beside, message = WRONG[name]
    with pytest.raises(WeightsError, match=rf"^config.json.*{message}"):
        tokens(config, rows, **beside)


def folder_of(tmp_path, **beside):
    """Writes a tiny HuBERT with a classifier of 32 units."""
    arrays = {k: np.zeros(s, np.float32) for k, s in golden("hubert ctc").items()}
    files.write(tmp_path, arrays, {"config.json": config_json("hubert ctc")})
    for name, content in beside.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_a_folder_without_vocab_json_is_refused_for_ctc_alone(tmp_path):
    folder = folder_of(tmp_path / "in")
    recipe = "configs/ctc/speech.py:toy"
    with pytest.raises(
        WeightsError, match=r"config.json has a classifier of 32 tokens, and no file"
    ):
        weights.import_run(folder, tmp_path / "run", recipe, (), lambda text: None)
    found = files.read(folder)
    config = weights._config(families.FAMILIES["hubert"], found, "configs/hubert/audio.py:toy", ())
    assert config.method.name == "hubert"


def test_the_files_of_a_folder_name_the_classes_of_the_run(tmp_path):
    special = {"pad_token": "<pad>"}
    folder = folder_of(tmp_path, vocab=VOCAB, special_tokens_map=special)
    found = weights._plain(families.FAMILIES["hubert"], files.read(folder))
    config = weights._config(families.FAMILIES["hubert"], found, "configs/ctc/speech.py:toy", ())
    assert config.data.classes == LETTERS


def test_an_encoder_alone_takes_the_units_of_the_recipe():
    source = files.Source(config_json("hubert"), {}, "here")
    data = config_lib.load("configs/ctc/speech.py:toy").data
    assert weights._vocabulary(source, data) == LETTERS
    data.unlock().spelling = "characters"
    with pytest.raises(WeightsError, match=r"no classifier, and the recipe names no tokens"):
        weights._vocabulary(source, data)


def test_a_dictionary_of_fairseq_lies_beside_its_checkpoint(tmp_path):
    path = tmp_path / "dict.ltr.txt"
    path.write_text("".join(f"{u} {9 - i}\n" for i, u in enumerate("|ba")), encoding="utf-8")
    found = vocabulary.beside(tmp_path / "a.pt", "ltr")
    assert vocabulary.tokens({"dictionary": found}, 7, "a.pt")[:6] == (
        *(BLANK, "<pad>", "</s>", "<unk>"),
        *"|b",
    )
    assert vocabulary.beside(tmp_path / "a.pt", "../ltr") == found
    assert vocabulary.beside(tmp_path / "a.pt", "phn") == []
    path.write_text("a 1\na 2\n", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"dict.ltr.txt names 'a' twice"):
        vocabulary.beside(tmp_path / "a.pt", "ltr")


def test_names_of_an_export_are_different():
    assert vocabulary.vocab_json(LETTERS) == VOCAB
    with pytest.raises(WeightsError, match="no names for all three"):
        vocabulary.vocab_json((BLANK, "<pad>", "<s>"))
