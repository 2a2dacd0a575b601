"""What to write here for names and arguments of PyTorch, Keras, JAX, Flax and Haiku.

One table of names and one of arguments; messages and docs/language.md read both. Case and `_` do
not count, so that `log_softmax` is `LogSoftmax`. Everything offered as code compiles, which the
tests try.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from modnorm.diagnostics import did_you_mean
from modnorm.ops import registry

PREFIXES = frozenset(
    "torch nn F functional torchvision jax jnp np numpy flax linen nnx hk haiku eqx equinox keras"
    " layers tf tensorflow optax einops".split()
)
"""What stands before such names elsewhere; here operations stand without a prefix."""

MISSING = "is not there yet; CONTRIBUTING.md shows how to add an operation"


@dataclass(frozen=True)
class Equivalent:
    """A row: `names` separated by spaces, as they are written elsewhere.

    `write` is an expression, `add` a statement that the file needs for it, `note` a half-sentence.
    Where there is neither, and the note is not `instead` of an operation, one is missing here.
    """

    names: str
    write: str = ""
    add: str = ""
    note: str = ""
    instead: bool = False

    def hint(self, name: str) -> str:
        """What to tell somebody who wrote `name`."""
        if self.instead:
            return self.note
        if not self.write:
            return f"`{name}` {MISSING}" + (f"; {self.note}" if self.note else "")
        added = f"add `{self.add}` and " if self.add else ""
        return f"{added}write `{self.write}`" + (f": {self.note}" if self.note else "")


def _bond(names: str, formula: str, sensitivity: str, note: str = "") -> Equivalent:
    """A function of each entry, as a bond under the first of its names."""
    name = names.split()[0]
    statement = f"bond {name}(x) = {formula} sensitivity {sensitivity}"
    return Equivalent(names, name, statement, note)


def _missing(names: str, note: str = "") -> Equivalent:
    return Equivalent(names, note=note)


def _instead(names: str, note: str) -> Equivalent:
    return Equivalent(names, note=note, instead=True)


SOFTPLUS = "max(x, 0) + log(1 + exp(-abs(x)))"
EDGES = "input edges: int[2, n] < nodes"
GIVEN = "it follows from what stands before"

EQUIVALENTS: tuple[Equivalent, ...] = (
    # with weights
    Equivalent(
        "Linear Dense LazyLinear DenseGeneral",
        "Linear(out) >> Bias",
        note="sizes are (out, in), `in` may be left out, and a bias is an operation of its own",
    ),
    Equivalent("Bilinear", "Linear(out) * Linear(out)", note="the nearest there is"),
    Equivalent(
        "Conv2d LazyConv2d Convolution2D Conv",
        "Conv2D(out, kernel = 3, stride = 1, padding = 1) >> Bias",
        note="for images; sizes are (out, in), and a bias is an operation of its own",
    ),
    Equivalent(
        "Conv1d LazyConv1d Convolution1D",
        "Conv1D(out, kernel = 3, stride = 1, padding = 1) >> Bias",
        note="for signals; sizes are (out, in), and a bias is an operation of its own",
    ),
    _missing("Conv3d LazyConv3d", "`Conv2D` takes images, `Conv1D` signals"),
    Equivalent(
        "DepthwiseConv2D",
        "Conv2D(3, groups = 3)",
        note="as many groups as channels, here 3: each has a kernel of its own",
    ),
    Equivalent(
        "SeparableConv2D",
        "Conv2D(out, kernel = 1, padding = 0) @ Conv2D(3, groups = 3)",
        note="the first as many groups as channels, here 3",
    ),
    Equivalent(
        "SeparableConv1D",
        "Conv1D(out, kernel = 1, padding = 0) @ Conv1D(3, groups = 3)",
        note="the first as many groups as channels, here 3",
    ),
    Equivalent(
        "ConvTranspose2d LazyConvTranspose2d Conv2DTranspose Deconv2D",
        "ConvTranspose2D(out, kernel = 2, stride = 2, padding = 0) >> Bias",
        note="a bias is an operation of its own",
    ),
    Equivalent(
        "ConvTranspose1d LazyConvTranspose1d Conv1DTranspose Deconv1D",
        "ConvTranspose1D(out, kernel = 2, stride = 2, padding = 0) >> Bias",
        note="a bias is an operation of its own",
    ),
    _missing("ConvTranspose3d LazyConvTranspose3d"),
    Equivalent("Embedding", "Embed(count, dim)"),
    Equivalent(
        "PositionalEncoding PositionEmbedding PositionalEmbedding arange",
        "Embed(context, d) @ Enumerate",
        note="learned, for at most `context` positions; `RoPE` turns queries and keys instead",
    ),
    Equivalent("RotaryEmbedding RotaryPositionalEmbeddings", "RoPE", note="on queries and keys"),
    Equivalent(
        "MultiheadAttention MultiHeadDotProductAttention SelfAttention CausalSelfAttention",
        "transformer.attention(d, heads)",
        "import std.transformer",
        "it is causal unless `causal = false`",
    ),
    Equivalent(
        "ScaledDotProductAttention DotProductAttention DotProductAttentionWeights",
        "MergeHeads @ Attention(causal = true) @ (q, k, v)",
        note="q, k and v are modules such as `HeadedLinear(d, heads)`; logits are divided by d",
    ),
    Equivalent(
        "Transformer TransformerEncoder TransformerEncoderLayer TransformerDecoder"
        " TransformerDecoderLayer TransformerBlock",
        "transformer.block(d, heads, blocks) ** blocks",
        "import std.transformer",
        "attention is causal unless `causal = false`, and sees its own input only",
    ),
    Equivalent(
        "GroupedQueryAttention MultiQueryAttention GQA MQA",
        "MergeHeads @ Attention(true) @ (q, k, v)",
        note="k and v may have fewer heads than q, such as `HeadedLinear(128, 2)` beside"
        " `HeadedLinear(512, 8)`",
    ),
    Equivalent(
        "CrossAttention",
        "MergeHeads @ Attention @ (q, k, v)",
        note="q is of one value, k and v of the other, whose name may stand there",
    ),
    _missing("Perceiver"),
    Equivalent("LSTMCell OptimizedLSTMCell", "LSTM(hidden)", note="all states out"),
    Equivalent("GRUCell", "GRU(hidden)", note="all states out"),
    Equivalent(
        "RNNCell RNNBase RNNCellBase SimpleRNN", "RNN(hidden, carry = 3/4)", note="all states out"
    ),
    _missing("Bidirectional", "`RNN`, `GRU` and `LSTM` go forwards"),
    Equivalent(
        "scan while_loop fori_loop associative_scan",
        "Scan(cell, carry = 3/4)",
        "def cell = Tanh @ (Linear(32) @ Select(0) + Linear(32) @ Select(1))",
        "along axis 1, of the tuple (state, entry); over depth, `f ** n` repeats",
    ),
    Equivalent(
        "MoE MixtureOfExperts SparseMoE SwitchFFN MixtralSparseMoeBlock",
        "Experts(f, 8, 2) @ (Identity, Readout(8))",
        note="8 experts, each a copy of the module `f`, of which the 2 with the largest scores are"
        " mixed; the scores come from the `Readout`",
    ),
    Equivalent(
        "TopK",
        "Experts(f, 8, 2) @ (Identity, Readout(8))",
        note="`Experts` takes scores as they are, and chooses the largest of them itself",
    ),
    Equivalent("GCNConv GraphConv", 'Aggregate("gcn") @ (Linear(12) @ x, edges)', EDGES),
    Equivalent("SAGEConv", "Linear(12) @ x + Linear(12) @ Aggregate @ (x, edges)", EDGES),
    Equivalent(
        "GINConv MessagePassing",
        'Linear(12) @ (x + Aggregate("sum", degree = 4) @ (x, edges))',
        EDGES,
        "`degree` is the largest number of edges into a node, here 4",
    ),
    Equivalent(
        "scatter_mean scatter_add segment_sum segment_mean", "Aggregate @ (x, edges)", EDGES
    ),
    _missing("GATConv TransformerConv"),
    Equivalent(
        "ParameterList ParameterDict get_parameter Variable add_weight create_parameter",
        "Parameter(1, d)",
        note="a learned value of any sizes, for every example the same",
    ),
    Equivalent("cls_token ClassToken", "Concat(1) @ (Parameter(1, d), Identity)"),
    # norms and noise
    Equivalent(
        "LayerNormalization",
        "LayerNorm",
        note="over the last axis; `affine = false` leaves out its gain and bias",
    ),
    Equivalent("RMSNormalization LlamaRMSNorm", "RMSNorm", note="over the last axis, with a gain"),
    Equivalent(
        "BatchNorm1d BatchNorm2d LazyBatchNorm1d LazyBatchNorm2d BatchNormalization SyncBatchNorm",
        "BatchNorm",
        note="of each channel, along the last axis or axis 1 of an image",
    ),
    _missing("BatchNorm3d LazyBatchNorm3d", "`BatchNorm` takes vectors, signals and images"),
    Equivalent(
        "InstanceNorm InstanceNorm2d LazyInstanceNorm2d",
        "RMSDivide((2, 3), eps = 1e-5) @ MeanSubtract((2, 3))",
        note="over the pixels of an image",
    ),
    Equivalent(
        "InstanceNorm1d LazyInstanceNorm1d",
        "RMSDivide(2, eps = 1e-5) @ MeanSubtract(2)",
        note="over the places of a signal",
    ),
    _missing("InstanceNorm3d LazyInstanceNorm3d"),
    Equivalent(
        "GroupNormalization",
        "GroupNorm(groups)",
        note="over the channels of each group with all their pixels",
    ),
    Equivalent(
        "normalize l2_normalize UnitNormalization", "RMSDivide", note="to RMS 1, which is length √n"
    ),
    _missing("LocalResponseNorm CrossMapLRN2d"),
    _instead(
        "weight_norm spectral_norm SpectralNormalization",
        "leave it out: the optimizer measures every weight in its own norm",
    ),
    _missing(
        "Dropout1d Dropout2d Dropout3d SpatialDropout2D AlphaDropout FeatureAlphaDropout",
        "`Dropout(p)` drops single entries",
    ),
    Equivalent(
        "StochasticDepth", "DropPath(0.1)", note="whole examples, on the branch of a residual block"
    ),
    _missing("GaussianNoise GaussianDropout"),
    # functions of each entry
    Equivalent("swish", "SiLU"),
    _bond("LeakyReLU", "max(x, 0.01 * x)", "1"),
    _bond("PReLU RReLU", "max(x, x / 4)", "1", "the nearest there is: the slope is not learned"),
    _bond("ELU CELU", "max(x, exp(min(x, 0)) - 1)", "1"),
    _bond(
        "SELU",
        "1.0507009873554805 * max(x, 0) + 1.7580993408473766 * (exp(x - max(x, 0)) - 1)",
        "1.7581",
    ),
    _bond("LogSigmoid", "min(x, 0) - log(1 + exp(min(x, -x)))", "1"),
    _bond("Softsign", "x / (1 + abs(x))", "1"),
    _bond("Mish", f"x * tanh({SOFTPLUS})", "1.1"),
    _bond("Hardtanh", "min(max(x, -1), 1)", "1"),
    _bond("ReLU6", "min(max(x, 0), 6)", "1"),
    _bond("Hardsigmoid", "min(max(x / 6 + 1/2, 0), 1)", "1/6"),
    _bond("Hardswish HardSiLU", "x * min(max(x + 3, 0), 6) / 6", "3/2"),
    _bond("Softshrink", "max(x - 1/2, 0) + min(x + 1/2, 0)", "1"),
    _bond("Tanhshrink", "x - tanh(x)", "1"),
    _bond("QuickGELU", "x * sigmoid(1.702 * x)", "1.1"),
    Equivalent("SquaredReLU ReLUSquared", "ReLU2"),
    _bond(
        "Square",
        "max(-1, min(x, 1)) ** 2",
        "2",
        "bounded, since without a bound its slope has none",
    ),
    _bond("Sine", "sin(x)", "1"),
    _bond("Cosine cos", "cos(x)", "1"),
    _bond("Erf", "erf(x)", "1.1284"),
    _bond("Clamp clip ClipByValue", "max(-1, min(x, 1))", "1"),
    _missing("Hardshrink Threshold", "a step has no bounded slope"),
    _missing("Softmin Softmax2d", "`Softmax` works along the last axis"),
    Equivalent("LogitSoftcapping SoftCapping TanhSoftcap", "Softcap(30)", note="30·tanh(x/30)"),
    _missing("GumbelSoftmax Sparsemax Maxout"),
    Equivalent("GLU", "Linear(out) * (Sigmoid @ Linear(out))"),
    Equivalent("SwiGLU", "Linear(out) * (SiLU @ Linear(out))"),
    Equivalent("GeGLU ReGLU", "Linear(out) * (GELU @ Linear(out))"),
    # joins and shapes
    Equivalent(
        "cat Concatenate hstack column_stack",
        "Concat @ (a, b)",
        note="along the last axis, or `Concat(dim)`",
    ),
    Equivalent("vstack row_stack", "Concat(1) @ (a, b)", note="the batch is always the first axis"),
    Equivalent(
        "chunk split hsplit tensor_split unbind",
        "Split(2)",
        note="a tuple of so many equal pieces; `Slice(0, 1)` takes some entries",
    ),
    Equivalent("narrow select index_select", "Slice(0, 1)", note="from the start up to the end"),
    Equivalent("Multiply mul", "a * b", note="entry by entry"),
    Equivalent("Subtract sub", "a - b"),
    Equivalent("Average", "1/2 * (a + b)"),
    _missing("Maximum Minimum logical_and"),
    Equivalent(
        "Residual SkipConnection ShortCut",
        "residual(f, n)",
        "from std.nn import residual",
        "one of n branches, `(1 - 1/n) * Identity + 1/n * f`",
    ),
    Equivalent(
        "bmm mm baddbmm",
        "MatMul @ (a, Transpose @ b)",
        note="over the last two axes; a matrix that is learned is `Linear(out)`",
    ),
    _missing(
        "Dot einsum tensordot inner outer EinsumDense",
        "a matrix that is learned is `Linear(out)`, `MatMul` multiplies two values",
    ),
    Equivalent(
        "permute swapaxes movedim moveaxis rearrange transposed",
        "Transpose(1, 2)",
        note="two axes in each other's place; `Reshape` joins axes and cuts them",
    ),
    Equivalent(
        "view reshape Unflatten view_as",
        "Reshape(-1)",
        note="the sizes behind the batch, one may be -1",
    ),
    Equivalent("expand_dims", "Unsqueeze(1)", note="where the new axis stands"),
    _missing(
        "expand repeat tile RepeatVector broadcast_to contiguous",
        "`Add` and `Product` stretch axes of size 1 by themselves",
    ),
    Equivalent(
        "ChannelShuffle",
        "Reshape(3, 28, 28) @ Transpose(1, 2) @ Reshape(3, 1, 28, 28)",
        note="for 3 channels in 3 groups, of 28 × 28 pixels",
    ),
    _missing(
        "pad ZeroPad1d ZeroPad2d ZeroPad3d ZeroPadding2D ReflectionPad1d ReflectionPad2d"
        " ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d"
        " CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d Cropping2D roll",
        "`Conv1D` and `Conv2D` pad with zeros themselves",
    ),
    _missing("gather scatter take masked_fill tril triu cumsum sort argsort"),
    # pooling and images
    Equivalent("MaxPool2d MaxPool1d MaxPooling2D MaxPooling1D max_pool", "MaxPool(kernel)"),
    Equivalent(
        "AdaptiveAvgPool2d AdaptiveAvgPool1d",
        "AdaptiveAvgPool(size)",
        note="of an image to size × size pixels",
    ),
    Equivalent("AvgPool2d AvgPool1d AveragePooling2D AveragePooling1D avg_pool", "AvgPool(kernel)"),
    Equivalent("GlobalAveragePooling2D GlobalAvgPool2d", "Flatten @ AdaptiveAvgPool"),
    Equivalent("GlobalAveragePooling1D", "Mean(1)"),
    Equivalent("reduce_mean", "Mean(1)", note="the axis is an argument"),
    _missing(
        "MaxPool3d AvgPool3d AdaptiveAvgPool3d", "`MaxPool` and `AvgPool` take images and signals"
    ),
    _missing(
        "AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d GlobalMaxPooling2D"
        " GlobalMaxPooling1D FractionalMaxPool2d FractionalMaxPool3d MaxUnpool1d MaxUnpool2d"
        " MaxUnpool3d LPPool1d LPPool2d LPPool3d reduce_max"
    ),
    _missing("sum reduce_sum", "`Mean(dim)` differs by a factor"),
    Equivalent(
        "UpsamplingNearest2d UpSampling2D UpSampling1D interpolate",
        "Upsample(2)",
        note="the nearest pixel is repeated, as by `ConvTranspose2D` with taps of its own",
    ),
    _missing("UpsamplingBilinear2d PixelShuffle PixelUnshuffle Resizing"),
    _missing("Unfold Fold PatchEmbed im2col", "patches are a `Conv2D` with `stride = kernel`"),
    _missing("CosineSimilarity PairwiseDistance cdist"),
    # structure
    Equivalent(
        "Sequential ModuleList",
        "Linear(out) >> ReLU >> Linear(d)",
        note="modules in a row are joined by `>>`, copies of one by `** n`",
    ),
    Equivalent(
        "Lambda",
        "Square",
        "bond Square(x) = max(-1, min(x, 1)) ** 2 sensitivity 2",
        "a function of each entry is a `bond`",
    ),
    Equivalent("Activation", "ReLU", note="a nonlinearity stands by its own name"),
    _instead(
        "Module Model ModuleDict Container Functional",
        "a model is written `model NAME = …`, a part of it `def NAME = …`",
    ),
    _instead("Input InputLayer Placeholder", "write `input x: float[batch, 784]` as a statement"),
    _instead(
        "TimeDistributed vmap",
        "leave it out: operations work on the last axis, whatever stands before",
    ),
    _instead(
        "jit grad value_and_grad compile checkpoint remat",
        "leave it out: the generated file is ordinary PyTorch",
    ),
    _instead(
        "DataParallel DistributedDataParallel",
        "leave it out: the generated model is wrapped as any other",
    ),
    _instead(
        "freeze frozen requires_grad",
        "a weight of mass 0 does not learn, `Linear(out, mass = 0)`, nor a part, `tare(f, 0)`",
    ),
    _instead("detach stop_gradient no_grad", "a part of mass 0 does not learn: `tare(f, 0)`"),
    _instead(
        "CrossEntropyLoss NLLLoss MSELoss L1Loss SmoothL1Loss HuberLoss BCELoss BCEWithLogitsLoss"
        " KLDivLoss CTCLoss CrossEntropy MSE CategoricalCrossentropy SparseCategoricalCrossentropy"
        " MeanSquaredError softmax_cross_entropy binary_cross_entropy NLLLoss2d PoissonNLLLoss"
        " GaussianNLLLoss CosineEmbeddingLoss HingeEmbeddingLoss MarginRankingLoss SoftMarginLoss"
        " MultiMarginLoss MultiLabelMarginLoss MultiLabelSoftMarginLoss TripletMarginLoss"
        " TripletMarginWithDistanceLoss AdaptiveLogSoftmaxWithLoss LinearCrossEntropyLoss",
        "a loss is no part of a model: compute it from the model's output, as torch does",
    ),
    _instead(
        "Adam AdamW SGD RMSprop Muon Optimizer",
        "an optimizer is no part of a model: the generated file has `NormedAdam`, `NormedSGD` and"
        " `DualizedSGD`",
    ),
)
"""By kind, and in each from the usual to the rare."""


def _plain(name: str) -> str:
    """A name without what does not count."""
    return name.replace("_", "").lower()


@cache
def _rows() -> dict[str, Equivalent]:
    return {_plain(name): row for row in EQUIVALENTS for name in row.names.split()}


def equivalent(name: str) -> str:
    """What to write for a name of another library, or an empty string."""
    row = _rows().get(_plain(name))
    return row.hint(name) if row is not None else ""


def exact(name: str) -> str:
    """The same for a name with a prefix, which may be that of an operation, too."""
    op = next((op for op in registry.names() if op.lower() == _plain(name)), "")
    return equivalent(name) or (f"operations stand without a prefix: write `{op}`" if op else "")


def prefixed(name: str) -> str:
    """What to write for a name that stood behind one of `PREFIXES`, whatever it is."""
    return exact(name) or did_you_mean(name, registry.names()) or f"`{name}` {MISSING}"


# --- arguments ------------------------------------------------------------------------------

RENAMED: Mapping[str, tuple[str, ...]] = {
    name: tuple(here.split())
    for names, here in (
        ("in_features in_channels in_dim in_size input_size input_channels fan_in", "in"),
        ("input_dim", "in count"),
        ("out_features out_channels out_dim out_size units filters hidden_size", "out hidden"),
        ("features output_dim", "out dim"),
        ("output_size pool_size", "size"),
        ("name", "i"),
        ("kernel_size kernel_shape window_shape", "kernel size"),
        ("strides", "stride"),
        ("dilation_rate", "dilation"),
        ("scale_factor upsampling_factor", "factor"),
        ("feature_group_count num_groups", "groups"),
        ("elementwise_affine use_scale", "affine"),
        ("num_embeddings vocab_size num_classes", "count out"),
        ("embedding_dim embed_dim d_model", "dim d out"),
        ("num_heads n_heads nhead n_head", "heads"),
        ("is_causal", "causal"),
        ("attn_mask attention_mask key_padding_mask", "mask"),
        ("axis axes reduction_axes", "dim"),
        ("dim", "axis"),
        ("epsilon variance_epsilon layer_norm_eps", "eps"),
        ("theta rope_theta", "base"),
        ("partial_rotary_factor rotary_pct rotary_percentage", "fraction"),
        ("sliding_window window_size local_window_size", "window"),
        ("attn_logit_softcapping logit_softcap logits_soft_cap", "softcap"),
        ("rate drop_prob", "p"),
    )
    for name in names.split()
}
"""Arguments by their names elsewhere, with the names here, of which a call's own is taken."""

BIASES = ("bias", "use_bias", "with_bias")
GAIN = "a gain and a bias are operations of their own, `Bias @ Scale @ …`"
LEFT_OUT: Mapping[str, str] = {
    name: why
    for names, why in (
        ("dtype device param_dtype", "the generated model takes `dtype` and `device`"),
        ("inplace", "nothing is computed in place"),
        (
            "dropout dropout_p attn_dropout dropout_rate deterministic",
            "`Dropout(p)` is an operation",
        ),
        ("groups dilation output_padding", "only convolutions have it"),
        ("padding_mode", "zeros stand around an image"),
        ("mode align_corners interpolation", "the nearest pixel is repeated"),
        ("enable_gqa num_kv_heads", "keys and values may have fewer heads as they come"),
        ("padding_idx max_norm scale_grad_by_freq sparse mask_zero", "all rows are alike"),
        ("elementwise_affine affine use_scale", GAIN),
        ("momentum track_running_stats", "`BatchNorm` alone keeps statistics, always"),
        ("activation", "a nonlinearity is an operation of its own, `ReLU @ …`"),
        (
            "kernel_initializer bias_initializer embeddings_initializer kernel_init bias_init"
            " embedding_init w_init b_init initialization initializer",
            'a weight begins with norm 1, or as `init = "zero"` or `"normal"` says',
        ),
        ("kernel_regularizer bias_regularizer", "`weight_decay` is the optimizer's"),
        ("name", "a part is named by its `def`"),
        ("input_shape normalized_shape num_features num_channels", GIVEN),
        ("batch_first", "the batch is always the first axis"),
        ("num_layers", "copies of a module are `f ** n`"),
        ("bidirectional", "it goes forwards only"),
        ("return_sequences return_state", "all states come out, `Last` takes the last one"),
        ("rngs key rng", "the generated model takes a `generator`"),
        ("trainable", "a weight with `mass = 0` does not learn"),
        (
            "axis dim",
            "it works along the last axis, between two `Transpose` along the one before it",
        ),
    )
    for name in names.split()
}
"""Arguments that no operation here has, with the reason."""


def argument(
    called: str, name: str, given: Sequence[tuple[str | None, str]], known: Collection[str]
) -> str:
    """What to write for an argument of another library, or an empty string.

    `given` are all of the call's arguments as written, `known` the names that it may have.
    """
    call = _translated(called, given, known)
    if (here := _renamed(name, known)) is not None:
        why = f"it is `{here}` here"
    elif name in BIASES:
        value = next(text for other, text in given if other == name)
        why = "a bias is an operation of its own"
        if value.lower() == "false":
            why = "there is no bias to leave out"
    elif name in LEFT_OUT:
        why = f"leave it out, {LEFT_OUT[name]}"
    else:
        return ""
    return f"{why}: write `{call}`"


def _renamed(name: str, known: Collection[str]) -> str | None:
    return next((here for here in RENAMED.get(name, ()) if here in known), None)


def _translated(
    called: str, given: Sequence[tuple[str | None, str]], known: Collection[str]
) -> str:
    """The whole call as it is written here."""

    def arguments() -> Iterator[str]:
        for name, text in given:
            here = name if name is None or name in known else _renamed(name, known)
            if here is not None:
                yield f"{here} = {text}"
            elif name is None:
                yield text

    inside = ", ".join(arguments())
    call = f"{called}({inside})" if inside else called
    biased = any(name in BIASES and text.lower() != "false" for name, text in given)
    return f"Bias @ {call}" if biased and not set(BIASES) & set(known) else call
