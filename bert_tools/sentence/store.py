"""A matrix of vectors that grows on disk row by row, and goes on where a killed process left it.

While it grows it lies in FILE.part, an .npy of its final shape, with FILE.part.json beside it: what
it is made from, and how many rows are safely there.
"""

import contextlib
import errno
import fcntl
import io
import os
import shutil

import numpy as np

from bert_tools import files
from bert_tools.errors import UserError


class Growing:
    """The rows of FILE.part; a context manager.

    What a failed or killed run wrote stays for the next one to go on with.

    Args:
      path: str, FILE.
      shape: (rows, width) when it is whole.
      key: dict that JSON can hold: all that the rows depend on.
      resume: bool, go on with what is there; else begin anew.

    Attributes:
      done: int, rows that are there.

    Raises:
      UserError: what is there is of another key, another process writes to it, or there is no room
        for it.
    """

    def __init__(self, path, shape, key, resume=False):
        self.done = 0
        self._path, self._shape, self._key = path, shape, key
        self.part, self._state = path + ".part", path + ".part.json"
        self._resume = resume
        self._file = None

    def __enter__(self):
        with _explained(self.part):
            self._file = open(self.part, "a+b")
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_):
        self._file.close()

    def append(self, vectors):
        """Writes float32 [n, width] behind what is there; after a crash they are there, too."""
        with _explained(self.part):
            self._file.write(np.ascontiguousarray(vectors, np.float32).tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())
        self.done += len(vectors)
        self._note()

    def read(self, chunk=16384):
        """Yields the rows that are there as float32 [<= chunk, width], in order."""
        rows, width = self._shape
        with open(self.part, "rb") as reader:
            reader.seek(len(_header(self._shape)))
            for start in range(0, rows, chunk):
                count = min(chunk, rows - start)
                yield np.fromfile(reader, np.float32, count * width).reshape(count, width)

    def become(self, path):
        """Gives the whole matrix its final name, as an .npy."""
        target = os.path.realpath(path)  # A link stays one.
        with _explained(path):
            try:
                os.replace(self.part, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with files.aside(target) as temporary:  # The link leads to another file system.
                    shutil.copyfile(self.part, temporary)
                os.unlink(self.part)
        os.unlink(self._state)

    def remove(self):
        """Removes what the final file was made from."""
        os.unlink(self.part)
        os.unlink(self._state)

    def _begin(self):
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{self.part}: another process is writing it; wait for it or choose another "
                "--output_file"
            ) from error
        if not os.path.exists(self.part) or not os.path.samestat(
            os.stat(self.part), os.fstat(self._file.fileno())
        ):  # It was finished between opening and locking, and has its final name now.
            raise UserError(f"{self.part}: another process has just finished it; run again")
        if self._resume and os.path.exists(self._state):
            self._restore()
        header = _header(self._shape)
        row = 4 * self._shape[1]
        with _explained(self.part):
            self._file.truncate(len(header) + self.done * row if self.done else 0)
            if not self.done:
                self._file.write(header)
            self._file.flush()
        self._require_room((self._shape[0] - self.done) * row)
        self._note()

    def _restore(self):
        state = files.read_json(self._state)
        for name, value in self._key.items():
            if state.get("key", {}).get(name) != value:
                raise UserError(
                    f"{self.part}: was begun with another {name}; leave --resume out to begin anew"
                )
        rows = state.get("rows")
        if type(rows) is not int or not 0 <= rows <= self._shape[0]:
            raise UserError(
                f"{self._state}: rows is {rows!r}, expected a number up to {self._shape[0]}; leave "
                "--resume out to begin anew"
            )
        self.done = rows
        needed = len(_header(self._shape)) + 4 * self._shape[1] * self.done
        if os.fstat(self._file.fileno()).st_size < needed:
            raise UserError(
                f"{self.part}: is shorter than {self._state} says; leave --resume out to begin anew"
            )

    def _require_room(self, size):
        """Before hours of work, not after them."""
        room = os.statvfs(self.part)
        if size > room.f_bavail * room.f_frsize:
            raise UserError(
                f"{self.part}: needs {size / 1e6:.0f} MB, the disk has "
                f"{room.f_bavail * room.f_frsize / 1e6:.0f} MB left; free space or choose another "
                "place"
            )

    def _note(self):
        files.write_json(self._state, {"rows": self.done, "key": self._key})


def write_array(writer, shape, dtype, chunks):
    """Writes an .npy to an open binary file, chunk by chunk.

    Args:
      writer: anything with write(bytes).
      shape: tuple of int, of the whole.
      dtype: of the file.
      chunks: iterable of arrays [n, ...] that make up the whole.
    """
    writer.write(_header(shape, dtype))
    for chunk in chunks:
        writer.write(np.ascontiguousarray(chunk, dtype).tobytes())


def _header(shape, dtype=np.float32):
    header = io.BytesIO()
    described = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        header, {"descr": described, "fortran_order": False, "shape": tuple(shape)}
    )
    return header.getvalue()


@contextlib.contextmanager
def _explained(path):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free space and go on with "
            "--resume, or choose another place"
        ) from error
