"""Protocol Buffers read field by field from a file, what is not wanted left on the disk.

After the wire format's specification; knows no message. Python's own reader would hold the whole
file, and its recursion and repetition are the file's to choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, NamedTuple

NUMBER, LENGTH = 0, 2  # wire types: a number; so many bytes
FIXED = {1: 8, 5: 4}  # bytes of the other wire types there are
MAX_FIELDS = 1_000_000  # seconds' work; a network of 1000 operators has some 30,000


class Field(NamedTuple):
    """A field of a message: its number, and what is in it by its wire type.

    Readers pass over a field of a type they do not expect, so that whoever checks a file must not
    take one type for another.
    """

    number: int
    value: int | None  # of a number
    length: int | None  # of bytes, text or a message that begin where the file stands

    def known(self) -> int:
        """The number in it.

        Raises:
            ValueError: it is no number.
        """
        if self.value is None:
            raise ValueError(f"field {self.number} is no number")
        return self.value


class MessageFile:
    """A message that fills a file.

    Args:
        file: Open for reading bytes.
        size: Of the file, in bytes.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.size = file, size
        self._seen = 0

    def fields(self) -> Iterator[Field]:
        """Fields of the message that is the file."""
        return self._fields(self.size)

    def inside(self, field: Field) -> Iterator[Field]:
        """Fields of the message in a field, which is the latest one given."""
        return self._fields(self._file.tell() + self._length(field))

    def _fields(self, stop: int) -> Iterator[Field]:
        """Fields up to a byte; what is not taken of them is skipped.

        Raises:
            ValueError: not such a message, or of more fields than any network.
            EOFError: cut short.
        """
        while self._file.tell() < stop:
            self._seen += 1
            if self._seen > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            tag = self._number()
            number, kind = tag >> 3, tag & 7
            if not number or kind not in (NUMBER, LENGTH, *FIXED):
                raise ValueError(f"field {number} of type {kind}")
            value = FIXED.get(kind) or self._number()
            end = self._file.tell() + (value if kind != NUMBER else 0)
            if end > stop:
                raise EOFError(f"field {number} ends after what it is part of")
            yield Field(
                number, value if kind == NUMBER else None, value if kind == LENGTH else None
            )
            self._file.seek(end)

    def numbers(self, field: Field) -> list[int]:
        """The numbers in a field: itself, or those it is packed with."""
        if field.value is not None:
            return [field.value]
        stop = self._file.tell() + self._length(field)
        found = []
        while self._file.tell() < stop:
            self._seen += 1
            if self._seen > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            found.append(self._number())
        return found

    def text(self, field: Field, largest: int) -> str:
        """The UTF-8 text in a field.

        Raises:
            ValueError: longer than `largest` bytes, or no such text.
        """
        length = self._length(field)
        if length > largest:
            raise ValueError(f"field {field.number} has {length} bytes; at most {largest} expected")
        return self._file.read(length).decode("utf-8")

    def entry(self, field: Field, largest: int) -> tuple[str, str]:
        """Key and value in a field that is an entry of a table of texts."""
        texts = {1: "", 2: ""}
        for part in self.inside(field):
            texts[part.number] = self.text(part, largest)
        return texts[1], texts[2]

    def _length(self, field: Field) -> int:
        if field.length is None:
            raise ValueError(f"field {field.number} is neither text nor a message")
        return field.length

    def _number(self) -> int:
        """The unsigned number of at most 64 bits that begins here."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._file.read(1)
            if not byte:
                raise EOFError("a number is cut short")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise ValueError("a number of more than 64 bits")
