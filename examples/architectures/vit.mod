# Vision Transformer: patches by a convolution, a class token in front, read at the end.
param classes = 10
param d = 64
param heads = 4
param blocks = 2
param size = 32
param patch = 8

input images: float[batch, 3, size, size]

def norm = LayerNorm(eps = 1e-6)
def linear(n) = Bias @ Linear(n)
def attention = linear(d) @ MergeHeads @ Attention(scale = "1/sqrt(d)") @ (q, k, v)
  where
    q = SplitHeads(heads) @ linear(d)
    k = SplitHeads(heads) @ linear(d)
    v = SplitHeads(heads) @ linear(d)
def mlp = linear(d) @ GELU @ linear(4 * d)
def block = (Identity + mlp @ norm) @ (Identity + attention @ norm)
def patches = Transpose @ Flatten(2) @ Bias @ Conv2D(d, kernel = patch, stride = patch, padding = 0)
def tokens = Concat(1) @ (Parameter(1, d), patches)

model ViT = linear(classes) @ Squeeze(1) @ Slice(0, 1, dim = 1) @ norm @ block ** blocks
          @ (Identity + Parameter((size / patch) ** 2 + 1, d)) @ tokens
