# Diffusion transformer: blocks whose norms are shifted, scaled and gated by a condition, which is
# made of a time and a class; what modulates begins at zero (adaLN-Zero).
param d = 64
param heads = 4
param blocks = 2
param patches = 16
param channels = 16
param classes = 10

input x: float[batch, patches, channels]
input time: float[batch, 32]
input label: int[batch] < classes

def linear(n) = Bias @ Linear(n)
def norm = LayerNorm(eps = 1e-6, affine = false)

shared condition = Unsqueeze(1) @ SiLU @ (linear(d) @ SiLU @ linear(d) @ time + Embed(classes, d) @ label)

def zero(n) = Bias @ Linear(n, init = "zero")
def modulated = norm * (1 + zero(d) @ condition) + zero(d) @ condition
def gated(f) = Identity + (zero(d) @ condition) * (f @ modulated)

def attention = linear(d) @ MergeHeads @ Attention(scale = "1/sqrt(d)") @ (q, k, v)
  where
    q = SplitHeads(heads) @ linear(d)
    k = SplitHeads(heads) @ linear(d)
    v = SplitHeads(heads) @ linear(d)
def mlp = linear(d) @ GELU @ linear(4 * d)
def block = gated(mlp) @ gated(attention)

model DiT = (noise = zero(channels), variance = zero(channels)) @ modulated @ block ** blocks @ embed @ x
  where embed = linear(d) + Parameter(patches, d)
