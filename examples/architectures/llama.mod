# Llama 3: RMS norms with a gain, rotary positions, grouped queries, SwiGLU.
param vocab = 65
param d = 64
param heads = 4
param groups = 2
param hidden = 172
param blocks = 2

input tokens: int[batch, seq] < vocab

def attention = Linear(d) @ MergeHeads @ Attention(true, scale = "1/sqrt(d)")
              @ (RoPE(500000) @ q, RoPE(500000) @ k, v)
  where
    q = SplitHeads(heads) @ Linear(d)
    k = SplitHeads(groups) @ Linear(d * groups / heads)
    v = SplitHeads(groups) @ Linear(d * groups / heads)
def mlp = Linear(d) @ (SiLU @ Linear(hidden) * Linear(hidden))
def block = (Identity + mlp @ RMSNorm) @ (Identity + attention @ RMSNorm)

model Llama = Linear(vocab) @ RMSNorm @ block ** blocks @ Embed(vocab, d)
