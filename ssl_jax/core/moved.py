"""Modules by their names in the version before this one: imported as before, with a warning."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "ssl_jax."
MODULES = {
    "data.alignments": "data.readers.alignments",
    "data.audio": "data.readers.audio",
    "data.compose": "data.synthetic.tonal_pieces",
    "data.espeak": "data.synthetic.espeak",
    "data.files": "data.readers.files",
    "data.folders": "data.readers.folders",
    "data.image_files": "data.readers.image_files",
    "data.label_files": "data.readers.label_files",
    "data.manifests": "data.readers.manifests",
    "data.music": "data.synthetic.music",
    "data.plan": "data.batch_schedule",
    "data.read_speech": "data.synthetic.read_speech",
    "data.records": "data.readers.records",
    "data.source": "data.readers.base",
    "data.sources": "data.readers.sources",
    "data.synth": "data.synthetic.keywords",
    "data.text_files": "data.readers.text_files",
    "data.tfds": "data.readers.tfds",
    "data.unit_store": "data.frame_label_store",
    "data.units": "data.frame_labels",
    "engine.aot": "planning.aot",
    "engine.budget": "planning.budget",
    "engine.collectives": "planning.collectives",
    "engine.dataflow": "planning.kernels",
    "engine.estimate": "planning.estimate",
    "engine.feed": "engine.prefetch",
    "engine.intact": "engine.integrity",
    "engine.recipe": "planning.rescale",
    "engine.roofline": "planning.roofline",
    "engine.scheduled": "planning.tpu_dump",
    "engine.shapes": "planning.batch_shapes",
    "engine.start": "engine.setup",
    "engine.watch": "engine.watchdog",
    "evals.edits": "evals.edit_distance",
    "evals.health": "evals.collapse",
    "evals.judge": "evals.split_scores",
    "evals.marble": "evals.mlp_probe",
    "evals.probe": "evals.linear_probe",
    "evals.progress": "core.progress",
    "evals.split": "evals.pool",
    "evals.units": "evals.unit_quality",
    "evals.verify": "evals.speaker_verification",
    "nn.kwt": "nn.keyword_transformer",
    "nn.run": "nn.encoder",
    "stages.clusters": "sweeps.clusters",
    "stages.differ": "sweeps.diff",
    "stages.gallery": "reports.examples",
    "stages.html": "reports.html",
    "stages.launch": "sweeps.local",
    "stages.metrics": "reports.metrics",
    "stages.pictures": "reports.figures",
    "stages.plots": "reports.plots",
    "stages.report": "reports.figures",
    "stages.run_report": "reports.run_report",
    "stages.runs": "sweeps.run_folders",
    "stages.sweep": "sweeps.sweep",
    "stages.sweep_report": "sweeps.report",
    "stages.sweep_status": "sweeps.status",
    "stages.units": "stages.unit_quality",
    "stages.verify": "stages.decode",
}
"""Old name of a module -> its name now, both below the package."""


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of MODULES by their old names."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        """Returns the spec of an old name, None for any other."""
        if name.removeprefix(PACKAGE) not in MODULES or not name.startswith(PACKAGE):
            return None
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Returns the module under its name of now."""
        now = PACKAGE + MODULES[spec.name.removeprefix(PACKAGE)]
        warnings.warn(f"{spec.name} is {now} now", FutureWarning, stacklevel=2)
        found = importlib.import_module(now)
        # the import system gives the module this spec, and takes its own back below
        self._own = found.__spec__
        return found

    def exec_module(self, module: ModuleType) -> None:
        """Leaves the module, which has been executed, with its own spec."""
        module.__spec__ = self._own
        if self._own is not None:
            module.__name__, module.__loader__ = self._own.name, self._own.loader
            module.__package__ = self._own.parent


def install() -> None:
    """Makes the old names importable; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
