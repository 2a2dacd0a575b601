# ConvNeXt: depthwise 7 x 7 convolutions, layer norm over channels, an inverted bottleneck with a
# gain for each channel, and stochastic depth.
param classes = 10
param width = 16
param blocks = 2
param drop = 0.1

input images: float[batch, 3, 32, 32]

def norm = LayerNorm(1, eps = 1e-6)
def pointwise(c) = Bias @ Conv2D(c, kernel = 1, padding = 0)
def block(c) = Identity + DropPath(drop) @ Scale @ mlp @ norm @ depthwise
  where
    depthwise = Bias @ Conv2D(c, kernel = 7, padding = 3, groups = c)
    mlp = pointwise(c) @ GELU @ pointwise(4 * c)
def shrink(c) = Bias @ Conv2D(c, kernel = 2, stride = 2, padding = 0) @ norm
def stem = norm @ Bias @ Conv2D(width, kernel = 4, stride = 4, padding = 0)

model ConvNeXt = Bias @ Linear(classes) @ LayerNorm(eps = 1e-6) @ Mean((2, 3))
               @ block(2 * width) ** blocks @ shrink(2 * width) @ block(width) ** blocks @ stem
