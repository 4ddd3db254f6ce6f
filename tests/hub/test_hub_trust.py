"""Torch files are only data here: nothing that they name is run, and their sizes are bounded."""

import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ssl_jax.hub import fairseq, files, pickles, torch_files
from ssl_jax.hub.table import WeightsError

TWO = np.arange(2, dtype=np.float32)


def tensor(size=b"K\x02", count=b"K\x02", key=b"0"):
    """Returns torch's pickle instructions for a tensor (size,) of `count` numbers."""
    kind = b"ctorch\nFloatStorage\n"
    text = b"X" + struct.pack("<I", len(key)) + key
    storage = b"(X\x07\0\0\0storage" + kind + text + b"X\x03\0\0\0cpu" + count + b"tQ"
    shape = size + b"\x85" + b"K\x01\x85"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + shape + b"\x89NtR"


def weights_pickle(body=None):
    """Returns the pickle of {"a": body}."""
    return b"\x80\x02}X\x01\0\0\0a" + (tensor() if body is None else body) + b"s."


def archive(path, data=None, more=(), compression=zipfile.ZIP_STORED, first=TWO):
    """Writes a torch archive by hand."""
    with zipfile.ZipFile(path, "w", compression) as out:
        out.writestr("a/data.pkl", weights_pickle() if data is None else data)
        out.writestr("a/data/0", bytes(first))
        for name, content in more:
            out.writestr(name, content)
    return path


def test_an_archive_is_read_without_torch(tmp_path):
    found = torch_files.read(archive(tmp_path / "a.pt", more=[("a/version", "3\n")]))
    np.testing.assert_array_equal(found["a"], TWO)
    big = archive(tmp_path / "b.pt", more=[("a/byteorder", "big")])
    np.testing.assert_array_equal(torch_files.read(big)["a"], TWO.view(">f4"))


RUNS = b"cos\nsystem\n(X\x06\0\0\0exit 1tR"


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.jit.load", "numpy.load"])
def test_what_a_pickle_calls_is_not_called(name, tmp_path):
    module, function = name.rsplit(".", 1)
    body = RUNS.replace(b"os\nsystem", f"{module}\n{function}".encode())
    found = torch_files.read(archive(tmp_path / "a.pt", weights_pickle(body)))["a"]
    assert isinstance(found, pickles.Stub)
    assert (found.name, found.args) == (name, ("exit 1",))
    with pytest.raises(WeightsError, match=rf"here: a is {name}, not a plain tensor"):
        torch_files.as_numpy(found, "a", "here")


def laughs(levels):
    """Returns a pickle of nested lists, each ten times the previous: 10^levels items, few bytes."""
    body = b"\x80\x02]q\0"
    for i in range(levels):
        get = b"h" + bytes([i])
        body += b"](" + get * 10 + b"eq" + bytes([i + 1])
    return body + b"."


REFUSED = {
    "nests": (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "nests deeper than 100"),
    "tuples": (b"\x80\x02)" + b"\x85" * 5000 + b".", "nests deeper than 100"),
    "integer": (b"\x80\x02\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000 + b".", "127 bits"),
    "claimed text": (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
    "claimed bytes": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.", "damaged"),
    "no end": (b"\x80\x02}", "damaged"),
    "no stack": (b"\x80\x02.", "damaged"),
    "extension": (b"\x80\x02\x82\x01.", "EXT1, which is not supported"),
    "long key": (b"\x80\x02}\x8a\x09" + b"\x01" * 9 + b"K\x01s.", "key of more than 63 bits"),
    "deep key": (b"\x80\x02})\x85\x85K\x01s.", "a key that is tuple"),
    "storage larger": (weights_pickle(tensor(count=b"J\xff\xff\xff\x7f")), "claims 8589934588"),
    "tensor larger": (weights_pickle(tensor(size=b"K\x03")), "3 values over data of 2"),
    "other numbers": (weights_pickle(tensor(key=b"9")), "no item named"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_pickle_without_bounds_is_refused_and_fills_no_memory(name, tmp_path):
    data, message = REFUSED[name]
    path = archive(tmp_path / "bad.pt", data)
    tracemalloc.start()
    with pytest.raises(WeightsError, match=rf"bad.pt is not a torch checkpoint: .*{message}"):
        torch_files.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_tensors_that_repeat_one_storage_are_counted(tmp_path):
    made = tensor(size=b"M\xe8\x03", count=b"M\xe8\x03")
    again = made.replace(b"v2\n", b"v2\nq\0")[:-1] + b"q\1R" + b"h\0h\1R" * 50
    path = archive(tmp_path / "a.pt", weights_pickle(b"(" + again + b"l"), first=bytes(4000))
    with pytest.raises(WeightsError, match="over 8 times as large as the file"):
        torch_files.read(path)


def test_changed_bytes_are_read_or_refused_in_one_way(tmp_path):
    draw, said = np.random.default_rng(0), []
    whole = b"\x80\x02}X\x05\0\0\0model" + weights_pickle()[2:-1] + b"s."
    for _ in range(300):
        data = bytearray(whole)
        data[draw.integers(2, len(data))] = draw.integers(256)
        try:
            fairseq.read(archive(tmp_path / "a.pt", bytes(data)))
        except WeightsError as error:
            said.append(str(error))
    assert len(said) == 300 and all("a.pt" in text and "\n" not in text[:-1] for text in said)


def test_steps_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_STEPS", 100)
    path = archive(tmp_path / "a.pt", b"\x80\x02" + b"N0" * 60 + b"}.")
    with pytest.raises(WeightsError, match="more than 100 steps"):
        torch_files.read(path)


def test_a_config_that_repeats_itself_is_refused(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_STEPS", 8000)
    with pytest.raises(pickles.PickleError, match="holds more than 1,000 values"):
        pickles.plain(pickles.Machine({}, lambda given: given).load(files_of(laughs(9))))
    loop: list = []
    loop.append(loop)
    with pytest.raises(pickles.PickleError, match="nests deeper than 100"):
        pickles.plain(loop)


def files_of(data):
    """Returns bytes as a file."""
    import io

    return io.BytesIO(data)


MEMBERS = [
    ([("a/code/__torch__.py", "def forward(self): ...")], "TorchScript archive .'code/__torch__"),
    ([("a/constants.pkl", b"\x80\x02).")], "TorchScript archive .'constants.pkl'"),
    ([("a/other.bin", b"")], "member 'other.bin', which torch.save does not write"),
    ([("../x", b"")], "member '../x'"),
    ([("a/data/0", b"")], "two members with the same name"),
]


@pytest.mark.parametrize(("more", "message"), MEMBERS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_other_members_is_refused(more, message, tmp_path):
    path = archive(tmp_path / "a.pt", b"not even a pickle", more)
    with pytest.raises(WeightsError, match=rf"a.pt is not a torch checkpoint: .*{message}"):
        torch_files.read(path)


def test_compressed_archives_tars_and_bare_pickles_are_refused(tmp_path):
    squeezed = archive(tmp_path / "a.pt", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="is compressed or encrypted"):
        torch_files.read(squeezed)
    for name, content in (("b.pt", pickle.dumps({"a": 1})), ("c.pt", b"ustar"), ("d.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            WeightsError, match=rf"{name} is not a torch checkpoint.* neither an archive"
        ):
            torch_files.read(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "[(8, 10, 5)] * 1000000000",
        "[(8, 10, 5)] * 60 + [(8, 3, 2)] * 60",
        "9 ** 9 ** 9",
        "[" * 400 + "]" * 400,
        "+".join(["[]"] * 5000),
        "__import__('os').getpid()",
        "[(8, 10)]",
    ],
)
def test_layers_that_are_no_sum_of_lists_are_refused(text):
    with pytest.raises(WeightsError, match=r"a.pt: conv_feature_layers is "):
        fairseq.conv_layers(text, "a.pt")


def test_an_index_names_files_of_its_own_folder(tmp_path):
    from safetensors.numpy import save_file

    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "hubert"}')
    save_file({"x": TWO}, tmp_path / "out.safetensors")
    for name in ("../out.safetensors", str(tmp_path / "out.safetensors"), "in/..", "b.bin", 3):
        (folder / files.INDEX).write_text(json.dumps({"weight_map": {"x": name}}))
        with pytest.raises(WeightsError, match=r"json: .* is not a .safetensors file next to it"):
            files.read(folder)
    (folder / files.INDEX).write_text(json.dumps({"weight_map": ["x"]}))
    with pytest.raises(WeightsError, match=r"index.json has no weight_map"):
        files.read(folder)


def test_json_that_nests_or_is_huge_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(WeightsError, match=r"config.json is no JSON"):
        files.read(tmp_path)
    monkeypatch.setattr(files, "MAX_JSON", 10)
    with pytest.raises(WeightsError, match=r"config.json has 100000 bytes: up to 10 are read"):
        files.read(tmp_path)


@pytest.mark.parametrize(("key", "most"), [("num_hidden_layers", 1000), ("hidden_size", 1000000)])
def test_sizes_beyond_any_model_are_refused(key, most):
    for value in (10**9, -1, "12", 1.5, True):
        with pytest.raises(WeightsError, match=rf"a.json: {key} is .*: use 1 to {most}"):
            files.check_sizes({key: value}, Path("a.json"))
    files.check_sizes({key: None, "vocab_size": None}, Path("a.json"))
    with pytest.raises(WeightsError, match="conv_dim is not a list of at most 1000 numbers"):
        files.check_sizes({"conv_dim": [8] * 1001}, Path("a.json"))


def test_sizes_of_a_folder_and_of_a_checkpoint_are_looked_at(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": TWO}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "hubert", "num_hidden_layers": 9999999}')
    with pytest.raises(WeightsError, match="num_hidden_layers is 9999999: use 1 to 1000"):
        files.read(tmp_path)
    layers = b"}X\x05\0\0\0_nameX\x06\0\0\0hubertsX\x0e\0\0\0encoder_layersJ\xff\xff\xff\x7fs"
    data = (
        b"\x80\x02}X\x04\0\0\0args" + layers + b"sX\x05\0\0\0model" + weights_pickle()[2:-1] + b"s."
    )
    with pytest.raises(WeightsError, match="num_hidden_layers is 2147483647: use 1 to 1000"):
        fairseq.read(archive(tmp_path / "a.pt", data))


@pytest.mark.interop
def test_files_of_torch_are_read_as_torch_reads_them(tmp_path):
    import torch

    whole = torch.arange(24.0).reshape(4, 6)
    content = {
        "part": whole[1:, ::2],
        "turned": whole.t(),
        "half": whole.half(),
        "short": whole.bfloat16(),
        "count": torch.tensor(3),
        "none": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    for name, older in (("new.pt", False), ("old.pt", True)):
        path = tmp_path / name
        torch.save({"model": content}, path, _use_new_zipfile_serialization=not older)
        found = torch_files.read(path)["model"]
        assert found.keys() == content.keys()
        for key, x in content.items():
            want = x.detach()
            want = (want.float() if want.is_floating_point() else want).numpy()
            np.testing.assert_array_equal(torch_files.as_numpy(found[key], key, path), want)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(WeightsError, match=rf"{name} is not a torch checkpoint"):
            torch_files.read(path)


@pytest.mark.interop
@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
def test_a_program_of_torch_is_refused_before_torch_sees_it(name, tmp_path, monkeypatch):
    import torch

    class Model(torch.nn.Module):
        def forward(self, x):
            return x + 1

    torch.jit.script(Model()).save(str(tmp_path / name))
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    for module, call in ((torch, "load"), (torch.jit, "load")):
        monkeypatch.setattr(module, call, None)
    reader = fairseq if name.endswith(".pt") else files
    with pytest.raises(WeightsError, match=r"it is a TorchScript archive"):
        reader.read(tmp_path / name)
