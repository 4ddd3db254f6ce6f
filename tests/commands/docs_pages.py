"""The commands of README.md and docs/*.md, and how to run each at toy size."""

import ast
import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*/README.md"))

# how a line of a block begins if it is a command
LOCAL = ("python", "pip", "pytest")
# need a cloud or a cluster, or never end: not run
CLOUD = ("gcloud", "gsutil", "xpk", "kubectl", "sbatch", "srun", "squeue", "ssh", "xprof")

# a config on a page: the config that replaces it, and its overrides
CONFIGS = {
    "configs/data2vec2/audio.py:own": ("configs/data2vec2/audio.py:own_toy", ()),
    "configs/data2vec2/audio.py:own_base": ("configs/data2vec2/audio.py:own_toy", ()),
    "configs/supervised/own.py:own": ("configs/supervised/own.py:toy", ()),
    "configs/data2vec/kws.py:kwt1": ("configs/data2vec/kws.py:toy", ()),
    "configs/supervised/kws.py:kwt1": ("configs/supervised/kws.py:toy", ()),
    "mixture.py": ("mixture.py:own_toy", ()),
    "domain.py": ("domain.py:toy", ("--config.data.buckets=(0.5,)", "--config.data.batch_size=4")),
}
# start of a command, after CONFIGS: arguments to append; the last of two equal flags wins
ADDED = {
    "python -m ssl_jax.train": ("--config.train.duration=2 steps",),
    "python -m ssl_jax.train --config configs/data2vec2/audio.py:own_toy --workdir runs/profiled": (
        "--profile",
        "1:2",
    ),
    "python -m ssl_jax.evaluate": ("--probe", "ridge"),
}
# start of a command: the file and test that runs it
ELSEWHERE = {
    "pip install": (".ci/run", "pip install"),
    "pytest": (".ci/run", "tests pytest"),
    "python -m pytest tests/conformance": ("tests/conformance/test_configs.py", "def test_"),
    "python -m ssl_jax.pipeline experiments/quickstart.py": (
        "tests/commands/test_pipeline.py",
        "def test_the_quickstart_reports_every_seed_and_is_the_same_side_by_side",
    ),
    "python -m ssl_jax.evaluate --run runs/hubert --protocol configs/hubert/quality.py": (
        "tests/commands/test_evaluate_units.py",
        "def test_",
    ),
    **dict.fromkeys(
        (
            "python -m ssl_jax.train --config configs/videomae/video.py:own",
            "python -m ssl_jax.evaluate --run runs/clips",
            "python -m ssl_jax.train --config configs/supervised/video.py:own",
        ),
        ("tests/commands/test_own_videos.py", "def test_your_own_clips_in_three_commands"),
    ),
    "python -m ssl_jax.pipeline experiments/noisy_student": (
        "tests/commands/test_noisy_student_program.py",
        "def test_",
    ),
    "python -m ssl_jax.train --config configs/ctc/speech.py": (
        "tests/commands/test_asr.py",
        "def test_",
    ),
    "python -m ssl_jax.evaluate --run runs/asr": ("tests/commands/test_asr.py", "def test_"),
    "python -m ssl_jax.convert index": (
        "tests/data/test_published.py",
        "def test_the_command_writes_the_table_that_a_program_reads",
    ),
    "python -m ssl_jax.convert import": (
        "tests/hub/test_hub_maps.py",
        "def test_the_command_imports_goes_on_and_exports",
    ),
    "python -m ssl_jax.convert export": (
        "tests/hub/test_hub_maps.py",
        "def test_the_command_imports_goes_on_and_exports",
    ),
    "python -m ssl_jax.convert extract": (
        "tests/stages/test_extraction.py",
        "def test_a_subnet_is_extracted_as_a_run_of_its_own",
    ),
    "python -m ssl_jax.train --config runs/hubert/config.json": (
        "tests/hub/test_hub_train.py",
        "def test_pretraining_goes_on_in_the_folder_and_fine_tuning_starts_from_it",
    ),
    "python -m ssl_jax.sweep": (
        "tests/commands/test_sweep.py",
        "def test_every_command_of_the_page_runs",
    ),
    "python -m ssl_jax.evaluate --runs": (
        "tests/sweeps/test_diff.py",
        "def test_the_command_prints_few_runs_in_columns_and_many_in_rows",
    ),
}
ELSEWHERE |= {
    "python -m ssl_jax.plan": (
        "tests/commands/test_plan_command.py",
        "def test_the_plan_shows_the_cost_of_a_step",
    ),
    "python -m ssl_jax.convert data --config configs/data2vec2/audio.py:base --split": (
        "tests/data/test_remote.py",
        "def test_shards_are_written_to_a_bucket_and_read_from_a_copy",
    ),
    "python -m ssl_jax.train --config configs/data2vec2/audio.py:base --workdir runs/d2v2_base "
    "--coordinator": ("tests/commands/test_train_hosts.py", "def test_"),
    "python -m ssl_jax.train --config C --workdir W --coordinator": (
        "tests/commands/test_train_hosts.py",
        "def test_",
    ),
}
# pages whose commands and Python have a test of their own
PAGES_ELSEWHERE = {
    "docs/plan.md": (
        "tests/commands/test_plan_command.py",
        "def test_the_plan_shows_the_cost_of_a_step",
    ),
    "docs/sweeps.md": ("tests/commands/test_sweep.py", "def test_every_command_of_the_page_runs"),
}
# runs that replace an import: untrained runs of these configs
IMPORTED = {
    "runs/wav2vec2": "configs/wav2vec2/audio.py:toy",
    "runs/hubert": "configs/hubert/audio.py:toy",
}


class Command(NamedTuple):
    """One command of a page; `line` is where it begins."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)

    def flag(self, name: str) -> str:
        """Returns the value of `--name value` or `--name=value`, or '' if there is none."""
        for i, word in enumerate(self.words):
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
            if word == name and i + 1 < len(self.words):
                return self.words[i + 1]
        return ""


class Code(NamedTuple):
    """A block of Python, and the file that the page saves it to."""

    page: str
    line: int
    text: str
    file: str


def blocks(path: Path) -> tuple[list[Command], list[Code]]:
    """Returns the commands of the fenced and indented blocks of a page, and its Python."""
    page = path.relative_to(ROOT).as_posix()
    commands: list[Command] = []
    codes: list[Code] = []
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        fence = re.fullmatch(r"```(\w*) ?(?:title=)?(\S*)", line)
        if fence:
            body = []
            for _, inner in lines:
                if inner.startswith("```"):
                    break
                body.append(inner)
            if fence[1] in ("python", "py"):
                codes.append(Code(page, number, "\n".join(body) + "\n", fence[2]))
            elif fence[1] in ("", "bash", "sh", "shell", "console"):
                commands += commands_of(page, number + 1, body)
        elif line.startswith("    "):
            body = [line]
            while body[-1].endswith("\\"):
                body.append(next(lines)[1])
            commands += commands_of(page, number, body)
    return commands, codes


def commands_of(page: str, first: int, body: list[str]) -> list[Command]:
    """Returns the commands in the lines of a block; the other lines are output."""
    found: list[Command] = []
    text, start = "", first
    for number, line in enumerate(body, first):
        start = start if text else number
        text += line.strip().removeprefix("$ ").removeprefix("!")
        if text.endswith("\\"):
            text = text[:-1]
            continue
        if re.match(rf"({'|'.join((*LOCAL, *CLOUD))})\b", text):
            words = shlex.split(text, comments=True)
            for part in " ".join(map(shlex.quote, words)).split("'&&'"):
                found.append(Command(page, start, tuple(shlex.split(part))))
        text = ""
    return found


def options_of(program: Path) -> set[str]:
    """Returns the options of a program of `python -m ssl_jax.pipeline`."""
    for node in ast.parse(program.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "OPTIONS":
            assert isinstance(node.value, ast.Dict)
            return {ast.literal_eval(key) for key in node.value.keys if key is not None}
    raise ValueError(f"{program} has no OPTIONS")


def links(path: Path) -> list[str]:
    """Returns the files that the links and pictures of a page point to."""
    found = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    return [x.partition("#")[0] for x in found if not re.match(r"https?:|mailto:|#", x)]


def anchors(path: Path) -> set[str]:
    """Returns the anchors of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w-]", "", head.lower().replace(" ", "-")) for head in heads}


def module_of(command: Command) -> str:
    """Returns the module with the `main` of a command `python -m ...`."""
    return "ssl_jax.__main__" if command.words[2] == "ssl_jax" else command.words[2]


def named_files(path: Path) -> list[str]:
    """Returns the files and folders of this repository named in `backticks`.

    A path that contains "mine" belongs to the reader.
    """
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"`((?:configs|docs|experiments|notebooks|ssl_jax|tests)/[\w./]*)`", text)
    return [x for x in found if not re.search(r"\bmine\b", x)]


def toy(command: Command) -> Command:
    """Returns the command as the tests run it, at toy size."""
    words = list(command.words)
    if "--config" in words:
        at = words.index("--config") + 1
        words[at], more = CONFIGS.get(words[at], (words[at], ()))
        words += more
    for start, more in ADDED.items():
        if " ".join(words).startswith(start):
            words += more
    return command._replace(words=tuple(words))


def elsewhere(command: Command) -> tuple[str, str] | None:
    """Returns the file that runs a command, and the text to look for in it."""
    if command.page in PAGES_ELSEWHERE:
        return PAGES_ELSEWHERE[command.page]
    return next((at for start, at in ELSEWHERE.items() if str(command).startswith(start)), None)
