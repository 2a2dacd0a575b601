# Transformers over values (batch, seq, d). Attention divides its logits by the head size d, not by
# its root, and queries, keys and values by 3, so that together they have sensitivity 1.

from std.nn import ScaledGELU, Standardize, residual

def attention(d, heads, causal = true) =
    Linear(d) @ MergeHeads @ Attention(causal) / 3 @ (q, k, v)
  where
    q = SplitHeads(heads) @ Linear(d)
    k = SplitHeads(heads) @ Linear(d)
    v = SplitHeads(heads) @ Linear(d)

# The same with rotary position embedding on queries and keys.
def rotary(d, heads, causal = true, base = 10000) =
    Linear(d) @ MergeHeads @ Attention(causal) / 3 @ (RoPE(base) @ q, RoPE(base) @ k, v)
  where
    q = SplitHeads(heads) @ Linear(d)
    k = SplitHeads(heads) @ Linear(d)
    v = SplitHeads(heads) @ Linear(d)

def mlp(d, expansion = 4) = Linear(d) @ ScaledGELU @ Linear(expansion * d)

# Block number … of `blocks`: attention and an MLP, each a residual branch behind a layer norm.
def block(d, heads, blocks, expansion = 4, causal = true) =
    residual(mlp(d, expansion) @ Standardize, 2 * blocks)
  @ residual(attention(d, heads, causal) @ Standardize, 2 * blocks)

# Token and position embedding, of mass 1 together.
def embedding(vocab, context, d) = tare(1/2 * token + 1/2 * position, 1)
  where
    token = Embed(vocab, d)
    position = Embed(context, d) @ Enumerate
