# A GPT whose targets are proved.

from std.nn import residual

param vocab = 65
param context = 64
param d_embed = 128
param heads = 4
param blocks = 4
param blocks_mass = 5

input tokens: int[batch, seq] < vocab

def attention = Linear(d_embed) @ MergeHeads @ (1/3 * Attention(causal = true)) @ (q, k, v)
  where
    q = HeadedLinear(d_embed, heads)
    k = HeadedLinear(d_embed, heads)
    v = HeadedLinear(d_embed, heads)

def mlp = Linear(d_embed) @ (sqrt(2) * GELU) @ Linear(4 * d_embed)

def block = residual(mlp, 2 * blocks) @ residual(attention, 2 * blocks)

model GPT = Linear(vocab) @ tare(block ** blocks, blocks_mass) @ embed
  where
    embed = tare(1/2 * token + 1/2 * position, 1)
    token = Embed(vocab, d_embed)
    position = Embed(context, d_embed) @ Enumerate
