# Qwen3: Llama with heads of a size of their own, and queries and keys normed head by head, with one
# gain for all heads.
param vocab = 65
param d = 64
param heads = 4
param groups = 2
param head_dim = 32
param hidden = 172
param blocks = 2

input tokens: int[batch, seq] < vocab

def norm = RMSNorm(eps = 1e-6)
def attention = Linear(d) @ MergeHeads @ Attention(true, scale = "1/sqrt(d)")
              @ (RoPE(1000000) @ norm @ q, RoPE(1000000) @ norm @ k, v)
  where
    q = SplitHeads(heads) @ Linear(heads * head_dim)
    k = SplitHeads(groups) @ Linear(groups * head_dim)
    v = SplitHeads(groups) @ Linear(groups * head_dim)
def mlp = Linear(d) @ (SiLU @ Linear(hidden) * Linear(hidden))
def block = (Identity + mlp @ norm) @ (Identity + attention @ norm)

model Qwen3 = Linear(vocab) @ norm @ block ** blocks @ Embed(vocab, d)
