"""A training step: gradients of its examples, in blocks, parts and on devices, and the update."""

import tensorflow as tf

from bert_tools.distribution import is_tpu
from bert_tools.estimator.spec import ModeKeys, compute_dtype
from bert_tools.estimator.tracing import traced


def training_step(model_fn, strategy, config, params, weights, slots):
    """Makes what computes a step.

    Args:
      model_fn, config, params: as of Estimator.
      strategy: tf.distribute.Strategy.
      weights, slots: dicts of float32 Variables, which a step changes.

    Returns:
      function(shares, rng, coefficients, loss_scale) -> (loss of the step, whether gradients were
      finite). shares: for each part of the step its blocks, or a distributed value of them;
      coefficients: of the optimizer.
    """
    scaled = config.precision == "float16"
    replicas = strategy.num_replicas_in_sync
    parts = config.gradient_accumulation_steps
    optimizer, task = model_fn.optimizer, model_fn.task
    on_one_cpu = replicas == 1 and "CPU" in strategy.extended.worker_devices[0]
    # XLA has no shapes that depend on values.
    optimizer.track_rows(slots if on_one_cpu and not config.xla else {})
    trained = {name: weight for name, weight in weights.items() if optimizer.trains(name)}
    compares = getattr(task, "compares_texts", False)
    # Texts that are compared with those of other blocks, parts or devices.
    across = compares and (replicas > 1 or parts > 1 or config.batching == "bucket")

    def on_replicas(function):
        """The function traced to run on each replica; for several its results are per replica."""
        if replicas == 1:
            return traced(function, config.xla)
        return tf.function(
            lambda *arguments: strategy.run(function, arguments),
            autograph=False,
            reduce_retracing=True,
        )

    def first(value):
        """This process's first replica's value."""
        return strategy.experimental_local_results(value)[0]

    def training_params(rng, index):
        return {
            **params,
            "weights": weights,
            "dtype": compute_dtype(config.precision),
            "rng": tf.random.experimental.stateless_fold_in(rng, index),
            "examples": params["batch_size"] // (replicas * parts),
        }

    def differentiate(blocks, rng, loss_scale, wanted=None):
        """(loss, gradients) of a share, which sum over all shares to those of the step.

        wanted: the gradient of the step's loss by the vectors of the share's texts, where
        these are compared across shares; the loss is then not that of the examples.
        """
        counts = [_example_count(block) for block in blocks]
        total = tf.cast(tf.add_n(counts), tf.float32) * (replicas * parts)
        losses, found = [], []
        for index, block in enumerate(blocks):
            told = training_params(rng, index)
            with tf.GradientTape() as tape:
                if wanted is None:
                    spec = model_fn(block, None, ModeKeys.TRAIN, told)
                    # Each share and block gives its part, so that the sum is the mean over
                    # the step.
                    loss = spec.loss * (tf.cast(counts[index], tf.float32) / total)
                    target = loss * loss_scale if scaled else loss
                else:
                    vectors = model_fn.vectors(block, ModeKeys.TRAIN, told)
                    target = loss = tf.reduce_sum(vectors * tf.gather(wanted, block["places"]))
            found.append(tape.gradient(target, trained))
            losses.append(loss)
        gradients = {
            name: _sum_gradients([gradients[name] for gradients in found])
            for name in trained
            if found[0][name] is not None
        }
        return tf.add_n(losses), gradients

    if config.xla and replicas > 1 and not is_tpu(strategy):
        # What sums over CPU devices cannot be compiled along.
        differentiate = tf.function(differentiate, autograph=False, jit_compile=True)

    def share_rng(rng, part):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.random.experimental.stateless_fold_in(rng, part * replicas + replica)

    def total_loss(loss):
        if replicas == 1:
            return loss
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, loss)

    def apply(gradients, coefficients, loss_scale, squares=None):
        return optimizer.apply_gradients(
            gradients, weights, slots, coefficients, loss_scale if scaled else None, squares
        )

    def whole(blocks, rng, coefficients, loss_scale):
        loss, gradients = differentiate(blocks, share_rng(rng, 0), loss_scale)
        return total_loss(loss), apply(gradients, coefficients, loss_scale)

    if parts == 1 and not across:
        whole = on_replicas(whole)

        def step(shares, rng, coefficients, loss_scale):
            loss, finite = whole(shares[0], rng, coefficients, loss_scale)
            return first(loss), first(finite)

        return step

    with strategy.scope():
        sums = {
            name: tf.Variable(
                tf.zeros(weight.shape),
                trainable=False,
                # Each replica has its own.
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
            for name, weight in trained.items()
        }
    reached = set()  # Names with a gradient at all, noted when `accumulate` is traced.

    def add(gradients):
        reached.update(gradients)
        for name, gradient in gradients.items():
            sums[name].assign_add(tf.convert_to_tensor(gradient))
        return optimizer.squares_of_slices(gradients)

    def accumulate(blocks, rng, part, loss_scale):
        loss, gradients = differentiate(blocks, share_rng(rng, part), loss_scale)
        return total_loss(loss), add(gradients)

    def accumulate_wanted(blocks, rng, part, loss_scale, wanted):
        return add(differentiate(blocks, share_rng(rng, part), loss_scale, wanted)[1])

    def embed(blocks, rng, part):
        """The vectors of a share's texts and what their objective is told, in order."""
        rng = share_rng(rng, part)
        return in_places(
            [block["places"] for block in blocks],
            [
                model_fn.vectors(block, ModeKeys.TRAIN, training_params(rng, index))
                for index, block in enumerate(blocks)
            ],
            [{n: b[n] for n in task.label_columns if n in b} for b in blocks],
        )

    def compare(found, loss_scale):
        """(loss of the step, its gradients by the vectors of each of this device's parts)."""
        context = tf.distribute.get_replica_context()
        own = tf.nest.map_structure(lambda *several: tf.concat(several, 0), *found)
        vectors, columns = own if replicas == 1 else context.all_gather(own, 0)
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            losses, _ = task.compare(weights, vectors, columns, params["batch_size"])
            loss = tf.reduce_mean(losses)
            target = loss * loss_scale if scaled else loss
        wanted, of_head = tape.gradient(target, (vectors, trained))
        # Every device finds those of the whole step, and they are summed over devices.
        add({name: g / replicas for name, g in of_head.items() if g is not None})
        wanted = tf.reshape(wanted, [replicas, parts, -1, tf.shape(vectors)[-1]])
        return loss, tf.unstack(wanted[context.replica_id_in_sync_group])

    def finish(squares, coefficients, loss_scale):
        # What is read from a variable has no device, which a sum over several workers asks for.
        gradients = {name: tf.identity(value) for name, value in sums.items() if name in reached}
        squares = {name: tf.add_n([part[name] for part in squares]) for name in squares[0]}
        finite = apply(gradients, coefficients, loss_scale, squares)
        for name, gradient in gradients.items():
            sums[name].assign(tf.zeros_like(gradient))
        return finite

    accumulate, finish = on_replicas(accumulate), on_replicas(finish)
    embed, compare = on_replicas(embed), on_replicas(compare)
    accumulate_wanted = on_replicas(accumulate_wanted)

    def step_across_parts(shares, rng, coefficients, loss_scale):
        """The gradients by the vectors are kept, and each part is computed once more to hand
        them on to the weights, so that no more than one part's activations are held (GradCache,
        Gao et al. 2021, https://arxiv.org/abs/2101.06983).
        """
        numbers = [tf.constant(part) for part in range(parts)]
        found = [embed(blocks, rng, part) for part, blocks in zip(numbers, shares, strict=True)]
        loss, wanted = compare(found, loss_scale)
        squares = [
            accumulate_wanted(blocks, rng, part, loss_scale, one)
            for part, blocks, one in zip(numbers, shares, wanted, strict=True)
        ]
        finite = finish(squares, coefficients, loss_scale)
        return first(loss), first(finite)

    def step_in_parts(shares, rng, coefficients, loss_scale):
        results = [
            accumulate(blocks, rng, tf.constant(part), loss_scale)
            for part, blocks in enumerate(shares)
        ]
        finite = finish([squares for _, squares in results], coefficients, loss_scale)
        return tf.add_n([first(loss) for loss, _ in results]), first(finite)

    return step_across_parts if across else step_in_parts


def in_places(places, values, columns):
    """What blocks hold of a share's texts, in the share's order.

    Args:
      places: list of int32 Tensors [n], see inputs.batches.TrainingBatches, one a block.
      values: list of Tensors [n, ...].
      columns: list of dicts {name: Tensor [n, ...]}.

    Returns:
      (Tensor [texts, ...], {name: Tensor [texts, ...]}).
    """
    order = tf.math.invert_permutation(tf.concat(places, 0))
    values, columns = tf.nest.map_structure(
        lambda *parts: tf.gather(tf.concat(parts, 0), order),
        *zip(values, columns, strict=True),
    )
    return values, columns


def _example_count(block):
    first = block.get("first_positions")
    return tf.shape(block["input_ids"] if first is None else first)[0]


def _sum_gradients(parts):
    """Sum over blocks; slices stay slices, so that their norm is that of one large block."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], tf.IndexedSlices):
        return tf.IndexedSlices(
            tf.concat([part.values for part in parts], 0),
            tf.concat([part.indices for part in parts], 0),
            parts[0].dense_shape,
        )
    return tf.add_n(parts)
