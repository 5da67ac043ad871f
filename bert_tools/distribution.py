"""Which devices a run uses: the tf.distribute strategies by the names that --strategy takes."""

import logging
import os

import tensorflow as tf

from bert_tools.errors import UserError

log = logging.getLogger("bert_tools")
NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(name="auto", tpu_name=None, tpu_zone=None, gcp_project=None):
    """Makes a strategy. Make one a process, before any tensor.

    Args:
      name: one of NAMES. auto is mirrored where there are several GPUs, else one_device (the first
        GPU, else the CPU). mirrored is over all GPUs, else all logical CPUs; multi_worker reads
        TF_CONFIG.
      tpu_name, tpu_zone, gcp_project: str or None, of a Cloud TPU.

    Raises:
      UserError: no such strategy, or the TPU cannot be reached.
    """
    if name == "multi_worker":
        # Before any device is listed, which would start TensorFlow without its cluster.
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, KeyError, TypeError, RuntimeError, tf.errors.OpError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"TF_CONFIG={os.environ.get('TF_CONFIG', '')}: no cluster of workers ({reason}); "
                "correct the environment variable"
            ) from error
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one_device"
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("/GPU:0" if gpus else "/CPU:0")
    if name == "mirrored":
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
                tpu_name, tpu_zone, gcp_project
            )
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--tpu_name={tpu_name or ''}: no TPU can be reached ({reason}); check the name, "
                "or leave "
                "--use_tpu out"
            ) from error
        return tf.distribute.TPUStrategy(resolver)
    raise UserError(f"--strategy={name}: no such strategy; expected one of {', '.join(NAMES)}")


def is_chief(strategy):
    """Whether this process writes the files: the only one, or the first of several workers."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    if resolver.task_type == "worker" and "chief" in resolver.cluster_spec().as_dict():
        return False
    return resolver.task_id == 0


def resolve_precision(name):
    """The precision to compute in: `name`, or for "auto" what this machine is best at.

    A warning says when bfloat16 is asked of a CPU without instructions for it.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get(
            "compute_capability", (0, 0)
        )
        best = (
            "bfloat16" if capability >= (8, 0) else "float16" if capability >= (7, 0) else "float32"
        )
    else:
        best = "bfloat16" if _cpu_has_bfloat16() else "float32"
    if name == "auto":
        return best
    if name == "bfloat16" and not gpus and best != "bfloat16":
        log.warning(
            "--precision=bfloat16: this CPU has no bfloat16 instructions, float32 is faster"
        )
    return name


def _cpu_has_bfloat16():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as reader:
            words = set(reader.read().split())
    except OSError:
        return False
    return bool(words & {"amx_bf16", "avx512_bf16"})


def is_tpu(strategy):
    """Whether it computes on a TPU, which needs static shapes."""
    return isinstance(strategy, tf.distribute.TPUStrategy)
