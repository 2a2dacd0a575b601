# Mixtral: Llama whose MLP is a mixture of experts, of which each token has two.
param vocab = 65
param d = 64
param heads = 4
param groups = 2
param hidden = 96
param experts = 4
param top = 2
param blocks = 2

input tokens: int[batch, seq] < vocab

def attention = Linear(d) @ MergeHeads @ Attention(true, scale = "1/sqrt(d)")
              @ (RoPE(1000000) @ q, RoPE(1000000) @ k, v)
  where
    q = SplitHeads(heads) @ Linear(d)
    k = SplitHeads(groups) @ Linear(d * groups / heads)
    v = SplitHeads(groups) @ Linear(d * groups / heads)
def expert = Linear(d) @ (SiLU @ Linear(hidden) * Linear(hidden))
def mixture = Experts(expert, experts, top) @ (Identity, Linear(experts))
def block = (Identity + mixture @ RMSNorm) @ (Identity + attention @ RMSNorm)

model Mixtral = Linear(vocab) @ RMSNorm @ block ** blocks @ Embed(vocab, d)
