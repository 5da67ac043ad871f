"""What every command does around its main: flags, help, logs, errors in one sentence, exit
status.
"""

import gc
import logging
import math
import os
import re
import signal
import sys
import tempfile

from absl import flags

from bert_tools import allocator
from bert_tools.errors import UserError

log = logging.getLogger("bert_tools")


class CommandFlags:
    """The flags of one command, in groups; read them as attributes after `parse`.

    A command has its own set, so that several commands live in one process and --help shows them
    all.
    """

    def __init__(self):
        self._values = flags.FlagValues()
        self._groups = []

    def group(self, title):
        """Starts a group of --help; the flags defined from here on belong to it."""
        self._groups.append((title, []))

    def string(self, name, default, meaning):
        self._define(flags.DEFINE_string, name, default, meaning)

    def integer(self, name, default, meaning, **bounds):
        """bounds: lower_bound, upper_bound (both included)."""
        self._define(flags.DEFINE_integer, name, default, meaning, **bounds)

    def float(self, name, default, meaning, **bounds):
        """bounds: lower_bound, upper_bound (both included)."""
        self._define(flags.DEFINE_float, name, default, meaning, **bounds)

    def bool(self, name, default, meaning):
        self._define(flags.DEFINE_bool, name, default, meaning)

    def enum(self, name, default, choices, meaning):
        flags.DEFINE_enum(name, default, list(choices), meaning, flag_values=self._values)
        self._groups[-1][1].append(name)

    def alias(self, name, original):
        """Another name of a flag."""
        flags.DEFINE_alias(name, original, flag_values=self._values)
        self._groups[-1][1].append(name)

    def _define(self, definition, name, default, meaning, **bounds):
        definition(name, default, meaning, flag_values=self._values, **bounds)
        self._groups[-1][1].append(name)

    def __getattr__(self, name):
        return getattr(self._values, name)

    def given(self, name):
        """Whether the command line sets the flag."""
        return self._values[name].present > 0

    def parse(self, arguments):
        """Reads a command line without the program's name.

        Raises:
          UserError: an unknown flag, a value that does not fit, or words that belong to no flag.
        """
        try:
            words = self._joined(self._with_flagfiles(arguments))
            left = self._values(["command", *words])[1:]
        except flags.UnrecognizedFlagError as error:
            raise UserError(f"{_sentence(error)}; --help lists the flags") from error
        except flags.CantOpenFlagFileError as error:
            reason = error.__context__
            raise UserError(
                f"--flagfile={reason.filename}: cannot be read ({reason.strerror}); check the path"
            ) from error
        except (flags.Error, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{_sentence(error)}; see --help") from error
        if left:
            raise UserError(f"{left[0]!r} belongs to no flag; write --flag=value, see --help")
        for name in self._values:
            value = self._values[name].value
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{name}={value}: expected a finite number; correct it")
            # Shells leave the ~ of --flag=~/x as it stands.
            if isinstance(value, str) and value.startswith("~/"):
                self._values[name].value = os.path.expanduser(value)

    def adopt(self, name, value):
        """Gives the flag a value that the command line leaves open."""
        if not self.given(name):
            self._values[name].value = value

    def require(self, *names):
        """Raises UserError when one of the flags has no value."""
        for name in names:
            if getattr(self, name) in (None, ""):
                raise UserError(f"--{name} is missing; give it, see --help")

    def help(self, about):
        """The text of --help."""
        lines = [about.strip(), ""]
        for title, names in self._groups:
            lines.append(f"{title}:")
            for name in names:
                flag = self._values[name]
                default = "" if flag.default is None else flag.default_as_str.strip("'")
                lines.append(f"  --{name}={default}\n      {flag.help}")
            lines.append("")
        lines.append(
            "Also: --flagfile=FILE reads flags from a file, one a line; --help shows this text."
        )
        return "\n".join(lines)

    def _with_flagfiles(self, arguments):
        """The arguments with the lines of each --flagfile in its place; there, too, a flag and its
        value may be words apart.
        """
        words, arguments = [], list(arguments)
        while arguments:
            word = arguments.pop(0)
            if word.lstrip("-").partition("=")[0] != "flagfile" or not word.startswith("-"):
                words.append(word)
                continue
            directive = [word] if "=" in word else [word, *arguments[:1]]
            del arguments[: len(directive) - 1]
            for line in self._values.read_flags_from_files(directive):
                name, *value = line.split(None, 1)
                words += [name, *value] if "=" not in name else [line]
        return words

    def _joined(self, arguments):
        """`--do_train True`, which the originals took for --do_train, as one word.

        They took `--do_train False` for --do_train too, which nobody means: that is an error.
        """
        joined = []
        for word in arguments:
            name = joined[-1].lstrip("-") if joined else ""
            boolean = name in self._values and isinstance(self._values[name], flags.BooleanFlag)
            if boolean and joined[-1].startswith("-") and word.lower() in ("true", "1"):
                joined[-1] = f"--{name}=true"
            elif boolean and joined[-1].startswith("-") and word.lower() in ("false", "0"):
                raise UserError(
                    f"--{name} {word}: the original scripts read this as --{name}=true; "
                    f"write --{name}={word.lower()}"
                )
            else:
                joined.append(word)
        return joined


def run(about, command_flags, main, arguments=None):
    """Runs a command and returns its exit status: 0 when the work is done, 1 after an error.

    Args:
      about: str, the head of --help.
      command_flags: CommandFlags.
      main: function(CommandFlags), the command itself.
      arguments: list of str, or None for sys.argv.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_closed_streams()
    help_asked = any(word in ("--help", "-help", "-h", "--helpfull") for word in arguments)
    # TensorFlow's own start-up messages; what concerns a user comes through `log`.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _log_to_stderr()
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        if help_asked:
            print(command_flags.help(about))
        else:
            command_flags.parse(arguments)
            main(command_flags)
        sys.stdout.flush()
        return 0
    except UserError as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (`| head`) has seen enough.
        _give_up_stdout()
        return 1
    except OSError as error:
        what = f"{error.filename}: " if error.filename else "output: "
        print(f"error: {what}{error.strerror or error}; see to it and run again", file=sys.stderr)
        if not error.filename:
            _give_up_stdout()
        return 1
    except Exception as error:
        # tf.errors.ResourceExhaustedError; TensorFlow may not be loaded.
        if type(error).__name__ != "ResourceExhaustedError":
            raise
        reason = str(error).partition("\n")[0]
        print(
            f"error: out of memory ({reason}); lower --max_seq_length, or in training "
            "--train_batch_size, or raise --gradient_accumulation_steps",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        trains = getattr(command_flags, "do_train", False)
        then = "; training goes on where it stopped when run again" if trains else ""
        print(f"interrupted{then}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def import_tensorflow():
    """Imports TensorFlow without its start-up messages, which come before any log level can reach
    them.

    They stay where there is a GPU, since they say why one is not used.
    """
    allocator.keep_freed_memory()
    if os.path.exists("/dev/nvidia0"):
        tf = _quickly_imported()
    else:
        sys.stderr.flush()
        stderr = os.dup(2)
        with tempfile.TemporaryFile() as messages:
            os.dup2(messages.fileno(), 2)
            try:
                tf = _quickly_imported()

                # With TF_CONFIG a cluster is joined first, by --strategy=multi_worker.
                if "TF_CONFIG" not in os.environ:
                    tf.config.list_logical_devices()
            except Exception:
                messages.seek(0)
                os.write(stderr, messages.read())
                raise
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
    tf.get_logger().setLevel("ERROR")


def _quickly_imported():
    """The tensorflow module. It imports Keras where it finds it, and scikit-learn with that: a
    third of its start, for nothing (`tf.keras` works all the same). And nothing that an import
    makes is garbage, which Python would look for many times, and once more when it ends.
    """
    if "tensorflow" in sys.modules:  # What else there is by now may well be garbage.
        return sys.modules["tensorflow"]
    hide, collect = "keras" not in sys.modules, gc.isenabled()
    if hide:
        sys.modules["keras"] = None
    gc.disable()
    try:
        import tensorflow
    finally:
        if hide:
            del sys.modules["keras"]
        gc.freeze()
        if collect:
            gc.enable()
    return tensorflow


def _open_closed_streams():
    """What the shell closed (`<&-`, `>&-`, `2>&-`): its number must not go to a data file."""
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
    if sys.stdout is None:
        # What is written must fail.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if hasattr(sys.stdout, "reconfigure"):
        # Whatever the locale: results are UTF-8, and names of files stay as they are.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def _give_up_stdout():
    """Drops what stdout could not take; Python would complain once more when it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminate(number, _):
    raise SystemExit(128 + number)


def _log_to_stderr():
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def _sentence(error):
    # absl puts a tuple of words into some of its messages.
    text = re.sub(r"\('([^']*)', '([^']*)'\)", r"\1: \2", str(error))
    return " ".join(text.split()).rstrip(".")
