"""sentence-transformers' side of encode.py, in torch or through OpenVINO, as its users call it.

worker_sentence_transformers.py export MODEL FOLDER writes a folder with the OpenVINO model.
"""

import sys

import encode_worker
import sentence_transformers
import torch

HINTS = {"float32": "f32", "bfloat16": "bf16"}


def load(precision, model):
    torch.set_num_threads(2)
    version = f"sentence-transformers {sentence_transformers.__version__}"
    backend, _, precision = precision.rpartition("-")
    if backend:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": 2}
        encoder = sentence_transformers.SentenceTransformer(
            model, backend="openvino", model_kwargs={"ov_config": settings}
        )
        version += f", openvino {openvino.__version__}"
    else:
        encoder = sentence_transformers.SentenceTransformer(model, device="cpu")
        encoder.to(getattr(torch, precision))
        version += f", torch {torch.__version__}"

    def encode(texts):
        return encoder.encode(texts, batch_size=32, convert_to_tensor=True).float().numpy()

    return encode, version


if sys.argv[1] == "export":
    exported = sentence_transformers.SentenceTransformer(
        sys.argv[2], backend="openvino", model_kwargs={"export": True}
    )
    exported.save_pretrained(sys.argv[3])
else:
    encode_worker.serve(load)
