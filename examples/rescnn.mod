# A residual convolutional network over images, as in modula.

from std.nn import residual

param width = 32
param blocks = 3
param block_depth = 2
param blocks_mass = 20
param classes = 10
param channels = 1
param size = 28

input images: float[batch, channels, size, size]

def layer = MeanSubtract((1, 2, 3)) @ Abs @ Conv2D(width) @ RMSDivide((1, 2, 3))
def branch = layer ** block_depth
def block = branch if blocks == 1 else residual(branch, blocks)

model ResCNN = Linear(classes) @ Flatten @ AdaptiveAvgPool @ tare(block ** blocks, blocks_mass) @ Conv2D(width)
