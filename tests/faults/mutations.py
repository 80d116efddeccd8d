"""Safeguards of the runtime, what is left when one is taken out, and the tests that must miss it.

`tests/runtime/test_mutations.py` takes them out one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """The runtime without a safeguard."""

    without: str  # the safeguard
    file: str  # of mfnet_runtime
    source: str  # stands there once
    instead: str
    tests: str  # words for pytest: a file of tests/runtime, and which of its tests


MUTANTS = (
    Mutant(
        "pixels without data are nodata",
        "blend.py",
        "    np.copyto(classes, np.uint8(IGNORE), where=~valid)\n",
        "",
        "test_pipeline.py -k never_as_class_0",
    ),
    Mutant(
        "logits must be finite",
        "blend.py",
        "if not np.isfinite(logits).all():",
        "if False:",
        "test_pipeline.py -k not_finite",
    ),
    Mutant(
        "the last window is moved inside: every pixel is covered",
        "windows.py",
        "Counter(min(start, last) for start in range(0, length, stride))",
        "Counter(start for start in range(0, last + 1, stride))",
        "test_windows.py -k covered",
    ),
    Mutant(
        "outputs are read back and compared",
        "layer_file.py",
        "if again != part:",
        "if False:",
        "test_layer_file.py -k reads_back_differently",
    ),
    Mutant(
        "outputs appear by a rename",
        "files.py",
        "    for file, path in pairs:\n        os.replace(file, path)\n",
        "    for file, path in pairs:\n        path.write_bytes(file.read_bytes())\n",
        "test_outputs.py -k before_names",
    ),
    Mutant(
        "bytes of outputs are on the disk before their names",
        "files.py",
        "            os.fsync(opened.fileno())\n",
        "            pass\n",
        "test_outputs.py -k before_names",
    ),
    Mutant(
        "bytes of pieces are on the disk before the manifest names them",
        "pieces.py",
        "                os.fsync(file.fileno())\n",
        "",
        "test_pieces.py -k before_anybody_is_told",
    ),
    Mutant(
        "checksums of pieces",
        "pieces.py",
        "if checksums != piece.checksums:",
        "if False:",
        "test_resume_files.py -k with_other_bytes",
    ),
    Mutant(
        "sizes of pieces",
        "pieces.py",
        "path.is_file() and path.stat().st_size == size",
        "path.is_file()",
        "test_resume_files.py -k not_whole",
    ),
    Mutant(
        "checksums of the manifest's lines",
        "manifest.py",
        "if line == _checked(record) else None",
        "if line.endswith(b'}') else None",
        "test_manifest.py -k 'digit or garbage'",
    ),
    Mutant(
        "records belong to their run",
        "manifest.py",
        'if kind != "run" and run != self.run:',
        "if False:",
        "test_manifest.py -k line_is_lost",
    ),
    Mutant(
        "inputs are compared with those of the begin",
        "scene_work.py",
        "if not Fingerprint(**then).fits(path):",
        "if not path.exists():",
        "test_resume.py -k another_input",
    ),
    Mutant(
        "inputs are compared with those of the begin once more at the end",
        "scene_work.py",
        "                self._require_as_then(self._inputs)\n",
        "                pass\n",
        "test_resume.py -k changes_while",
    ),
    Mutant(
        "outputs are compared with those of the manifest",
        "scene_work.py",
        "Fingerprint(**found).fits(here / name) for name, found",
        "True for name, found",
        "test_resume_files.py -k not_as_written",
    ),
    Mutant(
        "settings are compared",
        "run_folder.py",
        "            if then != now and",
        "            if False and",
        "test_resume.py -k 'other_settings and stride'",
    ),
    Mutant(
        "a run that is not finished is not overwritten",
        "run_folder.py",
        "if not joins and not options.restart and state.unfinished:",
        "if False:",
        "test_resume_files.py -k not_begun_anew",
    ),
    Mutant(
        "files of an earlier run go",
        "scene_work.py",
        "            (self._outputs.folder / Path(file).name).unlink(missing_ok=True)\n",
        "            pass\n",
        "test_resume_files.py -k earlier_run",
    ),
    Mutant(
        "one run in a folder",
        "locks.py",
        '    if sys.platform == "win32":\n        return True\n',
        "    return True\n",
        "test_shards.py -k 'locked_out and first0'",
    ),
    Mutant(
        "the last shard at work ends the run",
        "run_folder.py",
        "if not (self.alone or locked(self.manifest.handle)):",
        "if False:",
        "test_shards.py -k last_shard",
    ),
    Mutant(
        "faults of the disk end with 5",
        "run_folder.py",
        "if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):",
        "if False:",
        "test_resume_files.py -k folder_that_goes",
    ),
)
