"""How training goes: a line on stderr, and summaries for TensorBoard."""

import logging
import sys
import time

import tensorflow as tf
import tqdm

from bert_tools.estimator.evaluation import scalars

log = logging.getLogger("bert_tools")


class Progress:
    """One line on stderr with loss, examples per second and time left (a terminal), summaries for
    TensorBoard.
    """

    def __init__(self, begin, end, batch_size, config, chief):
        self._every, self._batch_size, self._end = config.save_summary_steps, batch_size, end
        if chief:
            self._writer = tf.summary.create_file_writer(config.model_dir)
        else:
            self._writer = tf.summary.create_noop_writer()
        self._bar = tqdm.tqdm(
            initial=begin, total=end, desc="training", unit="step", disable=not sys.stderr.isatty()
        )
        self._since = (begin, time.monotonic())
        self._started = self._since

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()
        self._writer.close()

    def step(self, step, loss, rate, skipped):
        begun, then = self._started
        speed = (step - begun) * self._batch_size / max(time.monotonic() - then, 1e-9)
        self._bar.update(1)
        self._bar.set_postfix_str(f"loss {loss:.4f}, {speed:.1f} examples/s", refresh=False)
        if step % self._every and step != self._end:
            return
        begun, then = self._since
        now = time.monotonic()
        speed = (step - begun) * self._batch_size / max(now - then, 1e-9)
        self._since = (step, now)
        if self._bar.disable:
            left = (self._end - step) * self._batch_size / max(speed, 1e-9)
            log.info(
                "step %d of %d: loss %.4f, %.1f examples/s, %d s left",
                step,
                self._end,
                loss,
                speed,
                left,
            )
        with self._writer.as_default(step):
            tf.summary.scalar("loss", loss)
            tf.summary.scalar("learning_rate", rate)
            tf.summary.scalar("examples_per_second", speed)
            if skipped:
                tf.summary.scalar("skipped_steps", skipped)

    def evaluation(self, step, result, seconds):
        """Reports an evaluation that took so long, which is not training's time."""
        self._since = (self._since[0], self._since[1] + seconds)
        self._started = (self._started[0], self._started[1] + seconds)
        result = scalars(result)
        result.pop("global_step")
        values = ", ".join(f"{name} {value:.6g}" for name, value in sorted(result.items()))
        self._bar.clear()
        log.info("evaluation at step %d of %d: %s", step, self._end, values)
        with self._writer.as_default(step):
            for name, value in result.items():
                tf.summary.scalar(f"eval/{name}", value)
