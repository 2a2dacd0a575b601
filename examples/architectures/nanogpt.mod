# GPT-2 as in nanoGPT: learned positions, biases, pre-norm residuals, one table for tokens and scores.
param vocab = 65
param context = 32
param d = 64
param heads = 4
param blocks = 2

input tokens: int[batch, seq] < vocab

shared wte = Embed(vocab, d)

def linear(n) = Bias @ Linear(n)
def attention = c_proj @ MergeHeads @ Attention(true, scale = "1/sqrt(d)") @ (q, k, v)
  where
    q = SplitHeads(heads) @ linear(d)
    k = SplitHeads(heads) @ linear(d)
    v = SplitHeads(heads) @ linear(d)
    c_proj = linear(d)
def mlp = linear(d) @ GELU @ linear(4 * d)
def block = (Identity + mlp @ LayerNorm) @ (Identity + attention @ LayerNorm)

model GPT = d * Unembed(wte) @ LayerNorm @ block ** blocks @ (wte + wpe)
  where wpe = Embed(context, d) @ Enumerate
