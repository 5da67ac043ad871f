"""Graphs of training steps and scoring calls."""

import threading

import tensorflow as tf


def traced(function, xla):
    """A tf.function with one trace for each structure of its arguments, whatever their sizes; with
    xla compiled, which takes a trace for each shape.

    autograph=False, here and wherever a graph is made: no branch hangs on a tensor, and rewriting
    the code takes longer than tracing it.
    """
    if xla:
        return tf.function(function, autograph=False, jit_compile=True)
    # Scoring calls come from several threads; each structure is to be traced once.
    function, traces, tracing = tf.function(function, autograph=False), {}, threading.Lock()

    def call(*arguments):
        flat = tf.nest.flatten(arguments)
        kinds = tuple((tensor.dtype, tensor.shape.rank) for tensor in flat)
        key = (tuple(_keys(arguments)), kinds)
        with tracing:
            if key not in traces:
                specs = tf.nest.map_structure(
                    lambda tensor: tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype),
                    arguments,
                )
                traces[key] = function.get_concrete_function(*specs)
        return traces[key](*arguments)

    return call


def _keys(structure, path=()):
    """The paths of a structure's leaves."""
    if isinstance(structure, dict):
        for name, value in sorted(structure.items()):
            yield from _keys(value, (*path, name))
    elif isinstance(structure, list | tuple):
        for index, value in enumerate(structure):
            yield from _keys(value, (*path, index))
    else:
        yield path


def tensors(batch):
    return {name: tf.convert_to_tensor(values) for name, values in batch.items()}
