"""What the files of settings hold: secrets, and `.env`, as editors and shells of every system leave them.

Of a secret's file, what a tool has added is no part of the secret: a byte order mark at the start, and line
breaks and other white space at the end. Everything else is kept as it is, white space within the secret
and at its start included. A secret that ends with white space can be given as the variable itself.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Collection
from pathlib import Path

from dotenv.parser import parse_stream

from holdfast.errors import SettingsError
from holdfast.reasons import outage

_ADDED_AT_THE_END = " \t\r\n\v\f\x1a"
"""Line breaks, the space that `echo x > file` of cmd.exe leaves, and the end-of-file mark of DOS."""
_MARKS = (
    # The longer ones first: UTF-32's little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_QUOTING = "write NAME='value', or NAME=\"value\" where it has a quote ' in it"


def decoded(content: bytes) -> str:
    """The text of a file: UTF-8, or UTF-16 and UTF-32 with their byte order mark, as PowerShell writes them.

    Raises:
        ValueError: it is none of these, or holds zero characters.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            text = content[len(mark) :].decode(encoding)
            break
    else:
        text = content.decode("utf-8")
    if "\0" in text:
        raise ValueError("zero characters")
    return text


def secret_of(content: bytes) -> str:
    """The secret in a file's content; raises as `decoded`."""
    return decoded(content).rstrip(_ADDED_AT_THE_END)


def dotenv(path: Path, names: Collection[str], secrets: Collection[str]) -> dict[str, str]:
    """The variables of a `.env` file; nothing is put in for a dollar sign.

    Lines of other programs that are no assignments are passed over, as those of `names` are not.

    Raises:
        SettingsError: the file or one of our lines cannot be read, or the value of one of `secrets` would not
            arrive as it stands there; the message names the line and shows no value.
    """
    try:
        text = decoded(path.read_bytes()) if path.is_file() else ""
    except (OSError, ValueError) as error:
        # The text of a ValueError may show a part of the file.
        why = outage(error) if isinstance(error, OSError) else "it is no text in UTF-8 or UTF-16"
        raise SettingsError(f"{path}: cannot be read as a .env file: {why}") from None
    values = {}
    for binding in parse_stream(io.StringIO(text)):
        written = binding.original.string.lstrip()
        line = binding.original.line + binding.original.string[: -len(written) or None].count("\n")
        name, equals, value = written.strip().removeprefix("export ").partition("=")
        name = name.strip()
        if name in names and (binding.error or not equals):
            raise SettingsError(f"{path}: line {line}: {name} cannot be read; {_QUOTING}")
        if name in secrets:
            _check_whole(f"{path}: line {line}: {name}", value.strip(), binding.value)
        if binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
    return values


def _check_whole(place: str, written: str, value: str | None) -> None:
    """Raise unless the value is all that was written: a .env file has comments and escapes of its own."""
    if written[:1] not in ("'", '"') and written != (value or ""):
        raise SettingsError(f"{place} has a # behind a space, which begins a comment; {_QUOTING}")
    if written[:1] == '"' and re.search(r"\\[abfnrtv]", written):
        raise SettingsError(f"{place} has a backslash that means another character; {_QUOTING}")
