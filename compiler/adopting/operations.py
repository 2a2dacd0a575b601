"""What operations of torch do with the values that they take, by their names there.

An operation in place has the name of the other. What reads weights is declared in `uses`.
"""

from __future__ import annotations

PARTS = frozenset(
    "split split_with_sizes chunk unsafe_chunk unsafe_split tensor_split unbind index"
    " index_select".split()
)
"""Operations that take some tokens out of a value, if not some of its features."""
JOINS = frozenset("cat concat concatenate".split())
MOVES = (
    PARTS
    | JOINS
    | frozenset(
        "view reshape _unsafe_view view_as reshape_as transpose permute t movedim swapaxes swapdims"
        " numpy_T matrix_H mH mT slice select narrow unsqueeze squeeze expand expand_as flatten"
        " unflatten repeat tile repeat_interleave stack hstack vstack gather roll flip pad"
        " constant_pad_nd ravel broadcast_to rot90 pixel_shuffle pixel_unshuffle".split()
    )
)
"""Operations whose output's entries are entries of their inputs."""
DROPOUTS = frozenset("dropout feature_dropout alpha_dropout native_dropout".split())
KEEPS = DROPOUTS | frozenset(
    "to _to_copy contiguous clone alias detach lift_fresh neg positive masked_fill type_as"
    " nan_to_num".split()
)
"""Operations whose output has an entry for each entry of their first input, in its place."""
MEETS = frozenset(
    "add sub mul div true_divide rsub where multiply subtract divide"
    " add_relu lerp addcmul maximum minimum clamp".split()
)
"""Operations between values that are broadcast to each other."""
FRESH = frozenset(
    "new_zeros new_ones new_full new_empty new_empty_strided zeros_like ones_like full_like"
    " empty_like rand_like randn_like randint_like".split()
)
"""Operations that take the shape or type of a value, and none of its entries."""
NORMALIZES = frozenset(
    "layer_norm rms_norm group_norm batch_norm instance_norm native_layer_norm native_group_norm"
    " cudnn_batch_norm".split()
)
PRODUCTS = frozenset("matmul bmm baddbmm einsum".split())
"""Products of two values, as an attention that is written out has."""
SUMS = PRODUCTS | frozenset(
    "linear mm addmm tensordot mv inner dot conv1d conv2d conv3d conv_transpose1d conv_transpose2d"
    " conv_transpose3d _grouped_mm scaled_dot_product_attention".split()
)
"""Operations that sum over products, which are no part of a function written out."""
SOFTMAXES = frozenset("softmax _softmax".split())
POOLS = frozenset(
    "mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d max_pool1d"
    " max_pool2d max_pool3d upsample_nearest2d upsample_bilinear2d".split()
)
"""Operations that keep the size of a stream, which a norm may read behind them."""
ONES = (POOLS | SOFTMAXES) | frozenset(
    "max_pool2d_with_indices adaptive_max_pool2d log_softmax topk sort max amax"
    " write copy index_put index_add scatter scatter_add scatter_reduce masked_scatter"
    " select_scatter slice_scatter embedding embedding_bag where lstm gru rnn_tanh rnn_relu"
    " lstm_cell gru_cell prelu unfold im2col fold rsub add sub".split()
)
"""Operations of which 1 is declared, in each of their inputs."""
LOSSES = frozenset(
    "cross_entropy_loss nll_loss nll_loss_nd nll_loss2d mse_loss l1_loss smooth_l1_loss huber_loss"
    " binary_cross_entropy binary_cross_entropy_with_logits kl_div ctc_loss".split()
)
