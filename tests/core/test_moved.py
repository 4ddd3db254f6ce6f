"""Scripts that name modules as the version before did go on, with a warning."""

import importlib
import sys
import warnings
from pathlib import Path

import pytest

import ssl_jax
from ssl_jax.core import moved


def forget(name):
    sys.modules.pop(f"ssl_jax.{name}", None)


def test_an_old_name_is_the_module_of_now():
    from ssl_jax.data.readers import sources

    forget("data.sources")
    with pytest.warns(FutureWarning, match=r"sources is ssl_jax\.data\.readers\.sources"):
        from ssl_jax.data.sources import open_source
    assert open_source is sources.open_source
    assert sources.__name__ == sources.__spec__.name == "ssl_jax.data.readers.sources"
    assert importlib.reload(sources) is sources


@pytest.mark.parametrize("old", moved.MODULES)
def test_every_old_name_leads_to_a_file_and_hides_none(old):
    package = Path(ssl_jax.__path__[0])
    assert (package / f"{moved.MODULES[old].replace('.', '/')}.py").is_file()
    assert not (package / f"{old.replace('.', '/')}.py").exists()


def test_a_name_that_never_was_is_no_module_and_install_is_done_once():
    with warnings.catch_warnings(), pytest.raises(ModuleNotFoundError):
        warnings.simplefilter("error")
        importlib.import_module("ssl_jax.data.nothing")
    before = list(sys.meta_path)
    moved.install()
    assert sys.meta_path == before
