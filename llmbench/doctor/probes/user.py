"""What Python makes of the user and of the language settings."""

from __future__ import annotations

import getpass
import locale
import os
import pwd
import sys
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    yield {
        "encoding": locale.getpreferredencoding(False),
        "stdout": getattr(sys.stdout, "encoding", None),
        "files": sys.getfilesystemencoding(),
        "home": os.path.expanduser("~"),
    }
    try:
        record = pwd.getpwuid(os.getuid())
        yield {"account": record.pw_name, "account_home": record.pw_dir}
    except (KeyError, OSError):
        yield {"account": None, "account_home": None}
    try:
        yield {"user": getpass.getuser(), "user_error": None}
    except Exception as error:  # KeyError before Python 3.13, OSError since
        yield {"user": None, "user_error": f"{type(error).__name__}: {error}"}
    try:
        locale.setlocale(locale.LC_ALL, "")
        yield {"locale_error": None}
    except locale.Error as error:
        yield {"locale_error": str(error)}
