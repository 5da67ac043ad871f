"""Texts to vectors, from Python.

encoder = Encoder.load("minilm")
vectors = encoder.encode(["How are you?", ("How old are you?", "I am six.")])  # float32 [2, 384]
"""

import concurrent.futures
import itertools
import os
import queue
import threading

import numpy as np
import tensorflow as tf

from bert_tools import hub, threads
from bert_tools.encoder import encode, scoring_weights
from bert_tools.errors import UserError
from bert_tools.estimator.spec import compute_dtype
from bert_tools.inputs import batches
from bert_tools.inputs.features import check_max_seq_length, convert_texts
from bert_tools.sentence import pooling as pools

# Texts that are sorted by length together: enough that blocks hold equal lengths, few enough for
# flat memory.
WINDOW = 8192
# Below, a call costs more than the work; above, it leaves the caches.
_TOKENS = {"float32": 1024}
_TOKENS_REDUCED = 2048
# bfloat16 matrices that are constants of the graph are a third faster on a CPU, and held several
# times: up to this many bytes that is nothing.
_CONSTANT_BYTES = 64 << 20
_MATRICES = ("qkv/kernel", "dense/kernel")


class Encoder:
    """Computes sentence vectors; keeps its graph and weights from call to call.

    A text's vector does not depend on the texts beside it to within 1e-5 (float32, vectors of
    length 1); with batching "pad" not by a bit.

    Args:
      model: hub.Model. Its weights are taken out of its dict, so that they are not held twice.
      pooling: one of pooling.POOLINGS, a sequence of them (their vectors joined), or "auto": what
        the model's folder says, normalising and length included, else "mean".
      layers: sequence of int, which layers' tokens are pooled; 0 is the embeddings, -1 the last;
        several are joined.
      normalize: bool, scale vectors to length 1; None: as the folder says with "auto", else False.
      max_seq_length: int, longer texts are truncated; None: what the folder says with "auto", else
        128, at most the model's positions.
      precision: see RunConfig.
      batching: "bucket", "pack" or "pad", see inputs.batches; "pad" computes in one shape.
      xla: bool, compile the graph, for one shape with one text a row.
      prefix: str, set before each text ("query: ").
      devices: list of str, where to compute; default: the first GPU, else the CPU.

    Attributes:
      width: int, the length of a vector.
      poolings, layers, normalize, max_seq_length: what is computed, "auto" resolved.
      tokens, unknown: int, how many tokens were read, and how many of them [UNK].

    Raises:
      UserError: the model lacks what is asked for.
    """

    def __init__(
        self,
        model,
        pooling="auto",
        layers=(-1,),
        normalize=None,
        max_seq_length=None,
        precision="float32",
        batching="bucket",
        xla=False,
        prefix="",
        devices=None,
    ):
        config = model.config
        if pooling == "auto":
            recipe = pools.recipe(model)
        else:
            poolings = (pooling,) if isinstance(pooling, str) else tuple(pooling)
            recipe = pools.Recipe(poolings, False, None)
        if normalize is not None:
            recipe = recipe._replace(normalize=normalize)
        self._recipe, self.normalize = recipe, recipe.normalize
        self.poolings, self.layers = recipe.poolings, tuple(layers)
        self.max_seq_length = max_seq_length or min(
            recipe.max_seq_length or 128, config.max_position_embeddings
        )
        self._check(model)
        layered = sum(name in pools.LAYERED for name in self.poolings)
        parts = layered * len(self.layers) + len(self.poolings) - layered
        self.width = parts * config.hidden_size
        if recipe.dense:
            self.width = model.weights[pools.DENSE[0]].shape[1]
        self.tokens = self.unknown = 0
        self._config, self._tokenizer, self._prefix = config, model.tokenizer, prefix
        packs = not xla and config.graph is None
        self._mode = "bucket" if batching == "pack" and not packs else batching
        self._static, self._xla = xla or batching == "pad", xla
        self._dtype = compute_dtype(precision)
        self._budget = _TOKENS.get(precision, _TOKENS_REDUCED)
        if not devices:
            devices = ["/GPU:0" if tf.config.list_logical_devices("GPU") else "/CPU:0"]
        on_cpu = "CPU" in devices[0].upper()
        # One call at a time leaves cores idle between its operations.
        self._calls = len(os.sched_getaffinity(0)) if on_cpu else 2 * len(devices)
        self._devices = list(devices)
        self._functions = self._build(model, on_cpu)
        # Texts are tokenised meanwhile.
        starter = concurrent.futures.ThreadPoolExecutor(1)
        self._prepared = starter.submit(self._prepare)
        starter.shutdown(wait=False)

    @classmethod
    def load(cls, handle, **options):
        """An Encoder of the model that hub.load(handle) reads; options as the class takes them."""
        return cls(hub.load(handle), **options)

    def encode(self, texts):
        """The vectors of texts.

        Args:
          texts: iterable of str, or of (str, str) for pairs; one str is one text.

        Returns:
          float32 array [texts, width], in the order of the texts; always two-dimensional.
        """
        texts = iter([texts] if isinstance(texts, str) else texts)
        windows = iter(lambda: list(itertools.islice(texts, WINDOW)), [])
        found = list(self.stream(windows))
        return np.concatenate(found) if found else np.zeros((0, self.width), np.float32)

    def stream(self, windows):
        """The vectors of many texts, window by window, in constant memory. Reading, tokenising,
        computing and what is done with the vectors overlap.

        Args:
          windows: iterable of lists of texts, as `encode` takes them; read by another thread.

        Yields:
          float32 array [texts, width] of each window, in order.
        """
        begun = queue.Queue(1)
        with threads.Pool(self._calls) as pool:

            def read():
                try:
                    for window in windows:
                        begun.put(self._begin(pool, window))
                    begun.put(None)
                except BaseException as error:
                    begun.put(error)

            # A daemon: when nobody wants more vectors, nobody waits for the rest of the texts.
            threading.Thread(target=read, daemon=True).start()
            while (window := begun.get()) is not None:
                if isinstance(window, BaseException):
                    raise window
                vectors, calls = window
                for call in calls:
                    call.result()
                yield vectors

    def _check(self, model):
        check_max_seq_length(self.max_seq_length, model.tokenizer.pair_separators)
        config, count = model.config, model.config.num_hidden_layers
        unknown = [name for name in self.poolings if name not in pools.POOLINGS]
        if unknown or not self.poolings:
            raise UserError(
                f"--pooling={','.join(unknown)}: expected {', '.join(pools.POOLINGS)} or auto"
            )
        if self.max_seq_length > config.max_position_embeddings:
            raise UserError(
                f"--max_seq_length={self.max_seq_length}: the model has "
                f"{config.max_position_embeddings} positions; give at most as many"
            )
        graph = config.graph
        asked = self.layers != (-1,) or "first_last_mean" in self.poolings
        if graph is not None and not graph.gives_layers and asked:
            raise UserError(
                f"--layers={','.join(map(str, self.layers))}, --pooling={','.join(self.poolings)}: "
                f"the SavedModel {model.source} gives its last layer alone; give --layers=-1 and "
                "another pooling than first_last_mean"
            )
        for layer in self.layers:
            if not -count - 1 <= layer <= count or (graph is not None and layer in (0, -count - 1)):
                first = "and the embeddings are 0" if graph is None else "numbered from 1"
                raise UserError(
                    f"--layers={','.join(map(str, self.layers))}: the model has {count} layers, "
                    f"{first}; {layer} is none of them"
                )
        if self.layers != (-1,) and not any(name in pools.LAYERED for name in self.poolings):
            raise UserError(
                f"--layers={','.join(map(str, self.layers))}: goes with --pooling of "
                f"{', '.join(pools.LAYERED)}; leave it out"
            )
        if "pooled" in self.poolings and not model.has_pooler:
            raise UserError(
                f"--pooling=pooled: {model.source} has no pooler; choose another, such as mean"
            )

    def _build(self, model, on_cpu):
        """A tf.function from a batch to its vectors, for each device."""
        config, dtype = self._config, self._dtype
        if "pooled" not in self.poolings:
            for part in ("kernel", "bias"):
                model.weights.pop(f"bert/pooler/dense/{part}", None)
        matrices = sum(a.size for name, a in model.weights.items() if name.endswith("/kernel"))
        fold = on_cpu and not self._xla and dtype == tf.bfloat16 and 2 * matrices <= _CONSTANT_BYTES
        constants, captured = {}, [{} for _ in self._devices]
        for name in pools.DENSE if self._recipe.dense else ():
            for device, weights in zip(self._devices, captured, strict=True):
                with tf.device(device):
                    weights[name] = tf.constant(model.weights[name], tf.float32)
        for name, array in scoring_weights(config, model.weights):
            # LayerNorm is computed in float32, and rounded gammas would cost accuracy for nothing.
            kind = tf.float32 if "LayerNorm" in name else dtype
            if fold and name.endswith(_MATRICES):
                constants[name] = array.astype(kind.as_numpy_dtype).view(np.int16)
                continue
            for device, weights in zip(self._devices, captured, strict=True):
                with tf.device(device):
                    weights[name] = tf.constant(array, kind)
        functions = [self._traced(weights, constants) for weights in captured]
        constants.clear()  # The graph has them.
        return functions

    def _traced(self, captured, constants):
        names = ["input_ids", "input_mask", "segment_ids"]
        if self._mode == "pack":
            names.append("position_ids")
        signature = {name: tf.TensorSpec([None, None], tf.int32) for name in names}
        signature["first_positions"] = tf.TensorSpec([None], tf.int32)

        def compute(batch):
            weights = dict(captured)
            for name, bits in constants.items():
                weights[name] = tf.bitcast(tf.constant(bits), tf.bfloat16)
            output = encode(self._config, weights, batch, dtype=self._dtype)
            return pools.vectors(output, batch, self._recipe, self.layers, weights)

        if self._xla:
            return tf.function(compute, autograph=False, jit_compile=True)
        function = tf.function(compute, autograph=False, input_signature=[signature])
        return function.get_concrete_function()

    def _prepare(self):
        """One small call: the first one optimises the graph and copies its constants, and two at
        once would each do so.
        """
        if self._xla:  # Which compiles anew for each shape.
            return
        names = ("input_ids", "input_mask", "segment_ids", "position_ids")
        batch = {name: np.zeros((1, 3), np.int32) for name in names}
        batch["input_mask"] += 1
        batch["first_positions"] = np.zeros(1, np.int32)
        if self._mode != "pack":
            del batch["position_ids"]
        for device in range(len(self._devices)):
            self._run(batch, device)

    def _run(self, batch, device):
        with tf.device(self._devices[device]):
            tensors = {name: tf.convert_to_tensor(values) for name, values in batch.items()}
            return self._functions[device](tensors).numpy()

    def _begin(self, pool, texts):
        """Hands a window's blocks to the pool: (vectors, the calls that fill them)."""
        firsts = [text if isinstance(text, str) else text[0] for text in texts]
        seconds = [None if isinstance(text, str) else text[1] for text in texts]
        features = convert_texts(
            [self._prefix + text for text in firsts] if self._prefix else firsts,
            seconds,
            self.max_seq_length,
            self._tokenizer,
        )
        self.tokens += len(features.input_ids)
        self.unknown += int(np.sum(features.input_ids == self._tokenizer.unk_id))
        blocks = batches.plan(
            features.lengths, self._mode, self._budget, self.max_seq_length, self._static
        )
        vectors = np.empty((len(texts), self.width), np.float32)
        calls = [
            pool.submit(self._fill, vectors, features, block, number % len(self._devices))
            for number, block in enumerate(blocks)
        ]
        return vectors, calls

    def _fill(self, vectors, features, block, device):
        batch = batches.assemble(features, block)
        rows, width = block.shape
        count = len(block.examples)
        if not block.packed:  # Rows that only fill the shape up are computed and dropped.
            batch["first_positions"] = np.arange(rows, dtype=np.int32) * width
        if self._mode == "pack" and "position_ids" not in batch:
            batch["position_ids"] = np.broadcast_to(np.arange(width, dtype=np.int32), (rows, width))
        self._prepared.result()
        vectors[block.examples] = self._run(batch, device)[:count]
