"""Every number in a README is generated from a results file."""

import pytest
from test_house import check_table

from experiments import methods, miniatures, results, tables

CONFIGS = results.HERE.parent / "configs"
CASES = [(file, name) for file, made in tables.TABLES.items() for name in made]


@pytest.mark.parametrize(("file", "name"), CASES)
def test_the_table_is_the_one_its_results_make(file, name):
    check_table(results.HERE / file, name, tables.TABLES[file][name])


def test_a_changed_number_is_found(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("<!-- table:t -->\n<!-- end:t -->\n")
    tables.fill(path, "t", "| 0.5 |\n")
    check_table(path, "t", lambda: "| 0.5 |\n")
    with pytest.raises(AssertionError, match="stale"):
        check_table(path, "t", lambda: "| 0.6 |\n")
    with pytest.raises(ValueError, match="add them"):
        tables.fill(path, "other", "")


def test_the_interval_and_the_gain_are_paired():
    text = tables.arms("a", {"x": {"scratch": [0.5, 0.6], "pretrained": [0.6, 0.7]}})
    assert "0.100 ± 0.000" in text and "0.550" in text


@pytest.mark.parametrize("name", miniatures.MINIATURES)
def test_a_number_of_the_table_of_methods_is_that_of_its_results(tmp_path, name):
    page = (results.HERE.parent / "docs" / "methods.md").read_text()
    copy = tmp_path / "methods.md"
    copy.write_text(page)
    tables.fill_number(copy, name, miniatures.MINIATURES[name]())
    assert copy.read_text() == page, "stale: python -m experiments.tables"
    tables.fill_number(copy, name, "0.5")
    assert copy.read_text() != page


def test_every_system_has_its_section_and_every_miniature_its_row():
    page = (results.HERE.parent / "docs" / "methods.md").read_text()
    headings = {line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")}
    assert {row.system for row in methods.ROWS} <= headings
    assert {row.miniature for row in methods.ROWS} - {""} == set(miniatures.MINIATURES)
    assert methods.ROWS[3].anchor == "data2vec-20"  # as GitHub makes it of "data2vec 2.0"


def test_every_recipe_is_on_the_page_of_the_systems():
    page = (results.HERE.parent / "docs" / "methods.md").read_text()
    paths = [path.relative_to(results.HERE.parent) for path in CONFIGS.glob("*/*.py")]
    absent = [p.as_posix() for p in paths if f"](../{p.as_posix()})" not in page]
    assert len(paths) > 20 and not absent, "link them in docs/methods.md"
