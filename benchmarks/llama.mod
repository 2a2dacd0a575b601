# Llama in its usual form: RMS norms with a gain, rotary positions, grouped queries, SwiGLU.

param vocab = 65
param d_embed = 64
param heads = 4
param groups = 2
param hidden = 172
param blocks = 2
param base = 500000

input tokens: int[batch, seq] < vocab

def norm = RMSNorm
def attention = Linear(d_embed) @ MergeHeads @ Attention(true, scale = "1/sqrt(d)")
              @ (RoPE(base) @ q, RoPE(base) @ k, v)
  where
    q = SplitHeads(heads) @ Linear(d_embed)
    k = SplitHeads(groups) @ Linear(d_embed * groups / heads)
    v = SplitHeads(groups) @ Linear(d_embed * groups / heads)
def mlp = Linear(d_embed) @ (SiLU @ Linear(hidden) * Linear(hidden))
def block = (Identity + mlp @ norm) @ (Identity + attention @ norm)

model Llama = Linear(vocab) @ norm @ block ** blocks @ Embed(vocab, d_embed)
