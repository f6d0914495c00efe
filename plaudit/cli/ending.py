"""How a command ends: with its result, or with one message and an exit code. The only place that prints errors.

2 for a mistake, or a machine that does not do what is asked of it; 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP. An
error of ours is none of these and keeps its traceback.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from plaudit.errors import PlauditError

STOPPED = 128 + signal.SIGINT
"""Exit code of a process that was interrupted from the keyboard."""
USAGE_ERROR: Any = typer.BadParameter.__bases__[0].__bases__[0]
"""What a wrong option raises: click's base class, or that of the click which newer Typer carries within."""
POLICY = "OMP_WAIT_POLICY"
"""Environment variable: how OpenMP's threads wait."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_SIGNS = (
    "No space left",
    "disk is full",
    "disk I/O error",  # SQLite, when its journal cannot grow
    "PytorchStreamWriter failed writing",
    "Disk quota exceeded",
    "File too large",
)
MEMORY_SIGNS = ("can't allocate memory", "out of memory", "not enough memory", "Unable to allocate")


class Stop(KeyboardInterrupt):
    """A signal that ends the process as Ctrl-C does: what is in work is put down in order."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Ended(Exception):
    """What ended a command from within, past click, which takes an EOFError of any file for the keyboard's."""

    def __init__(self, cause: KeyboardInterrupt | EOFError):
        super().__init__(str(cause))
        self.cause = cause


class Commands(TyperGroup):
    """The commands, with what ends them handed on as it is."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError) as cause:
            raise Ended(cause) from cause


def run(app: Any) -> None:
    """Run the command line to its end."""
    _tolerate_other_encodings()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what it warns of is not for those who type commands
    _give_way_where_busy()
    try:
        with _signals_as_stops():
            stopped = app(standalone_mode=False) == STOPPED  # how newer Typer reports Ctrl-C; older ones raise
        if stopped:
            raise KeyboardInterrupt
    except Ended as ended:
        if isinstance(ended.cause, EOFError):
            _fail("an input ended before it was complete: the standard input, or a truncated file.", code=2)
        _stopped(ended.cause)
    except (KeyboardInterrupt, typer.Abort) as stop:
        _stopped(stop)
    except USAGE_ERROR as error:
        error.show()
        if hint := _setting_for_option(str(error)):
            typer.echo(hint, err=True)
        sys.exit(2)
    except PlauditError as error:
        _fail(str(error), code=2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        message = what_the_machine_refused(error)
        if message is None:
            raise
        _fail(message, code=2)


def what_the_machine_refused(error: BaseException) -> str | None:
    """A message for a disk, file or memory that does not do what is asked; None for any other error."""
    for one in _chain(error):
        if (isinstance(one, OSError) and one.errno in FULL) or any(sign in str(one) for sign in FULL_SIGNS):
            return (
                "The disk is full, or cannot be written. Whatever was complete is kept, and nothing half-written "
                "was left in its place.\nMake room, then go on with --resume RUN (see `plaudit status`)."
            )
        if isinstance(one, MemoryError) or any(sign in str(one) for sign in MEMORY_SIGNS):
            return (
                "there is not enough memory. Lower model.tokens_per_micro_batch, take a smaller model, or end other "
                "programs; a run resumes with --resume RUN (see `plaudit status`)."
            )
        if isinstance(one, sqlite3.DatabaseError):
            return f"a database file is damaged, or cannot be used here: {one}."
        if isinstance(one, OSError) and one.filename is not None:
            return f"{os.fsdecode(one.filename)}: {one.strerror or type(one).__name__}."
    return None


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and what it came from."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@contextmanager
def _signals_as_stops() -> Iterator[None]:
    """Treat what schedulers and lost connections send like Ctrl-C. A signal that is ignored, as under nohup, stays
    ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _raise_stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _raise_stop(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would disturb the putting down
    raise Stop(number)


def _stopped(stop: BaseException) -> NoReturn:
    code = 128 + stop.number if isinstance(stop, Stop) else STOPPED
    name = f" by {stop}" if isinstance(stop, Stop) else ""
    notes = " ".join(getattr(stop, "__notes__", []))
    _fail(f"Stopped{name}. What was complete is kept. {notes or 'See `plaudit status`.'}", code=code)


def _tolerate_other_encodings() -> None:
    """A byte or letter that the terminal's encoding does not have is replaced; it is not worth an error."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    sys.argv[1:] = [os.fsencode(word).decode("utf-8", "replace") if _is_torn(word) else word for word in sys.argv[1:]]


def _give_way_where_busy() -> None:
    """Threads that wait for each other keep their processors busy with it, which is fast where nobody else wants them.

    With more work about than processors they are put to sleep instead. It must be said before PyTorch is loaded.
    """
    if POLICY not in os.environ and os.getloadavg()[0] > (os.cpu_count() or 1):
        os.environ[POLICY] = "PASSIVE"


def _is_torn(word: str) -> bool:
    """Whether an argument has bytes that are no text, and that are no file's name either."""
    return any("\udc80" <= letter <= "\udcff" for letter in word) and not os.path.exists(word)


def _setting_for_option(message: str) -> str:
    """`--steps` is no option: the settings are not options."""
    from plaudit.config import settings_named

    name = message.rpartition("--")[2].strip(" '\".").replace("-", "_") if "No such option" in message else ""
    known = settings_named(name.partition("=")[0]) if name else []
    return f"Settings are written without dashes: {known[0]}=VALUE." if known else ""


def _fail(message: str, *, code: int) -> NoReturn:
    typer.echo(f"plaudit: {message}", err=True)
    sys.exit(code)
