"""What config.method.name finds: a file of ssl_jax/methods, or the user's own module."""

import sysconfig

import pytest

from ssl_jax import methods
from ssl_jax.core.config import ConfigError

OWN = "def make(config, *, precision, sample_rate, num_classes):\n    return {kind!r}, config\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of PYTHONPATH."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_file_of_the_package_by_its_name():
    assert methods.find("data2vec").__name__ == "ssl_jax.methods.data2vec"


def test_a_module_of_ones_own_alone_or_in_a_package(folder):
    (folder / "own_method_a.py").write_text(OWN.format(kind="alone"))
    (folder / "own_package").mkdir()
    (folder / "own_package" / "inner.py").write_text(OWN.format(kind="inner"))
    options = {"precision": "float32", "sample_rate": 16000, "num_classes": 0}
    assert methods.find("own_method_a").make(3, **options) == ("alone", 3)
    assert methods.find("own_package.inner").make(4, **options) == ("inner", 4)


def test_the_package_goes_before_a_module_of_the_same_name(folder):
    (folder / "data2vec.py").write_text(OWN.format(kind="impostor"))
    assert methods.find("data2vec").__name__ == "ssl_jax.methods.data2vec"


@pytest.mark.parametrize("name", ["data2vek", "no_such.method", "", ".data2vec"])
def test_a_name_of_nothing_is_one_error(name):
    with pytest.raises(ConfigError, match=r"config\.method\.name is .*or use a module of yours"):
        methods.find(name)


def test_a_typing_error_names_the_closest():
    with pytest.raises(ConfigError, match="did you mean 'data2vec'"):
        methods.find("data2vek")


def test_a_module_without_make_says_what_to_write(folder):
    (folder / "own_method_b.py").write_text("WIDTH = 3\n")
    with pytest.raises(ConfigError, match=r"own_method_b\.py has no function make: write make"):
        methods.find("own_method_b")


@pytest.mark.parametrize("name", ["own_method_c", "own_namespace.inner", "own_package_b.inner"])
def test_a_folder_has_no_module_imported_unless_it_is_named(name, folder):
    for place in ("own_namespace", "own_package_b"):
        (folder / place).mkdir()
        (folder / place / "inner.py").write_text("raise RuntimeError('was run')\n")
    (folder / "own_package_b" / "__init__.py").write_text("raise RuntimeError('was run')\n")
    (folder / "own_method_c.py").write_text("raise RuntimeError('was run')\n")
    with pytest.raises(ConfigError, match=rf"neither part .* name it: --method {name}, or ssl_jax"):
        methods.check(name)
    methods.check(name, name)
    methods.check_file("configs/mine.py:toy", {"name": name})
    with pytest.raises(ConfigError, match="neither part"):
        methods.check_file("runs/x/config.json", {"name": name}, "another")


@pytest.mark.parametrize("name", ["", ".data2vec", "no_such.method", "data2vek"])
def test_a_name_of_nothing_in_a_folder_is_the_same_error(name):
    with pytest.raises(ConfigError, match=r"config\.method\.name is .*or use a module of yours"):
        methods.check(name)


def test_methods_of_the_package_and_of_installed_ones_are_imported(folder, monkeypatch):
    methods.check("data2vec")
    methods.check("flax.linen")  # installed; the error that it has no make comes at import
    for name in ("json", "antigravity"):  # part of Python
        with pytest.raises(ConfigError, match="neither part"):
            methods.check(name)
    place = folder / "site"
    (place / "stray").mkdir(parents=True)
    (place / "stray" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(place))
    with pytest.raises(ConfigError, match="neither part"):
        methods.check("stray")  # in that folder, but from no distribution
    about = place / "stray-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 1.0\n")
    (about / "RECORD").write_text("stray/__init__.py,,\n")
    methods.check("stray")
    (folder / "before").mkdir()
    (folder / "before" / "stray.py").write_text("")
    monkeypatch.syspath_prepend(str(folder / "before"))  # as the working directory precedes it
    with pytest.raises(ConfigError, match="neither part"):
        methods.check("stray")
