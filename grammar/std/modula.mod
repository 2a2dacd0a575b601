# The architectures of the package modula (0.0.0.0.0.2, the PyTorch release), exactly, to compare
# with: its functions, masses and order of weights. It needs more than one block, as modula does.

from std.nn import ScaledGELU, Standardize as LayerNorm, residual

def ResMLP(width, num_blocks, block_depth, input_dim, output_dim) = final @ blocks @ initial
  where
    initial = Linear(width, input_dim) @ Flatten
    residue = MeanSubtract @ Abs @ Linear(width, width) @ RMSDivide
    blocks = tare(residual(residue ** block_depth, num_blocks) ** num_blocks, 1)
    final = Linear(output_dim, width)

def ResCNN(width, num_blocks, block_depth, input_dim, output_dim, blocks_mass = 20) =
    final @ blocks @ initial
  where
    initial = Conv2D(width, input_dim)
    residue = MeanSubtract((1, 2, 3)) @ Abs @ Conv2D(width, width) @ RMSDivide((1, 2, 3))
    blocks = tare(residual(residue ** block_depth, num_blocks) ** num_blocks, blocks_mass)
    final = Linear(output_dim, width) @ Flatten @ AdaptiveAvgPool

def Attention3(num_heads, d_embed, d_query, d_value, causal) =
    Linear(d_embed, d_value * num_heads) @ MergeHeads @ Attention(causal) * 1/3 @ (q, k, v)
  where
    q = SplitHeads(num_heads) @ Linear(num_heads * d_query, d_embed)
    k = SplitHeads(num_heads) @ Linear(num_heads * d_query, d_embed)
    v = SplitHeads(num_heads) @ Linear(num_heads * d_value, d_embed)

def GPT(vocab_size, context, num_heads, d_embed, d_query, d_value, num_blocks, blocks_mass = 5) =
    final @ blocks @ initial
  where
    token = Embed(vocab_size, d_embed)
    position = Embed(context, d_embed) @ Enumerate
    initial = tare(1/2 * token + 1/2 * position, 1)
    attention = Attention3(num_heads, d_embed, d_query, d_value, true) @ LayerNorm
    mlp = Linear(d_embed, 4 * d_embed) @ ScaledGELU @ Linear(4 * d_embed, d_embed) @ LayerNorm
    attention_block = residual(attention, 2 * num_blocks)
    mlp_block = residual(mlp, 2 * num_blocks)
    blocks = tare((mlp_block @ attention_block) ** num_blocks, blocks_mass)
    final = Linear(vocab_size, d_embed) @ LayerNorm
