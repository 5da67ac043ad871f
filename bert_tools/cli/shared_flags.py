"""Flag groups that several commands share; names, types and defaults of the original scripts
first.
"""

import logging
import os

from bert_tools import files
from bert_tools.errors import UserError
from bert_tools.tasks import heads

log = logging.getLogger("bert_tools")

# The names that inputs.batches, distribution and estimator know, repeated since --help must not
# import TensorFlow.
_BATCHING = ("pack", "bucket", "pad")
_STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
_PRECISIONS = ("float32", "bfloat16", "float16", "auto")
_UNKNOWN_SHARE = 0.1  # A larger share of [UNK] means the wrong vocabulary for the language.


def define_model_flags(command, max_seq_length=128):
    """--bert and the originals' flags of model and vocabulary; max_seq_length None: without that
    flag."""
    command.group("Model")
    command.string(
        "bert",
        None,
        "The model: a folder (Google, Hugging Face, TF Hub, or an output_dir of these commands), a "
        "name (minilm, bert-base-uncased) or an address (hf://org/name, https://tfhub.dev/..., "
        "kaggle://..., gs://...). Stands for the next four flags, each of which wins when given.",
    )
    command.string("bert_config_file", None, "JSON file of the architecture.")
    command.string("vocab_file", None, "WordPiece vocabulary that the model was trained with.")
    command.string("init_checkpoint", None, "Checkpoint to start from, without .index or .data.")
    command.bool(
        "do_lower_case", True, "Lower-case the text: true for uncased models, false for cased ones."
    )
    if max_seq_length is not None:
        command.integer(
            "max_seq_length",
            max_seq_length,
            "Tokens a text or pair, specials included; longer is truncated.",
        )


def define_precision_flag(command):
    """--precision."""
    command.enum("precision", "float32", _PRECISIONS, "what matrix products are computed in.")


def define_compute_flags(command, batching=True):
    """How and on what to compute, with the originals' TPU flags."""
    command.group("Compute")
    define_precision_flag(command)
    if batching:
        command.enum(
            "batching", "pack", _BATCHING, "how examples are laid out; the results are the same."
        )
    command.enum("strategy", "auto", _STRATEGIES, "which devices to use.")
    command.bool("xla", False, "Compile the steps with XLA, in static shapes.")
    command.integer(
        "seed",
        12345,
        "Seed of new weights, order of examples and dropout; a resumed run keeps its own.",
        lower_bound=0,
        upper_bound=2**31 - 1,
    )
    command.bool("use_tpu", False, "As --strategy=tpu.")
    command.string("tpu_name", None, "Name or grpc:// address of a Cloud TPU.")
    command.string("tpu_zone", None, "Zone of the Cloud TPU.")
    command.string("gcp_project", None, "Project of the Cloud TPU.")
    command.string("master", None, "Address of a TPU, used when tpu_name is not given.")
    command.integer("num_tpu_cores", 8, "Read for compatibility; the TPU tells its number itself.")


def define_phase_flags(command, stdout_format="tsv"):
    """Phases, training and scoring, as every command that trains has them.

    Args:
      stdout_format: "tsv" or "jsonl", how predictions are written to stdout by default.
    """
    command.group("Phases (at least one, or --eval_file or --predict_file)")
    command.bool("do_train", False, "Train; goes on from output_dir's newest checkpoint.")
    command.bool("do_eval", False, "Evaluate on the dev set: eval_results.txt and .json.")
    command.bool("do_predict", False, "Predict the test set: test_results.tsv.")
    command.group("Scoring")
    command.string(
        "eval_file",
        None,
        "Files or globs, comma-separated, each with labels: a JSON line of metrics a file on "
        "stdout. Needs neither data_dir nor output_dir.",
    )
    command.string(
        "predict_file",
        None,
        "A file, or - for stdin: a prediction a line, in order. Needs neither data_dir nor "
        "output_dir.",
    )
    command.enum(
        "input_format",
        "auto",
        ("auto", "tsv", "csv", "jsonl"),
        "of predict_file and eval_file; auto: by the name, and tsv for stdin.",
    )
    command.string("predict_output", "-", "Where predictions of --predict_file go; - is stdout.")
    command.enum(
        "predict_format",
        "auto",
        ("auto", "tsv", "jsonl"),
        f"of predict_output; auto: by its name, and {stdout_format} on stdout.",
    )
    define_training_flags(command)
    define_evaluation_flags(command)


def define_evaluation_flags(command):
    """Evaluation after and while training."""
    command.integer(
        "eval_batch_size",
        8,
        "Examples a batch of the `loss` line in eval_results.txt.",
        lower_bound=1,
    )
    command.integer(
        "eval_steps",
        0,
        "While training, evaluate on the dev set every so many steps; 0: not before the end.",
        lower_bound=0,
    )
    command.string(
        "best_metric",
        None,
        "Keep the checkpoint that is best by this metric of eval_results.txt, and score with it.",
    )
    command.integer(
        "early_stopping_patience",
        0,
        "Stop after so many evaluations without a gain of best_metric; 0: never.",
        lower_bound=0,
    )


def define_training_flags(command):
    """Training and batches, as every command that trains has them."""
    command.group("Training and batches")
    command.integer(
        "train_batch_size", 32, "Examples a training step, over all devices.", lower_bound=1
    )
    command.integer(
        "predict_batch_size", 8, "Read for compatibility; batches are planned by length."
    )
    command.float("learning_rate", 5e-5, "Peak rate of Adam.", lower_bound=0)
    command.float(
        "num_train_epochs",
        3.0,
        "Passes over the training set; may be fractional.",
        lower_bound=0,
        upper_bound=1e6,
    )
    command.float(
        "warmup_proportion",
        0.1,
        "Share of the steps with linear warm-up.",
        lower_bound=0,
        upper_bound=1,
    )
    command.integer("max_train_steps", 0, "At most so many steps; 0: all.", lower_bound=0)
    command.integer(
        "gradient_accumulation_steps",
        1,
        "Compute a step's train_batch_size examples in so many parts: less memory, the same step.",
        lower_bound=1,
    )
    command.float(
        "layerwise_lr_decay",
        1.0,
        "Each layer's rate is the next higher layer's times this (ELECTRA's recipe).",
        lower_bound=0,
        upper_bound=1,
    )
    command.bool("freeze_encoder", False, "Train the head alone.")
    command.bool(
        "correct_bias",
        False,
        "Adam with bias correction, as PyTorch's AdamW, for recipes written for that; BERT's has "
        "none.",
    )
    command.integer("save_checkpoints_steps", 1000, "Steps between checkpoints.", lower_bound=1)
    command.integer("save_summary_steps", 100, "Steps between TensorBoard points.", lower_bound=1)
    command.integer("iterations_per_loop", 1000, "Read for compatibility.")


def define_pooling_flag(command):
    """--pooling of a head for whole texts."""
    command.enum(
        "pooling",
        "pooled",
        heads.POOLINGS,
        "what the head reads. pooled: pooled_output, as in the original; mean: the mean of the "
        "tokens; cls: [CLS] without the pooler; pair: the means of the two texts of a pair, "
        "compared, which learns quickest from sentence models. A trained model remembers.",
    )


def define_window_flags(command):
    """How a question's context is cut into windows."""
    command.integer(
        "doc_stride", 128, "Tokens from the beginning of one window to the next's.", lower_bound=1
    )
    command.integer(
        "max_query_length", 64, "Tokens of a question; further ones are cut off.", lower_bound=1
    )


def define_answer_flags(command):
    """How answers are chosen from the scores."""
    command.integer(
        "n_best_size",
        20,
        "Starts and ends of a window that are paired, and answers in nbest_predictions.json.",
        lower_bound=1,
    )
    command.integer("max_answer_length", 30, "Tokens of an answer at most.", lower_bound=1)
    command.bool(
        "version_2_with_negative",
        False,
        "A text may have no answer, as in SQuAD v2.0; a trained model remembers.",
    )
    command.float(
        "null_score_diff_threshold",
        0.0,
        "No answer is given where its score exceeds the best answer's by more than this.",
    )


def adopt_answer_flags(command, stored):
    """Gives the flags that a model which answers questions remembers (answering.REMEMBERED) their
    values, where the command line leaves them open.

    Args:
      stored: dict, what its bert_tools.json holds.
    """
    from bert_tools.squad.answering import REMEMBERED

    for name in REMEMBERED:
        if name in stored:
            command.adopt(name, stored[name])


def check_training_flags(command):
    """Flags that contradict each other, as UserError."""
    if command.early_stopping_patience and not (command.best_metric and command.eval_steps):
        raise UserError(
            f"--early_stopping_patience={command.early_stopping_patience}: needs --best_metric "
            "and --eval_steps; give both"
        )
    if command.predict_file and command.eval_file and command.predict_output == "-":
        raise UserError(
            "--eval_file and --predict_file both write to stdout; give --predict_output=FILE"
        )


def load_model(command, fallback_dir=None):
    """The model that the flags name (hub.Model).

    Args:
      command: CommandFlags.
      fallback_dir: str or None, an output_dir that is used as --bert when no model flag is given.

    Raises:
      UserError: no model is named, or it cannot be loaded.
    """
    handle = command.bert
    if not handle and not command.bert_config_file:
        require_model(command, fallback_dir)
        handle = fallback_dir
    model = _load_parts(command, handle, seed=command.seed)
    positions = model.config.max_position_embeddings
    if command.max_seq_length > positions:
        if command.given("max_seq_length"):
            raise UserError(
                f"--max_seq_length={command.max_seq_length}: the model has {positions} positions; "
                f"give at most {positions}"
            )
        command.adopt("max_seq_length", positions)
    return model


def require_model(command, fallback_dir=None):
    """UserError when nothing names a model; see `load_model`."""
    described = fallback_dir and os.path.exists(os.path.join(fallback_dir, "bert_tools.json"))
    if not (command.bert or command.bert_config_file or described):
        raise UserError(
            "--bert is missing; give a model folder or minilm (or --bert_config_file, --vocab_file "
            "and --init_checkpoint)"
        )


def load_stored_model(command):
    """As load_model, for commands that look at a model and do not run it over texts: there must be
    one, so fresh weights are none."""
    if not command.bert and not command.init_checkpoint:
        raise UserError(
            "--bert is missing; give a model folder or minilm (or --bert_config_file, "
            "--vocab_file and --init_checkpoint)"
        )
    return _load_parts(command, command.bert)


def _load_parts(command, handle, **options):
    from bert_tools import hub

    return hub.load_parts(
        handle,
        command.bert_config_file,
        command.vocab_file,
        command.init_checkpoint,
        # Without --bert the flag's default counts, as in the originals.
        command.do_lower_case if command.given("do_lower_case") or not handle else None,
        **options,
    )


def require_place(command, flag, *others):
    """Before any work: that the file which a flag names can lie there.

    Args:
      others: str, flags of other files, none of which may be the same.

    Raises:
      UserError: it cannot, or would take the place of another one.
    """
    path = getattr(command, flag)
    folder = os.path.dirname(path)
    if os.path.isdir(path) or (folder and not os.path.isdir(folder)):
        raise UserError(f"--{flag}={path}: cannot be written there; name a file in a folder")
    files.require_own_name(path)
    place = os.path.realpath(path)
    above = os.path.dirname(place)
    replaced = os.path.isfile(place) or not os.path.exists(place)  # A device (/dev/null) is not.
    if path != "-" and replaced and not os.access(above, os.W_OK):
        raise UserError(f"--{flag}={path}: {above} may not be written; choose another folder")
    for other in others:
        name = getattr(command, other)
        if not name or "-" in (path, name):
            continue
        if replaced and place == os.path.realpath(name):
            raise UserError(
                f"--{flag}={path}: is --{other} too, which it would take the place of; name "
                "another file"
            )


def number_range(command, name):
    """(low, high) of a flag that holds LOW,HIGH, or None where it is not given.

    Raises:
      UserError: it is no range.
    """
    text = getattr(command, name)
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not (low < high and high - low < float("inf")):
        raise UserError(f"--{name}={text}: expected LOW,HIGH, such as 0,5")
    return low, high


def layer_numbers(command):
    """--layers as a list of int.

    Raises:
      UserError: it is none.
    """
    try:
        return [int(number) for number in command.layers.split(",")]
    except ValueError:
        raise UserError(
            f"--layers={command.layers}: expected numbers, comma-separated, such as -1,-2"
        ) from None


def warn_of_unknown(name, tokens, unknown):
    """Warns when too many of a file's tokens (int, int) are [UNK]."""
    if unknown > _UNKNOWN_SHARE * tokens:
        log.warning(
            "%s: %.0f %% of the tokens are [UNK]; the vocabulary does not fit the language",
            name,
            100 * unknown / tokens,
        )


def precision(command):
    """--precision with auto resolved for this machine; warns of one that this machine is slow
    at.
    """
    from bert_tools import distribution

    return distribution.resolve_precision(command.precision)


def strategy(command):
    """The tf.distribute strategy of --strategy and the TPU flags."""
    from bert_tools import distribution

    name = "tpu" if command.use_tpu else command.strategy
    return distribution.make_strategy(
        name, command.tpu_name or command.master, command.tpu_zone, command.gcp_project
    )
