# U-Net: down by max pooling, up by nearest neighbours, skips by concatenation.
param width = 16

input images: float[batch, 3, 32, 32]

def twice(c) = once(c) @ once(c)
  where once(c) = ReLU @ GroupNorm(8) @ Conv2D(c)
def level(c, inner) = twice(c) @ Concat(1) @ (Identity, Upsample(2) @ inner @ MaxPool(2)) @ twice(c)

model UNet = Bias @ Conv2D(1, kernel = 1, padding = 0)
           @ level(width, level(2 * width, twice(4 * width)))
