# examples/gpt.mod with choices: maps of their own for the heads of q, k and v, the norm of the
# readout, the mass of the tables; and the context as a size that can be varied.

from std.nn import ScaledGELU, Standardize

param vocab = 65
param context = 64
param d_embed = 128
param heads = 4
param blocks = 4
param blocks_mass = 5
param embed_mass = 1
param per_head = false
param readout = "spectral"

input tokens: int[batch, context] < vocab

def headed = HeadedLinear(d_embed, heads) if per_head else SplitHeads(heads) @ Linear(d_embed)

def attention = Linear(d_embed) @ MergeHeads @ Attention(causal = true) / 3 @ (q, k, v)
  where
    q = headed
    k = headed
    v = headed

def mlp = Linear(d_embed) @ ScaledGELU @ Linear(4 * d_embed)

def block = ((1 - s) * Identity + s * mlp @ Standardize)
          @ ((1 - s) * Identity + s * attention @ Standardize)
  where s = 1 / (2 * blocks)

model GPT = Linear(vocab, norm = readout) @ Standardize @ tare(block ** blocks, blocks_mass) @ embed
  where
    embed = tare(1/2 * token + 1/2 * position, embed_mass)
    token = Embed(vocab, d_embed)
    position = Embed(context, d_embed) @ Enumerate
