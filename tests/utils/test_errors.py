"""How a command ends: its exit status and what it prints, without a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from istd.test_script import inference
from istd.utils.errors import InputError, run_main
from istd.utils.names import drawn, printable, table_cell

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def handlers():
    """`run_main` sets the handlers of this process; they are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def status_of(main):
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    return ended.value.code


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_have_the_status_of_shells(number, status, capsys):
    assert status_of(lambda: send(number)) == status
    assert capsys.readouterr().err in ("interrupted\n", "terminated\n")


def test_a_closed_reader_is_no_success():
    code = "from istd.utils.errors import run_main\nrun_main(lambda: print('x' * 100_000))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_during_imports_shows_no_traceback():
    code = "from istd.utils.process import set_up_process\nset_up_process()\nimport os, signal\n"
    code += "os.kill(os.getpid(), signal.SIGINT)\nprint('not reached')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_error_cannot_move_the_cursor(capsys):
    def main():
        raise InputError("cannot read \x1b[2Ja\udcff.png")

    assert status_of(main) == 2
    assert capsys.readouterr().err == "error: cannot read \\x1b[2Ja\\udcff.png\n"


def test_the_advice_for_lack_of_memory_is_that_of_the_command(capsys, monkeypatch):
    def fail(*_):
        raise MemoryError

    assert status_of(fail) == 2
    assert capsys.readouterr().err == "error: out of memory; give it smaller inputs, or a machine with more memory\n"
    monkeypatch.setattr(inference, "parse_arguments", fail)
    assert status_of(inference.main) == 2
    assert "out of memory; lower --batch_size" in capsys.readouterr().err


def test_names_as_text():
    name = os.fsdecode(b"fr\xff\x1b[2Jame")
    assert printable(name) == "fr\\udcff\\x1b[2Jame"
    assert printable("Käse 3") == "Käse 3"
    assert drawn("Käse") == "K?se"
    cells = {"=1+2": "'=1+2", "-12": "-12", "-2+cmd|'x'": "'-2+cmd|'x'", "@x": "'@x", "a=1": "a=1", 3: 3, None: None}
    assert {value: table_cell(value) for value in cells} == cells
