"""README.md and docs/*.md: commands, keys, flags, files and links exist, and commands run."""

import contextlib
import importlib
import io
import json
import os
import re
import sys

import docs_pages as pages
import numpy as np
import pytest
import train_corpus
from own_corpus import write_recordings
from run_folder import make_run
from test_house import required

from ssl_jax import train
from ssl_jax.core import config as config_lib
from ssl_jax.engine import log
from ssl_jax.nn import build

NAMES = [path.relative_to(pages.ROOT).as_posix() for path in pages.PAGES]
COMMANDS = {n: pages.blocks(p)[0] for n, p in zip(NAMES, pages.PAGES, strict=True)}
CODES = [code for path in pages.PAGES for code in pages.blocks(path)[1]]
EVERY = [command for found in COMMANDS.values() for command in found]
MADE_BY = {c.flag("--workdir"): c for c in reversed(EVERY) if c.flag("--workdir")}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the config files that the pages write."""
    folder = tmp_path_factory.mktemp("files")
    for code in CODES:
        if code.file:
            (folder / code.file).write_text(code.text)
    return folder


@pytest.mark.parametrize("page", NAMES)
def test_what_a_page_names_exists(page, files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", [*sys.path, str(pages.ROOT)])
    path = pages.ROOT / page
    absent = [x for x in pages.links(path) if not (path.parent / x).exists()]
    absent += [x for x in pages.named_files(path) if not (pages.ROOT / x).exists()]
    assert not absent, f"{page} names files that are not there"
    wrong = {f"line {c.line}: {c}": why for c in COMMANDS[page] if (why := check(c))}
    assert not wrong


@pytest.mark.parametrize("page", pages.EXPERIMENTS, ids=lambda path: path.parent.name)
def test_what_the_page_of_an_experiment_names_exists(page):
    absent = [x for x in pages.links(page) if not (page.parent / x).exists()]
    absent += [x for x in pages.named_files(page) if not (pages.ROOT / x).exists()]
    assert not absent, f"{page} names files that are not there"


def check(command: pages.Command) -> str:
    """Returns what is wrong with a command, or ''."""
    words = command.words
    if words[0] not in pages.LOCAL or words[0] == "pytest":
        return ""
    if words[0] == "pip":
        own = [w for w in words if re.match(r"(\.|ssl_jax)\[", w)]
        named = set(re.findall(r"[\w-]+", " ".join(w.partition("[")[2] for w in own)))
        return f"no extra {named - set(required())}" if named - set(required()) else ""
    if words[1] != "-m":
        return "" if (pages.ROOT / words[1]).is_file() else f"no file {words[1]}"
    module, rest = pages.module_of(command), words[3:]
    if module == "pytest":
        absent = [w for w in rest if w.startswith("tests/") and not (pages.ROOT / w).exists()]
        return f"no {absent}" if absent else ""
    known = flags(module, tuple(w for w in rest[:1] if module.endswith("convert")))
    given = [w.partition("=")[0] for w in rest if w.startswith("--")]
    if module.endswith("pipeline"):
        known |= {f"--{name}" for name in pages.options_of(pages.ROOT / rest[0])}
    unknown = [f for f in given if not f.startswith("--config.") and f not in known]
    if unknown:
        return f"no flag {unknown}"
    return check_config(command, [w for w in rest if w.startswith("--config.")])


def flags(module: str, subcommand: tuple[str, ...]) -> set[str]:
    """Returns the flags listed in the help of a module."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(module).main([*subcommand, "--help"])
    return set(re.findall(r"--[\w-]+", text.getvalue()))


def check_config(command: pages.Command, overrides: list[str]) -> str:
    """Loads the config of a command, or of the command that made its run, with its overrides."""
    path, protocol = command.flag("--config"), command.flag("--protocol")
    named = path or overrides or protocol
    if not named or path.endswith("config.json") or path == "C":  # C: any config
        return ""
    function = "get_config"
    if protocol:
        path, function = protocol, "get_protocol"
    elif not path:
        run = command.flag("--run")
        if run not in MADE_BY:
            return f"no command makes {run}"
        path = MADE_BY[run].flag("--config")
    try:
        config_lib.load(path, overrides, function)
    except config_lib.ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("code", CODES, ids=lambda c: f"{c.page}:{c.line}")
def test_python_of_a_page_compiles(code):
    compile(code.text, f"{code.page}:{code.line}", "exec")


def test_every_command_is_run_by_a_test():
    for file, words in (*pages.ELSEWHERE.values(), *pages.PAGES_ELSEWHERE.values()):
        assert words in (pages.ROOT / file).read_text(), f"{file} no longer runs it"
    assert len(EVERY) > 20
    for starts in (pages.ELSEWHERE, pages.CONFIGS):
        unused = [s for s in starts if not any(s in str(c) for c in EVERY)]
        assert not unused, "no page has these any more"


def test_the_page_of_the_install_names_every_extra():
    page = (pages.ROOT / "docs" / "install.md").read_text()
    listed = page.partition("| extra |")[2]
    assert set(required()) - {""} <= set(re.findall(r"`(\w+)`", listed))


def test_the_keys_of_the_map_from_other_libraries_exist():
    page = (pages.ROOT / "docs" / "coming_from.md").read_text()
    known = set()
    for name in ("hubert/audio.py", "data2vec2/audio.py:own", "ctc/speech.py:base_10h"):
        config = config_lib.load(str(pages.ROOT / "configs" / name))
        known |= set(config_lib.flatten(config))
        # the listing has the values of presets too
        known |= {f"method.encoder.{word}" for word in re.findall(r"\w+", build.listing(config))}
    named = set(re.findall(r"`(?:--)?config\.([a-z_0-9.]+)", page))
    absent = [n for n in named if not any(f"{key}.".startswith(f"{n}.") for key in known)]
    assert len(named) > 20 and not absent


def test_links_to_sections_lead_somewhere():
    absent = [
        f"{page.name}: {target}#{anchor}"
        for page in pages.PAGES
        for target, anchor in re.findall(r"\]\((\S*\.md)#([^)\s]+)\)", page.read_text())
        if anchor not in pages.anchors(page.parent / target)
    ]
    assert not absent


def test_a_wrong_page_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "See [x](gone.md) and `configs/gone.py`.\n\n"
        "    python -m ssl_jax.train --config configs/mae/image.py --workdir runs/a \\\n"
        "        --config.optim.no_such=1 && pip install '.[nothing]'\n\n"
        "```bash\n"
        "$ python -m ssl_jax.train --config configs/mae/image.py --workdir r --flag 1\n"
        "```\n"
        "```\npython -m ssl_jax.evaluate --run runs/unknown --config.seed=1  # a comment\n```\n"
        "    what a program prints\n"
    )
    assert pages.links(page) == ["gone.md"] and pages.named_files(page) == ["configs/gone.py"]
    found, _ = pages.blocks(page)
    assert [c.line for c in found] == [3, 3, 7, 10]
    why = [check(c) for c in found]
    assert "config.optim.no_such does not exist" in why[0] and "nothing" in why[1]
    assert why[2] == "no flag ['--flag']" and why[3] == "no command makes runs/unknown"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the files that the pages assume: recordings of all kinds, music, labels."""
    folder = tmp_path_factory.mktemp("home")
    write_recordings(folder)
    train_corpus.write_corpus(folder / "data" / "speech_commands_v2")
    os.symlink(pages.ROOT / "experiments", folder / "experiments")
    for code in CODES:
        if code.file:
            (folder / code.file).write_text(code.text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Home(folder)


class Home:
    """Runs each command once, at toy size, after those that make the runs it reads."""

    def __init__(self, folder):
        self.folder, self.told = folder, {}

    def run(self, command: pages.Command) -> str:
        """Returns what a command prints."""
        words = pages.toy(command).words
        if words not in self.told:
            self.need(command)
            self.told[words] = ""  # a command that needs itself would never end
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                code = importlib.import_module(pages.module_of(command)).main(list(words[3:]))
            assert not code
            self.told[words] = out.getvalue()
        return self.told[words]

    def need(self, command: pages.Command) -> None:
        """Makes the runs named in a command."""
        made = command.flag("--workdir")
        for run in sorted(set(re.findall(r"runs/\w+", str(command))) - {made}):
            self.make(run)
        if "labels.tsv" in str(command):
            self.run(next(c for c in EVERY if "--labels" in c.words and "runs/own" in c.words))

    def make(self, run: str) -> None:
        """Makes a run with the command on a page that creates it, or as an import would."""
        if run in pages.IMPORTED:
            if not (self.folder / run).exists():
                make_run(pages.IMPORTED[run], self.folder / run)
        else:
            self.run(MADE_BY[run])


# once, however many pages contain it
HERE = list(
    {str(c): c for c in EVERY if c.words[0] in pages.LOCAL and not pages.elsewhere(c)}.values()
)


@pytest.mark.slow
@pytest.mark.parametrize("command", HERE, ids=lambda c: f"{c.page}:{c.line}")
def test_the_command_runs(command, home):
    assert command.words[:2] == ("python", "-m"), "name the test that runs it in docs_pages.py"
    home.run(command)


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [c for c in CODES if not c.file and c.page not in pages.PAGES_ELSEWHERE],
    ids=lambda c: f"{c.page}:{c.line}",
)
def test_the_python_runs(code, home):
    for run in re.findall(r"runs/\w+", code.text):
        home.make(run)
    waveform = 0.1 * np.sin(np.arange(12000, dtype=np.float32))
    space = {"waveform": waveform, "rate": 24000}
    exec(compile(code.text, f"{code.page}:{code.line}", "exec"), space)
    if "found" in space:
        assert len(space["found"].hidden_states[-1]) == len(space["found"].times)


@pytest.mark.slow
def test_what_the_commands_over_own_recordings_leave(home, capsys):
    """Broken files are listed, baselines appear next to the run, and another table of the same
    length does not reuse the features of the first."""
    first = next(c for c in EVERY if c.flag("--workdir") == "runs/own")
    probe, grouped = (
        next(c for c in EVERY if "--labels" in c.words and ("--group" in c.words) == group)
        for group in (False, True)
    )
    home.run(first)
    listed = {
        row["where"].split("/")[-1].split(",")[0] for row in log.read("runs/own/skipped.jsonl")
    }
    assert listed <= {"broken.wav", "empty.mp3"}
    assert "log-mel" in home.run(probe)
    rows = json.loads((home.folder / "runs/own/evaluation.json").read_text())["results"]
    assert [row["features"] for row in rows] == ["this run", "random encoder", "log-mel"]
    assert rows[-1]["test"][0] > 0.9
    home.told.pop(pages.toy(grouped).words, None)  # whatever ran before, its table is the last
    home.run(grouped)
    tables = (home.folder / "runs/own/labels.tsv").read_text().splitlines()[1:]
    speakers = {
        split: {r.split("/recordings/s")[1][0] for r in tables if f"\t{split}\t" in r}
        for split in ("train", "valid", "test")
    }
    assert [len(found) for found in speakers.values()] == [3, 1, 1]
    assert len(list((home.folder / "runs/own/features").glob("*.npz"))) >= 18
    with pytest.raises(SystemExit, match=r"made with another config:\n.*config\.optim\.lr"):
        train.main([*pages.toy(first).words[3:], "--config.optim.lr=1e-2"])
