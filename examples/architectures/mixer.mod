# MLP-Mixer: an MLP over patches, then one over channels.
param classes = 10
param patches = 16
param d = 64
param blocks = 2

input pixels: float[batch, patches, 48]

def linear(n) = Bias @ Linear(n)
def mlp(n, hidden) = linear(n) @ GELU @ linear(hidden)
def block = (Identity + mlp(d, 4 * d) @ LayerNorm)
          @ (Identity + Transpose @ mlp(patches, 4 * patches) @ Transpose @ LayerNorm)

model Mixer = linear(classes) @ Mean(1) @ LayerNorm @ block ** blocks @ linear(d)
