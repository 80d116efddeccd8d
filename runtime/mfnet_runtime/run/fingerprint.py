"""Tells whether a file is the one it was, without reading all of a large one again."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mfnet_runtime.files import sha256_from_file

WHOLE = 64 << 20  # bytes: of larger files only samples are read
SAMPLE, SAMPLES = 1 << 20, 64  # bytes of each, and how many from the first to the last byte


@dataclass(frozen=True)
class Fingerprint:
    """Of a file's bytes."""

    size: int  # bytes
    modified: int  # nanoseconds since 1970
    sha256: str  # of all bytes, or of samples
    sampled: bool

    @staticmethod
    def of(path: Path, *, whole: bool = False) -> Fingerprint:
        """Read a file, or samples of a large one unless `whole`.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        sampled = status.st_size > WHOLE and not whole
        digest = _sha256_from_samples(path, status.st_size) if sampled else sha256_from_file(path)
        return Fingerprint(status.st_size, status.st_mtime_ns, digest, sampled)

    def fits(self, path: Path) -> bool:
        """Whether a file still has those bytes; reads it only where its time changed.

        Samples say nothing of what lies between them: a large file of another time does not fit.
        """
        try:
            status = path.stat()
            if status.st_size != self.size:
                return False
            if status.st_mtime_ns == self.modified:
                return True
            return not self.sampled and sha256_from_file(path) == self.sha256
        except OSError:
            return False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return asdict(self)


def _sha256_from_samples(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for index in range(SAMPLES):
            file.seek(index * (size - SAMPLE) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()
