"""Sentence vectors, trained so that texts of one meaning lie near each other: Sentence-BERT
(Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084). All texts of an example go through
one encoder; objectives.py has what is asked of their vectors.
"""

import typing

from bert_tools.errors import UserError
from bert_tools.inputs.data_sets import DataSet
from bert_tools.inputs.examples import Layout, parse_value
from bert_tools.tasks import baselines, classify, regress

# Sentence1..3 as in the known Keras example of this kind, or sentence-transformers' names.
_TRIPLETS = Layout(
    ("anchor", "Sentence1", "sentence1"),
    ("positive", "Sentence2", "sentence2"),
    header=True,
    kind="csv",
    further=(("negative", "Sentence3", "sentence3"),),
)

DATA_SETS = {
    **regress.DATA_SETS,
    **{name: classify.DATA_SETS[name] for name in ("mrpc", "qqp", "lcqmc")},
    **{name: classify.DATA_SETS[name] for name in ("mnli", "xnli", "ocnli")},
    "triplets": DataSet(
        train=("train.csv", _TRIPLETS),
        dev=(("dev.csv", "validation.csv"), _TRIPLETS),
        test=("test.csv", _TRIPLETS),
    ),
    "pairs": DataSet(
        train=("train.tsv", Layout(0, 1)),
        dev=("dev.tsv", Layout(0, 1)),
        test=("test.tsv", Layout(0, 1)),
    ),
    "texts": DataSet(
        train=(("train.txt", "train.tsv"), Layout(0)),
        dev=(("dev.txt", "dev.tsv"), Layout(0)),
        test=(("test.txt", "test.tsv"), Layout(0)),
    ),
}


class Objective(typing.NamedTuple):
    """What an objective learns from.

    function: str, its name in objectives.py.
    texts: (int, int or None), how many texts an example has at least and at most.
    label: "value", "binary" (1 or 0), "class", "vectors" (of a teacher) or None.
    copies: int, how often each text goes through the encoder.
    margin: float or None, the default of --margin.
    alone: bool, whether an example of two texts teaches something by itself.
    """

    function: str
    texts: tuple
    label: str | None
    copies: int = 1
    margin: float | None = None
    alone: bool = True


OBJECTIVES = {
    "cosine_regression": Objective("cosine_regression", (2, 2), "value"),
    "triplet": Objective("triplet", (3, None), None, margin=1.0),
    "multiple_negatives": Objective("multiple_negatives", (2, None), None, alone=False),
    "cosent": Objective("cosent", (2, 2), "value", alone=False),
    "contrastive": Objective("contrastive", (2, 2), "binary", margin=0.5),
    "softmax_nli": Objective("softmax_nli", (2, 2), "class"),
    "simcse": Objective("multiple_negatives", (1, 1), None, copies=2, alone=False),
    "distillation": Objective("distillation", (1, None), "vectors"),
}


class Options(typing.NamedTuple):
    """What an objective may be told.

    margin: float, of triplet (1) and contrastive (0.5).
    scale: float, that cosines are multiplied by in multiple_negatives, simcse and cosent.
    distance: "euclidean" (triplet's default) or "cosine" (contrastive's).
    symmetric: bool, multiple_negatives in both directions.
    head: softmax_nli's (kernel, bias); set when it is called.
    """

    margin: float = 1.0
    scale: float = 20.0
    distance: str = "euclidean"
    symmetric: bool = False
    head: tuple | None = None


class Siamese:
    """Sentence vectors and the objective that they are trained with.

    Args:
      objective: a name of OBJECTIVES.
      options: Options.
      recipe: sentence.pooling.Recipe, or None: set before the task is used.
      dense_width: int, the width that a dense layer behind the pooling gives vectors; 0: the
        weights' own where recipe.dense asks for one.
      dimensions: tuple of int; beside the whole vectors, what they begin with is to be of use too
        (Matryoshka, Kusupati et al. 2022, https://arxiv.org/abs/2205.13147).
      value_range: (low, high) of the values, or None for 0..1.
      target_range: (low, high) of the cosines that these stand for.
      label_list: the classes of softmax_nli, or None.

    Attributes:
      recipe, dense_width, dimensions, label_list, copies.
    """

    name = "siamese"
    compares_texts = True  # See model_fn: the loss is on the vectors of several texts.
    label_flag = "value_column"
    label_columns = ("vals", "label_ids")
    baseline_form: typing.ClassVar = {"label_counts": {str: int}}  # See baselines.read.

    def __init__(
        self,
        objective,
        options=None,
        recipe=None,
        dense_width=0,
        dimensions=(),
        value_range=None,
        target_range=(0.0, 1.0),
        label_list=None,
    ):
        self._name, self._objective = objective, OBJECTIVES[objective]
        self._options, self.recipe = options or Options(), recipe
        self.dense_width, self.dimensions = dense_width, tuple(dimensions)
        self._value_range, self._target_range = value_range, target_range
        self.label_list = label_list
        self.copies = self._objective.copies
        if self.dimensions and self._objective.label in ("class", "vectors"):
            raise UserError(
                f"--matryoshka_dimensions: --objective={objective} needs whole vectors; leave one "
                "of the two out"
            )

    def parse_label(self, cell, value_range=None):
        """A value of a file, mapped to what the objective is told.

        Args:
          cell: str.
          value_range: (low, high) of the file's values, where it is not the training set's.

        Raises:
          ValueError: it is no number, or outside of its range.
        """
        if self._objective.label == "class":
            return classify.parse_label(cell)
        value = parse_value(cell)
        if self._objective.label == "binary" and value not in (0.0, 1.0):
            raise ValueError(f"the value {value:g} is neither 1 nor 0")
        if self._name != "cosine_regression":
            return value
        low, high = value_range or self._value_range or (0.0, 1.0)
        if not low <= value <= high:
            raise ValueError(
                f"the value {value:g} lies outside {low:g}..{high:g}; pass --value_range=LOW,HIGH"
            )
        return self.mapped(value, (low, high))

    def mapped(self, values, value_range):
        """What cosine_regression is told of values in a range; of other objectives and without a
        range the values themselves.

        Args:
          values: float or float array.
          value_range: (low, high) or None.
        """
        if self._name != "cosine_regression" or value_range is None:
            return values
        (low, high), (first, last) = value_range, self._target_range
        return first + (values - low) / (high - low) * (last - first)

    def width(self, config):
        """The length of a vector, int."""
        return self.dense_width or len(self.recipe.poolings) * config.hidden_size

    def head_shapes(self, config):
        """{name: shape} of the weights beside the encoder's."""
        from bert_tools.sentence import pooling

        shapes, width = {}, self.width(config)
        if self.recipe.dense:
            kernel, bias = pooling.DENSE
            pooled = len(self.recipe.poolings) * config.hidden_size
            shapes |= {kernel: (pooled, width), bias: (width,)}
        if self._objective.label == "class":
            classes = len(self.label_list)
            shapes |= {"siamese/output_weights": (classes, 3 * width)}
            shapes |= {"siamese/output_bias": (classes,)}
        return shapes

    def vectors(self, weights, output, features):
        """The vector of each text, float32 Tensor [texts, width], in the order of the batch.

        Args:
          weights: dict.
          output: encoder.EncoderOutput.
          features: dict of inputs.batches.assemble.
        """
        from bert_tools.sentence import pooling

        return pooling.vectors(output, features, self.recipe, (-1,), weights)

    def compare(self, weights, vectors, features, examples):
        """The objective.

        Args:
          weights: dict that holds head_shapes.
          vectors: float32 Tensor [examples * texts, width], in order (example, text).
          features: {name of label_columns: Tensor [examples * texts, ...]}.
          examples: int.

        Returns:
          (per_example_loss float32 [examples]; predictions: {"classes": int64 [examples]} with a
          classifier, else {}).
        """
        import tensorflow as tf

        from bert_tools.tasks import objectives

        vectors = tf.reshape(vectors, [examples, -1, tf.shape(vectors)[-1]])
        options, predictions, labels = self._options, {}, None
        label = self._objective.label
        if label:
            column = "label_ids" if label == "class" else "vals"
            labels = features[column]
            shape = tf.concat([[examples, -1], tf.shape(labels)[1:]], 0)
            labels = tf.reshape(labels, shape)[:, 0]
        if label == "class":
            head = weights["siamese/output_weights"], weights["siamese/output_bias"]
            options = options._replace(head=head)
            logits = objectives.nli_logits(vectors, head)
            predictions["classes"] = tf.argmax(logits, 1)
        function = getattr(objectives, self._objective.function)
        loss = function(vectors, labels, options)
        for dimension in self.dimensions:
            loss += function(vectors[..., :dimension], labels, options)
        return loss, predictions

    def can_compare(self, texts, features):
        """Whether the objective can be computed on examples of another set.

        Args:
          texts: int, of an example.
          features: {name: array}, their columns.
        """
        least, most = self._objective.texts
        label = {"class": "label_ids", None: None}.get(self._objective.label, "vals")
        found = next((name for name in self.label_columns if name in features), None)
        fits = self.copies == 1 and least <= texts <= (most or texts)
        shape = features[label].ndim if found == label and label else 1
        return fits and found == label and shape == (2 if self._objective.label == "vectors" else 1)

    def metrics(self, predictions, features):
        """Metrics over a whole set, by what it holds.

        Args:
          predictions: {"vectors": float32 array [n, texts, width], "classes": int array [n]}.
          features: {name: array [n, ...]}; of what has no labels also
            text_features.TEXT_NUMBERS, int array [n, texts].

        Returns:
          dict. Pairs with values: pearson and spearman of the cosine, and average_precision where
          they are 1 and 0. Classes: eval_accuracy. Without labels: recall@1, @5, @10 and mrr, of
          finding the second text by the first among all others of the set; triplet_accuracy, how
          often the first is nearer to the second than to the third and every further one. With
          Matryoshka dimensions the same for each: spearman_64.
        """
        import numpy as np

        if "classes" in predictions:
            return {
                "eval_accuracy": float(np.mean(predictions["classes"] == features["label_ids"]))
            }
        vectors = predictions["vectors"]
        found = self._of_vectors(vectors, features)
        for dimension in self.dimensions:
            part = self._of_vectors(vectors[..., :dimension], features)
            found |= {f"{name}_{dimension}": value for name, value in part.items()}
        return found

    def _of_vectors(self, vectors, features):
        import numpy as np

        from bert_tools.sentence.similarity import similarity

        if "vals" in features and features["vals"].ndim == 1 and vectors.shape[1] > 1:
            cosines = similarity(vectors[:, 0], vectors[:, 1], "cosine")
            values = features["vals"].astype(np.float64)
            found = regress.correlations(cosines, values)
            if set(np.unique(values)) == {0.0, 1.0}:
                from sklearn.metrics import average_precision_score

                found["average_precision"] = float(average_precision_score(values, cosines))
            return found
        found = {}
        if vectors.shape[1] > 1 and not features.keys() & set(self.label_columns):
            from bert_tools.inputs.text_features import TEXT_NUMBERS

            found = ranking(vectors, features[TEXT_NUMBERS])
        if vectors.shape[1] > 2:
            name = self._options.distance if self._name == "triplet" else "cosine"
            near = similarity(vectors[:, 0], vectors[:, 1], name)
            others = range(2, vectors.shape[1])
            far = np.max([similarity(vectors[:, 0], vectors[:, n], name) for n in others], 0)
            found["triplet_accuracy"] = float(np.mean(near > far))
        return found

    def baseline_statistics(self, examples):
        """What the baseline of classes needs of a training set: {"label_counts": {label: int}};
        none are counted where the objective has no classes.
        """
        classes = self._objective.label == "class"
        return {"label_counts": classify.label_counts(examples) if classes else {}}

    def baseline(self, statistics, examples):
        """What the training set's most frequent class for every example gives:
        {"baseline_accuracy": float}; {} where there are no classes. That of vectors is in
        baselines.VectorBaseline.
        """
        if not statistics["label_counts"] or not isinstance(examples[0].label, str):
            return {}
        label = classify.most_frequent(statistics["label_counts"], self.label_list)
        right = sum(example.label == label for example in examples)
        return {"baseline_accuracy": right / len(examples)}

    def vector_baseline(self, result):
        """The baseline lines of an evaluation (dict) with the weights that training starts from:
        the metrics of the vectors, not those of a classifier whose weights are drawn at random.
        """
        others = ("loss", "eval_loss", "eval_accuracy", "global_step")
        return {f"{baselines.PREFIX}{n}": value for n, value in result.items() if n not in others}

    def compared(self, result):
        """The baselines.Comparison of a result with baseline lines, or None without."""
        for metric in ("spearman", "triplet_accuracy", "mrr"):
            if f"{baselines.PREFIX}{metric}" in result:
                return baselines.Comparison(
                    metric,
                    f"{baselines.PREFIX}{metric}",
                    "the starting weights' vectors",
                    f"{baselines.MORE_TRAINING}, another --objective, a check of the columns, or "
                    "using the starting model's vectors as they are (extract_cls, evaluate_sts)",
                )
        if "baseline_accuracy" not in result:
            return None
        return baselines.Comparison(
            "eval_accuracy",
            "baseline_accuracy",
            "the most frequent class of the training set",
            f"{baselines.MORE_TRAINING}, or a check of the columns",
        )

    def combine_windows(self, predictions):
        """What the mean of several windows' vectors says of the whole text: the mean."""
        return predictions

    def row(self, prediction):
        """The line of test_results.tsv for one example: the cosines of its first text and each
        further one.
        """
        return "\t".join(f"{value:.6f}" for value in self._cosines(prediction))

    def record(self, prediction):
        """What a JSON line says of one example."""
        return {"cosines": [round(float(value), 6) for value in self._cosines(prediction)]}

    def description(self):
        """What bert_tools.json keeps of the task, in the names of its flags, and how vectors are
        made (sentence.pooling reads it).
        """
        options = self._options._asdict()
        del options["head"]
        poolings = list(self.recipe.poolings)
        return {
            "objective": self._name,
            **options,
            "value_range": list(self._value_range) if self._value_range else None,
            "target_range": list(self._target_range),
            "matryoshka_dimensions": list(self.dimensions),
            "labels": self.label_list,
            "pooling": poolings if len(poolings) > 1 else poolings[0],
            "normalize": self.recipe.normalize,
            "dense": self.recipe.dense,
        }

    def _cosines(self, prediction):
        import numpy as np

        from bert_tools.sentence.similarity import similarity

        first, *others = prediction["vectors"]
        first = np.broadcast_to(first, (len(others), len(first)))
        return similarity(first, np.array(others), "cosine")


def ranking(vectors, numbers):
    """How high second texts rank, by cosine with the first, among all texts but the first ones.

    Args:
      vectors: float array [n, texts, width].
      numbers: int array [n, texts], the same for the same text, whose vectors may differ by
        rounding.

    Returns:
      {"recall@1", "recall@5", "recall@10", "mrr": float}. Before the right text do not count: one
      as near, that text once more, the first text itself where it is another example's second one,
      and what stands beside the same first text in another example.
    """
    import numpy as np

    lengths = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    vectors = vectors / lengths
    first, width = vectors[:, 0], vectors.shape[-1]
    others = vectors[:, 1:].transpose(1, 0, 2).reshape(-1, width)
    of_others = numbers[:, 1:].T.reshape(-1)
    ranks = []
    for start in range(0, len(first), _ROWS):
        part = first[start : start + _ROWS]
        scores = part @ others.T
        places = np.arange(start, start + len(part))
        own = scores[np.arange(len(part)), places]
        anchor, right = numbers[places, :2].T[..., np.newaxis]
        nearer = scores > own[:, np.newaxis] + 1e-6
        nearer &= (of_others != anchor) & (of_others != right)
        nearer[:, : len(first)] &= numbers[:, 0] != anchor
        ranks.append(1 + np.count_nonzero(nearer, axis=1))
    ranks = np.concatenate(ranks)
    found = {f"recall@{k}": float(np.mean(ranks <= k)) for k in (1, 5, 10)}
    return {**found, "mrr": float(np.mean(1 / ranks))}


_ROWS = 1024  # First texts that are compared with all others at a time.
