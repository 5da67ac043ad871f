"""The scoring graph and its weights, on each device."""

import concurrent.futures
import os
import threading

import numpy as np
import tensorflow as tf

from bert_tools.estimator.spec import compute_dtype
from bert_tools.estimator.tracing import tensors, traced


class Scorer:
    """The scoring graph on each local device, with its weights; built once, run as often as
    asked.
    """

    def __init__(self, model_fn, params, config, strategy):
        self._model_fn, self._params, self._config = model_fn, params, config
        self._dtype = compute_dtype(config.precision)
        self._devices = strategy.extended.worker_devices
        self._weights = None
        self._functions = {}
        self._building = threading.Lock()
        self.step = None  # int, of the weights that it has.

    def assign(self, weights, step):
        """Takes over weights {name: Variable or array}, unless they are those of the step that it
        has.
        """
        if self._weights is None:
            self._weights = []
            for device in self._devices:
                with tf.device(device):
                    self._weights.append(
                        {
                            name: tf.Variable(self._cast(name, w), trainable=False)
                            for name, w in weights.items()
                        }
                    )
        elif step != self.step:
            for copies in self._weights:
                for name, weight in weights.items():
                    copies[name].assign(self._cast(name, weight))
        self.step = step

    def compare(self, vectors, features, batch_size):
        """The task's objective on vectors [n, texts, width], in batches: {name: array [n]}; {}
        where it cannot be computed on such examples.
        """
        task, weights = self._model_fn.task, self._weights[0]
        if not task.can_compare(vectors.shape[1], features):
            return {}
        columns = {name: features[name] for name in task.label_columns if name in features}
        found = []
        for start in range(0, len(vectors), batch_size):
            part = vectors[start : start + batch_size]
            texts = part.shape[1]
            told = {
                name: tf.repeat(values[start : start + batch_size], texts, axis=0)
                for name, values in columns.items()
            }
            flat = tf.constant(part.reshape(len(part) * texts, -1))
            losses, predictions = task.compare(weights, flat, told, len(part))
            found.append({"per_example_loss": losses, **predictions})
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def run(self, data, mode, steps, parallel):
        """Yields (indices, (predictions, metrics)) of each block, in the order of `data`."""
        if not parallel:
            for indices, batch in data:
                yield indices, self._call(0, tensors(batch), mode)
            return
        on_cpu = "CPU" in self._devices[0]
        # One call at a time leaves cores idle between its operations.
        calls = (os.cpu_count() or 1) if on_cpu else 2 * len(self._devices)
        waiting = []
        with concurrent.futures.ThreadPoolExecutor(calls) as pool:
            for number, (indices, batch) in enumerate(data):
                if steps is not None and number >= steps:
                    break
                which = number % len(self._devices)
                waiting.append((indices, pool.submit(self._call, which, tensors(batch), mode)))
                if len(waiting) > 2 * calls:
                    indices, result = waiting.pop(0)
                    yield indices, result.result()
            for indices, result in waiting:
                yield indices, result.result()

    def _call(self, which, batch, mode):
        with self._building:
            if (which, mode) not in self._functions:
                self._functions[which, mode] = self._build(which, mode)
        with tf.device(self._devices[which]):
            predictions, metrics = self._functions[which, mode](batch)
        return (
            {name: value.numpy() for name, value in predictions.items()},
            {name: (total.numpy(), count.numpy()) for name, (total, count) in metrics.items()},
        )

    def _build(self, which, mode):
        params = {**self._params, "weights": self._weights[which], "dtype": self._dtype}

        def score(batch):
            spec = self._model_fn(batch, None, mode, params)
            return spec.predictions, spec.metrics

        return traced(score, self._config.xla)

    def _cast(self, name, weight):
        # The head is computed in float32 in every precision.
        value = weight.numpy() if hasattr(weight, "numpy") else weight
        return tf.cast(value, self._dtype if name.startswith("bert/") else tf.float32)
