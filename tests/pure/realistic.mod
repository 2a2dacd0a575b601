import std.transformer
param d_embed = 128  param heads = 4
param blocks = 4
param vocab = 65
param context = 64
input tokens: int[batch, seq] < vocab
def norm = RMSDivide @ MeanSubtract
def residual(f, n) = (1 - 1/n) * Identity + 1/n * f
def split(d) = Linear(d) >> SplitHeads(heads)
def attention(d) = Linear(d) @ MergeHeads @ 1/3 * Attention(causal = true) @ (q, k, v) @ norm
  where q = split(d)  k = split(d)
        v = split(d)
def mlp(d, expansion = 4) = Linear(d) @ (sqrt(2) * GELU) @ Linear(expansion * d) @ norm
def block(d) = residual(mlp(d), 2 * blocks) @ residual(attention(d), 2 * blocks)
shared embed = Embed(vocab, d_embed)
bond Softcap(x, cap = 15) = cap * tanh(x / cap) sensitivity 1
model GPT = Softcap @ Linear(vocab) @ norm @ body @ tare(1/2 * embed + 1/2 * position, 1)
  where position = Embed(context, d_embed) @ Enumerate
        body = tare(block(d_embed) ** blocks, 5)
