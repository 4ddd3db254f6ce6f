"""TextGrids in both formats, and the readers of L2-ARCTIC and speechocean762."""

import json
import math

import pytest

from ssl_jax.data import phones
from ssl_jax.data.errors import DataError
from ssl_jax.data.readers import l2_arctic, speechocean762, textgrid
from ssl_jax.data.readers.sources import open_source

HEAD = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'


def long_format(marks, tier="phones"):
    rows = [f"xmin = 0 \nxmax = {len(marks)} \ntiers? <exists> \nsize = 2 \nitem []: "]
    rows.append('    item [1]:\n        class = "TextTier" \n        name = "notes" ')
    rows.append('xmin = 0\nxmax = 9\npoints: size = 1\npoints [1]:\nnumber = .5\nmark = "a ""b"""')
    rows.append(f'    item [2]:\n        class = "IntervalTier" \n        name = "{tier}" ')
    rows.append(f"        xmin = 0 \n        xmax = 9 \n        intervals: size = {len(marks)} ")
    for i, mark in enumerate(marks):
        rows.append(f"        intervals [{i + 1}]:\n            xmin = {i} ")
        rows.append(f'            xmax = {i + 1} \n            text = "{mark}" ')
    return HEAD + "\n".join(rows) + "\n"


def short_format(marks):
    body = "".join(f'{i}\n{i + 1}\n"{mark}"\n' for i, mark in enumerate(marks))
    return HEAD + f'0\n9\n<exists>\n1\n"IntervalTier"\n"phones"\n0\n9\n{len(marks)}\n{body}'


def test_both_formats_give_the_same_marks(tmp_path):
    file = tmp_path / "a.TextGrid"
    found = []
    for make in (long_format, short_format):
        file.write_text(make(["AH1", "DH,D,s"]))
        found.append(textgrid.read(file))
    assert found[0]["notes"] == [(0.5, 0.5, 'a "b"', 17)]
    assert [mark[:3] for mark in found[0]["phones"]] == [(0, 1, "AH1"), (1, 2, "DH,D,s")]
    assert [mark[:3] for mark in found[1]["phones"]] == [mark[:3] for mark in found[0]["phones"]]
    assert found[1]["phones"][1].row == 18


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing\n", r"row 1: no TextGrid: expected 'ooTextFile', found ''"),
        (short_format(["A"])[:-20], "ends early: it has fewer marks than it says"),
        (short_format(["A"]).replace("<exists>\n1", '<exists>\n"x"'), "row 7: expected a number"),
        (short_format(["A"]).replace('"A"', "5"), "row 15: expected a text in quotes"),
    ],
)
def test_a_broken_textgrid_is_named(tmp_path, content, message):
    (tmp_path / "a.TextGrid").write_text(content)
    with pytest.raises(DataError, match=f"a.TextGrid.*{message}"):
        textgrid.read(tmp_path / "a.TextGrid")


def test_marks_of_l2_arctic():
    marks = ("AH1", "AH0,sil,d", "sil,T,a", "DH,D*,s", "V, err, s", "sp")
    found = [l2_arctic.parse(mark) for mark in marks]
    pairs = ("AH", "AH"), ("AH", "-"), ("-", "T"), ("DH", "D"), ("V", "ERR"), ("SIL", "SIL")
    assert found == list(pairs)
    assert l2_arctic.sides([*found, ("SIL", "SIL")])[1] == ["AH", "T", "D", "ERR", "SIL"]
    text = phones.pairs_text(found)
    assert text == "AH AH>- ->T DH>D V>ERR SIL" and phones.pairs_of(text) == found


@pytest.fixture
def l2(tmp_path, write):
    for speaker, count in (("ABA", 11), ("TLV", 1)):
        for i in range(count):
            write(tmp_path / speaker / "wav" / f"arctic_a{i:04}.wav", 0.3, 44_100)
            for kind in ("annotation", "transcript"):
                (tmp_path / speaker / kind).mkdir(exist_ok=True)
            marks = long_format(["sil", "DH,D,s", "AH0", "T,sil,d", "sp"])
            if i < 10:
                (tmp_path / speaker / "annotation" / f"arctic_a{i:04}.TextGrid").write_text(marks)
            (tmp_path / speaker / "transcript" / f"arctic_a{i:04}.txt").write_text("The t")
    return tmp_path


def opened(path, split="train", **options):
    return open_source(f"{split}.x", {"path": str(path), **options})


def test_l2_arctic(l2):
    source = opened(l2, kind="l2_arctic")
    columns = {name: column.tolist() for name, column in source.columns.items()}
    assert columns["speaker"] == ["ABA"] * 11 + ["TLV"]
    assert columns["split"] == ["train"] * 9 + ["valid", "train", "test"]
    assert columns["annotated"] == ["yes"] * 10 + ["no", "yes"]
    assert columns["text"][0] == "The t"
    assert columns["canonical"][0] == "SIL DH AH T SIL" and columns["canonical"][10] == ""
    assert columns["perceived"][0] == "SIL D AH SIL"
    assert columns["pairs"][0] == "SIL DH>D AH T>- SIL"
    assert len(opened(l2, kind="l2_arctic", where={"split": "test", "annotated": "yes"})) == 1


def test_an_unknown_mark_names_its_file_and_row(l2):
    file = l2 / "ABA" / "annotation" / "arctic_a0003.TextGrid"
    for bad, message in (
        ("DH,D,x", "'DH,D,x' is no mark: use a phone, such as 'AH1', or"),
        ("DH,D", "'DH,D' is no mark"),
        ("QX", "'QX' is no phone: use one of AA AE"),
    ):
        file.write_text(short_format(["AH", bad]))
        with pytest.raises(DataError, match=f"arctic_a0003.TextGrid, row 18: {message}"):
            opened(l2, kind="l2_arctic")
    assert len(opened(l2, kind="l2_arctic", leave_out=("ABA/arctic_a0003",))) == 11
    with pytest.raises(DataError, match="leave_out names 'ABA/a0003', not an utterance: use such"):
        opened(l2, kind="l2_arctic", leave_out=("ABA/a0003",))
    file.write_text(long_format([], tier="words"))
    with pytest.raises(DataError, match=r"has no tier 'phones', but \['notes', 'words'\]"):
        opened(l2, kind="l2_arctic")


def said(index, canonical, what):
    return {"index": index, "canonical-phone": canonical, "pronounced-phone": what}


WORDS = [
    {
        "phones": ["CH", "EH1", "R", "IY0"],
        "phones-accuracy": [0.4, 2, 0.2, 1.8],
        "mispronunciations": [said(0, "CH", "T R"), said(2, "R", "<DEL>")],
    },
    {
        "phones": "K AH0 P",
        "phones-accuracy": [0, 0.4, 0],
        "mispronunciations": [said(0, "K", "<unk>"), said(1, "AH", "AH*"), said(2, "P", "<unk>")],
    },
    {"phones": ["S"], "phones-accuracy": [0.3], "mispronunciations": [said(0, "S", "TH*")]},
    {"phones": ["IY0"]},
]


@pytest.fixture
def ocean(tmp_path, write):
    write(tmp_path / "WAVE" / "SPEAKER0001" / "1.WAV", 0.3, format="WAV")
    (tmp_path / "train").mkdir()
    for name, row in {
        "wav.scp": "1\tWAVE/SPEAKER0001/1.WAV",
        "utt2spk": "1\t0001",
        "spk2age": "0001\t9",
        "spk2gender": "0001\tf",
    }.items():
        (tmp_path / "train" / name).write_text(row + "\n")
    (tmp_path / "resource").mkdir()
    return write_scores(tmp_path, WORDS)


def write_scores(path, words):
    scores = {"1": {"text": "CHERRY CUP S E", "words": words}}
    (path / "resource" / "scores.json").write_text(json.dumps(scores))
    return path


def test_speechocean762(ocean):
    columns = {n: c.tolist()[0] for n, c in opened(ocean, kind="speechocean762").columns.items()}
    about = ("speaker", "age", "gender", "text", "split")
    assert [columns[n] for n in about] == ["0001", "9", "f", "CHERRY CUP S E", "train"]
    assert columns["canonical"] == "CH EH R IY K AH P S IY"
    assert columns["perceived"] == "T R EH IY ERR ERR ERR TH IY"
    assert columns["pairs"] == "CH>T ->R EH R>- IY K>ERR AH>ERR P>ERR S>TH IY"
    assert columns["unrecognized"] == "0.25"
    found = speechocean762.scored(columns["canonical"], columns["phone_scores"])
    assert found[:2] == [("CH", 0.4), ("EH", 2.0)] and math.isnan(found[-1][1])


def test_policies_of_speechocean762(ocean):
    source = opened(ocean, kind="speechocean762", starred="phone", several="first")
    assert source.columns["perceived"].tolist() == ["T EH IY ERR AH ERR TH IY"]


def test_speechocean762_names_what_is_wrong(ocean):
    for options, message in (
        ({"starred": "drop"}, "starred is 'drop': use 'error' or 'phone'"),
        ({"split": "valid"}, "split is 'valid': use 'train' or 'test'"),
        ({"split": "test"}, "has no test/wav.scp"),
    ):
        with pytest.raises(DataError, match=message):
            opened(ocean, kind="speechocean762", **options)
    for bad, message in (
        (said(0, "S", "QX"), "'QX' is no phone: use one of .* ERR, its name with "),
        (said(1, "S", "TH"), "phone 'S' is not number 1 of S: count from 0"),
    ):
        write_scores(ocean, [*WORDS[:2], {"phones": ["S"], "mispronunciations": [bad]}])
        with pytest.raises(DataError, match=f"scores.json, utterance '1', word 3: {message}"):
            opened(ocean, kind="speechocean762")
    (ocean / "train" / "wav.scp").write_text("2\ta.wav\n")
    with pytest.raises(DataError, match=r"wav.scp, row 1: '2' is not in .*scores.json"):
        opened(ocean, kind="speechocean762")


def test_scores_of_the_table_of_the_index():
    found = speechocean762.scored("W IY0 | K AO0 L", "2.0 0.4 | ? 1.8 1.8")
    assert found[1] == ("IY", 0.4) and math.isnan(found[2][1]) and len(found) == 5
    with pytest.raises(DataError, match="2 phones, and 1 scores"):
        speechocean762.scored("W IY0", "2.0")
