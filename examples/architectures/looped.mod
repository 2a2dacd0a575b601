# Looped transformer: one block, four times.
param vocab = 65
param d = 64
param heads = 4
param loops = 4

input tokens: int[batch, seq] < vocab

def attention = Linear(d) @ MergeHeads @ Attention(true, scale = "1/sqrt(d)") @ (RoPE @ q, RoPE @ k, v)
  where
    q = SplitHeads(heads) @ Linear(d)
    k = SplitHeads(heads) @ Linear(d)
    v = SplitHeads(heads) @ Linear(d)
def mlp = Linear(d) @ GELU @ Linear(4 * d)
shared block = (Identity + mlp @ RMSNorm) @ (Identity + attention @ RMSNorm)

model Looped = Linear(vocab) @ RMSNorm @ block ** loops @ Embed(vocab, d)
