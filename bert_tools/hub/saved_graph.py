"""A TF2 SavedModel's own function as the encoder, for models whose variables have names of their
own.

TensorFlow does not run the SavedModel. The operations of its function are made anew in the graph
that is being traced, with the weights as given in the place of its variables: so gradients reach
them, and `encoder.encode` stays a function of its arguments. A graph is a program: what is not in
OPERATIONS (files, sockets, Python, printing, loops, random numbers) is refused before any of it is
made.
"""

import functools
import graphlib
import hashlib
import math

import tensorflow as tf

from bert_tools.config import SAVED_MODEL, BertConfig
from bert_tools.errors import UserError

INPUTS = ("input_word_ids", "input_mask", "input_type_ids")
# What computes, and reaches nothing outside of its arguments.
OPERATIONS = """
    Abs Add AddN AddV2 All Any ArgMax ArgMin BatchMatMul BatchMatMulV2 BatchMatMulV3 BiasAdd
    BroadcastArgs BroadcastTo Cast Ceil CheckNumerics ClipByValue Concat ConcatV2 Const Cos Cosh
    Cumprod Cumsum DepthToSpace Div DivNoNan Einsum Elu EnsureShape Equal Erf Erfc Exp ExpandDims
    Expm1 Fill Floor FloorDiv FloorMod FusedBatchNormV3 Gather GatherNd GatherV2 Greater
    GreaterEqual Identity IdentityN Inv InvertPermutation IsFinite IsInf IsNan L2Loss LeakyRelu
    Less LessEqual LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul
    MatrixBandPart MatrixDiagV3 Max Maximum Mean Min Minimum Mod Mul MulNoNan Neg NotEqual OneHot
    OnesLike Pack Pad PadV2 Pow PreventGradient Prod Range Rank RealDiv Reciprocal Relu Relu6
    Reshape ReverseV2 Rint Round Rsqrt ScatterNd Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin
    Sinh Size Slice Softmax Softplus Softsign Split SplitV Sqrt Square SquaredDifference Squeeze
    StopGradient StridedSlice Sub Sum Tan Tanh TensorScatterUpdate Tile TopKV2 Transpose
    TruncateDiv TruncateMod Unpack UnsortedSegmentSum Where Xdivy ZerosLike
    """.split()  # noqa: SIM905 (a hundred lines of quotes)
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_READS = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape")
# They have no outputs, so nothing asks for them and they are not made.
_NEVER_MADE = ("Assert", "NoOp")
_MOST_OPERATIONS = 100_000  # BERT-large has 5000.
_MOST_ELEMENTS = 64 << 20  # Of a constant; a file of a few bytes can ask for any number.
_MOST_TOKENS, _MOST_IDS = 512, 1 << 20
_TRAINED = "bert/saved_model/"
FIXED = "bert/saved_model_fixed/"  # What the names of weights begin with that are never trained.


class SavedGraph:
    """The function of a SavedModel from a batch of ids to vectors.

    Args:
      serialized: bytes, the content of saved_model.pb.
      source: str, the file's name, for messages.

    Attributes:
      serialized: bytes.
      shapes: {name: tuple of int} of the weights that it reads: "bert/saved_model/" and the name
        of the variable there; FIXED for those that are not to be trained.
      gives_layers: bool, whether it gives every layer's output, not only the last.

    Raises:
      UserError: it has no function of BERT's inputs and outputs, or asks for what is refused.
    """

    def __init__(self, serialized, source):
        from google.protobuf.message import DecodeError
        from tensorflow.core.protobuf import saved_model_pb2

        self.serialized, self._source = serialized, source
        self._digest = hashlib.sha256(serialized).hexdigest()
        try:
            (meta_graph,) = saved_model_pb2.SavedModel.FromString(serialized).meta_graphs
            self._objects = meta_graph.object_graph_def
            library = meta_graph.graph_def.library.function
            self._functions = {function.signature.name: function for function in library}
            self._name, self._inputs, self._outputs = self._signature()
            self._check_operations(self._name, {})
            self._bind({node.name: node for node in meta_graph.graph_def.node})
        except UserError:
            raise
        except (DecodeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{source}: its graph is damaged ({type(error).__name__}: {error}); restore it "
                "from its source"
            ) from error
        self.gives_layers = "encoder_outputs/0" in self._outputs
        # Tapes see the call of a function, and not the operations that are made by their names.
        ids = tf.TensorSpec([None, None], tf.int32)
        signature = [
            {name: tf.TensorSpec(shape) for name, shape in self.shapes.items()},
            dict.fromkeys(INPUTS, ids),
        ]
        self._function = tf.function(self._outputs_of, signature, autograph=False)

    def __eq__(self, other):
        return isinstance(other, SavedGraph) and self._digest == other._digest

    def __hash__(self):
        return hash(self._digest)

    def __repr__(self):
        return f"SavedGraph({self._digest})"

    def config(self):
        """The BertConfig of this encoder. How many ids and positions it has no file says: that is
        found out by running it, with weights of zeros.

        Raises:
          UserError: it does not run.
        """
        return _config(self)

    def weights(self, stored, nodes):
        """The weights that it reads, out of its checkpoint.

        Args:
          stored: {key: array}.
          nodes: the nodes of the checkpoint's object graph.

        Returns:
          {name of `shapes`: array}; what is not in the checkpoint is left out.
        """
        objects = self._objects.nodes
        there = {0: 0}  # Both graphs have the same names of children, and each its own numbers.
        for here in (waiting := [0]):
            ids = {child.local_name: child.node_id for child in nodes[there[here]].children}
            for child in objects[here].children:
                other = ids.get(child.local_name, -1)
                inside = 0 <= child.node_id < len(objects) and 0 <= other < len(nodes)
                if inside and child.node_id not in there:
                    there[child.node_id] = ids[child.local_name]
                    waiting.append(child.node_id)
        return {
            name: stored[attribute.checkpoint_key]
            for node, name in self._variables.items()
            if node in there
            for attribute in nodes[there[node]].attributes
            if attribute.checkpoint_key in stored
        }

    def run(self, weights, batch):
        """Runs it, in float32.

        Args:
          weights: {name: Tensor, Variable or array}.
          batch: dict, as encoder.encode takes it; not packed.

        Returns:
          (sequence_output, pooled_output, layers) of encoder.EncoderOutput, where layers that it
          does not give, among them the embeddings, are None.
        """
        if "position_ids" in batch:
            raise ValueError("a SavedModel run as it stands takes one example a row; do not pack")
        ids = tf.convert_to_tensor(batch["input_ids"])
        mask, types = batch.get("input_mask"), batch.get("segment_ids")
        inputs = {
            "input_word_ids": ids,
            "input_mask": tf.ones_like(ids) if mask is None else mask,
            "input_type_ids": tf.zeros_like(ids) if types is None else types,
        }
        weights = {
            name: tf.cast(tf.convert_to_tensor(weights[name]), tf.float32) for name in self.shapes
        }
        sequence, pooled, layers = self._function(weights, inputs)
        first = batch.get("first_positions")
        if first is not None:
            pooled = tf.gather(pooled, first // tf.shape(ids)[1])
        return sequence, pooled, [None, *layers]

    def _signature(self):
        """(function, [(input, its type)], {name of an output: its place}): of what the model does
        when it is called, else of its signature.
        """
        nodes = self._objects.nodes
        children = {child.local_name: nodes[child.node_id] for child in nodes[0].children}
        names = []
        if "__call__" in children:
            names += children["__call__"].function.concrete_functions
        for child in children["signatures"].children if "signatures" in children else ():
            names.append(nodes[child.node_id].bare_concrete_function.concrete_function_name)
        for name in names:
            function = self._objects.concrete_functions[name]
            leaves = [*_leaves(function.canonicalized_input_signature)]
            inputs = [(path[-1], spec.dtype) for path, spec in leaves if hasattr(spec, "dtype")]
            outputs = ["/".join(path) for path, _ in _leaves(function.output_signature)]
            places = {output: place for place, output in enumerate(outputs)}
            # "default" is what the first models of this kind called it.
            places.setdefault("pooled_output", places.get("default"))
            if (
                sorted(input_name for input_name, _ in inputs) == sorted(INPUTS)
                and not any(value is True for _, value in leaves)  # training=True.
                and places.get("sequence_output") is not None
                and places["pooled_output"] is not None
            ):
                return name, inputs, places
        raise UserError(
            f"{self._source}: its variables have neither Google's nor the model garden's names of "
            f"a BERT, and it has no function from {', '.join(INPUTS)} to sequence_output and "
            "pooled_output; give the checkpoint that it was made from"
        )

    def _check_operations(self, name, counts):
        """The number of operations that a function comes to, all its calls resolved."""
        counts[name] = _MOST_OPERATIONS + 1  # What calls itself never ends.
        count = 1
        for node in self._functions[name].node_def:
            if node.op in _CALLS:
                inner = node.attr["f"].func.name
                count += counts.get(inner) or self._check_operations(inner, counts)
            elif node.op in OPERATIONS or node.op in _READS or node.op in _NEVER_MADE:
                count += 1
            else:
                raise UserError(
                    f"{self._source}: its graph has the operation {node.op} ({node.name}), which "
                    "is none of those that only compute and is not run; give the checkpoint that "
                    "it was made from"
                )
            if node.op == "Const":
                self._check_constant(node)
        if count > _MOST_OPERATIONS:
            raise UserError(
                f"{self._source}: its graph comes to more than {_MOST_OPERATIONS} operations, "
                "which no BERT does; do not use it"
            )
        counts[name] = count
        return count

    def _check_constant(self, node):
        sizes = [dim.size for dim in node.attr["value"].tensor.tensor_shape.dim]
        if math.prod(sizes) > _MOST_ELEMENTS:
            raise UserError(
                f"{self._source}: its constant {node.name} has the shape {sizes}, which no BERT's "
                "has; do not use it"
            )

    def _bind(self, nodes):
        """What stands for the function's captured inputs: names of weights, or constants."""
        self._captured, self._variables, self.shapes = [], {}, {}
        for bound in self._objects.concrete_functions[self._name].bound_inputs:
            found = self._objects.nodes[bound]
            kind = found.WhichOneof("kind")
            if kind == "constant":
                node = nodes[found.constant.operation]
                self._check_constant(node)
                self._captured.append(tf.make_ndarray(node.attr["value"].tensor))
            elif kind == "variable" and found.variable.dtype == tf.float32.as_datatype_enum:
                prefix = _TRAINED if found.variable.trainable else FIXED
                name = prefix + (found.variable.name or "unnamed")
                if name in self.shapes:  # A name is no key there.
                    name = f"{name}_{bound}"
                self._captured.append(name)
                self._variables[bound] = name
                self.shapes[name] = tuple(dim.size for dim in found.variable.shape.dim)
            else:
                what = kind
                if kind == "variable":
                    dtype = tf.as_dtype(found.variable.dtype).name
                    what = f"variable {found.variable.name} of the type {dtype}"
                raise UserError(
                    f"{self._source}: its graph reads a {what}, supported: variables of float32; "
                    "give the checkpoint that it was made from"
                )

    def _outputs_of(self, weights, inputs):
        """(sequence_output, pooled_output, layers from the first), in the graph being traced."""
        given = [tf.cast(inputs[name], dtype) for name, dtype in self._inputs]
        captured = [
            bound if isinstance(bound, str) else tf.constant(bound) for bound in self._captured
        ]
        found = self._called(self._name, [*given, *captured], weights)
        places = self._outputs
        layers = [found[places["sequence_output"]]]
        if self.gives_layers:
            count = sum(name.startswith("encoder_outputs/") for name in places)
            layers = [found[places[f"encoder_outputs/{layer}"]] for layer in range(count)]
        return found[places["sequence_output"]], found[places["pooled_output"]], layers

    def _called(self, name, arguments, weights):
        """The outputs of a function."""
        function = self._functions[name]
        names = [argument.name for argument in function.signature.input_arg]
        values = dict(zip(names, arguments, strict=True))
        nodes = {node.name: node for node in function.node_def}
        wanted = [function.ret[output.name] for output in function.signature.output_arg]
        before, waiting = {}, [value.partition(":")[0] for value in wanted]
        while waiting:
            node = waiting.pop()
            if node in nodes and node not in before:
                # "^name" is an order in time, which only matters to what is refused.
                inputs = (value for value in nodes[node].input if not value.startswith("^"))
                before[node] = list(dict.fromkeys(value.partition(":")[0] for value in inputs))
                waiting += before[node]
        for node in graphlib.TopologicalSorter(before).static_order():
            if node in nodes:
                self._make(nodes[node], values, weights)
        return [values[value] for value in wanted]

    def _make(self, node, values, weights):
        """Makes a node's operation and adds its outputs to {name: Tensor, or a weight's name}."""
        inputs = [values[name] for name in node.input if not name.startswith("^")]
        if node.op in _CALLS:
            for place, value in enumerate(self._called(node.attr["f"].func.name, inputs, weights)):
                values[f"{node.name}:output:{place}"] = value
        elif isinstance(inputs[0] if inputs else None, str):
            output = "value" if node.op == "ReadVariableOp" else "output"
            values[f"{node.name}:{output}:0"] = self._read(node, inputs, weights)
        else:
            # What begins with "_" is about placement, or a gradient that only its author has.
            attributes = {key: node.attr[key] for key in node.attr if not key.startswith("_")}
            made = tf.compat.v1.get_default_graph().create_op(node.op, inputs, attrs=attributes)
            outputs = iter(made.outputs)
            for output in made.op_def.output_arg:
                for place in range(_count(output, made)):
                    values[f"{node.name}:{output.name}:{place}"] = next(outputs)

    def _read(self, node, inputs, weights):
        """What an operation on a variable gives."""
        if node.op == "Identity":
            return inputs[0]
        weight = weights[inputs[0]]
        if node.op == "ReadVariableOp":
            return weight
        if node.op == "ResourceGather":
            return tf.gather(weight, inputs[1], batch_dims=node.attr["batch_dims"].i)
        if node.op == "ResourceGatherNd":
            return tf.gather_nd(weight, inputs[1])
        if node.op == "VariableShape":
            return tf.shape(weight, tf.as_dtype(node.attr["out_type"].type or tf.int32))
        raise ValueError(f"{node.op} takes a variable")


def _leaves(structured, path=()):
    """Yields (path, TensorSpecProto, bool or None for anything else) of a StructuredValue, in the
    order in which TensorFlow flattens it.
    """
    kind = structured.WhichOneof("kind")
    if kind == "dict_value":
        for key in sorted(structured.dict_value.fields):
            yield from _leaves(structured.dict_value.fields[key], (*path, key))
    elif kind in ("list_value", "tuple_value"):
        for place, value in enumerate(getattr(structured, kind).values):
            yield from _leaves(value, (*path, str(place)))
    elif kind == "bool_value":
        yield path, structured.bool_value
    else:
        yield path, structured.tensor_spec_value if kind == "tensor_spec_value" else None


def layer_count(saved):
    """How many layers' outputs a SavedModel (the protocol buffer) says that it gives; 0 if none."""
    functions = [
        function
        for meta_graph in saved.meta_graphs
        for function in meta_graph.object_graph_def.concrete_functions.values()
    ]
    return max(
        (
            sum("encoder_outputs" in path for path, _ in _leaves(function.output_signature))
            for function in functions
        ),
        default=0,
    )


def _count(output, operation):
    """How many tensors an output of an operation's definition stands for."""
    if output.number_attr:
        return operation.get_attr(output.number_attr)
    return len(operation.get_attr(output.type_list_attr)) if output.type_list_attr else 1


@functools.lru_cache(1)  # A command reads a folder's graph more than once.
def _config(graph):
    with tf.device("/CPU:0"):  # A GPU gives zeros for an id that is too high.
        zeros = {name: tf.zeros(shape) for name, shape in graph.shapes.items()}

        def run(width, index):
            batch = {name: tf.zeros([2, width], tf.int32) for name in ("input_ids", "segment_ids")}
            batch["input_ids"] += index
            batch["segment_ids"] += tf.one_hot(width - 1, width, dtype=tf.int32)
            return graph.run(zeros, {**batch, "input_mask": tf.ones([2, width], tf.int32)})

        def runs(width, index):
            try:
                run(width, index)
            except tf.errors.OpError:
                return False
            return True

        try:
            sequence, pooled, layers = run(3, 0)
        except Exception as error:  # Anything can be wrong with a graph.
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{graph._source}: its graph does not run on two rows of three tokens ({reason}); "
                "give the checkpoint that it was made from"
            ) from error
        hidden = sequence.shape[-1]
        shapes = [tuple(tensor.shape) for tensor in (pooled, *layers[1:])]
        if shapes != [(2, hidden)] + [(2, 3, hidden)] * (len(layers) - 1):
            raise UserError(
                f"{graph._source}: its graph gives the shapes {shapes} for two rows of three "
                "tokens, expected [2, width] and [2, 3, width]; is this a BERT?"
            )
        return BertConfig(
            vocab_size=_most(lambda index: runs(2, index - 1), _MOST_IDS),
            hidden_size=hidden,
            num_hidden_layers=len(layers) - 1,
            num_attention_heads=1,
            max_position_embeddings=_most(lambda width: runs(width, 0), _MOST_TOKENS),
            type_vocab_size=2,
            family=SAVED_MODEL,
            graph=graph,
        )


def _most(works, highest):
    """The highest number from 1 up to which works(number) is true."""
    if works(highest):
        return highest
    lowest = 1
    while highest - lowest > 1:
        middle = (lowest + highest) // 2
        lowest, highest = (middle, highest) if works(middle) else (lowest, middle)
    return lowest
