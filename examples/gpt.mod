# A GPT over characters, of the size of modula's example.

from std.nn import ScaledGELU, Standardize

param vocab = 65
param context = 64
param d_embed = 128
param heads = 4
param blocks = 4
param blocks_mass = 10

input tokens: int[batch, seq] < vocab

def attention = Linear(d_embed) @ MergeHeads @ Attention(causal = true) / 3 @ (q, k, v)
  where
    q = SplitHeads(heads) @ Linear(d_embed)
    k = SplitHeads(heads) @ Linear(d_embed)
    v = SplitHeads(heads) @ Linear(d_embed)

def mlp = Linear(d_embed) @ ScaledGELU @ Linear(4 * d_embed)

# 2 * blocks residual branches, each of which moves the stream by a part s
def block = ((1 - s) * Identity + s * mlp @ Standardize)
          @ ((1 - s) * Identity + s * attention @ Standardize)
  where s = 1 / (2 * blocks)

model GPT = Linear(vocab) @ Standardize @ tare(block ** blocks, blocks_mass) @ embed
  where
    embed = tare(1/2 * token + 1/2 * position, 1)
    token = Embed(vocab, d_embed)
    position = Embed(context, d_embed) @ Enumerate
