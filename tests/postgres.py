"""A PostgreSQL server of the tests' own: its port, its data folder, its user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Server:
    """A server that can be stopped and started again.

    Args:
        binaries: Folder of ``initdb`` and ``pg_ctl``.
        folder: For its data, its socket and its log.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        with socket.socket() as sock:
            sock.bind(('127.0.0.1', 0))
            self.port = sock.getsockname()[1]
        if os.geteuid() == 0:  # it refuses to run as root
            shutil.chown(folder, 'nobody')
        self._run('initdb', '-A', 'trust', '-U', 'me')
        self.start()

    @property
    def url(self) -> str:
        return f'postgresql+psycopg://me@127.0.0.1:{self.port}/postgres'

    def start(self) -> None:
        options = f'-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1'
        self._run('pg_ctl', '-w', '-l', str(self.folder / 'log'), '-o', options, 'start')

    def stop(self) -> None:
        """As if its machine went down."""
        self._run('pg_ctl', '-w', '-m', 'immediate', 'stop')

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self.binaries / name), '-D', str(self.folder / 'data'), *arguments]
        if os.geteuid() == 0:
            command = ['runuser', '-u', 'nobody', '--', *command]
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def running() -> Iterator[Server]:
    """A server until the end; the test is skipped where PostgreSQL is not installed."""
    pytest.importorskip('psycopg')
    found = shutil.which('pg_ctl')
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path('/usr/lib/postgresql').glob('*/bin'))
    binaries = next((each for each in folders if (each / 'initdb').is_file()), None)
    if binaries is None:
        pytest.skip("PostgreSQL's pg_ctl and initdb are not installed: apt install postgresql")
    folder = Path(tempfile.mkdtemp(prefix='postgres'))
    server = Server(binaries, folder)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
