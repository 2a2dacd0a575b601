# Gemma 2: norms before and behind every branch, capped logits, and a window of tokens in every
# second block. Gains are the published ones plus 1, which Gemma adds in its forward pass.
param vocab = 65
param d = 64
param heads = 4
param groups = 2
param hidden = 128
param pairs = 1
param window = 6

input tokens: int[batch, seq] < vocab

def norm = RMSNorm(eps = 1e-6)
def mlp = Linear(d) @ (GELU @ Linear(hidden) * Linear(hidden))
def attention(look) = Linear(d) @ MergeHeads @ look @ (RoPE @ q, RoPE @ k, v)
  where
    q = SplitHeads(heads) @ Linear(d)
    k = SplitHeads(groups) @ Linear(d * groups / heads)
    v = SplitHeads(groups) @ Linear(d * groups / heads)
def block(look) = (Identity + norm @ mlp @ norm) @ (Identity + norm @ attention(look) @ norm)
def near = Attention(true, scale = "1/sqrt(d)", window = window, softcap = 50)
def far = Attention(true, scale = "1/sqrt(d)", softcap = 50)

model Gemma2 = Softcap(30) @ Linear(vocab) @ norm @ (block(far) @ block(near)) ** pairs @ embed
  where embed = sqrt(d) * Embed(vocab, d)
